// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_NOISY_SCORER_HPP
#define KOKOMO_ROUTER_NOISY_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// How large the noise on a logit is.
enum class NoiseScale {
  learned, ///< softplus(x W_noise) + floor, by token and expert (Shazeer et al.)
  fixed    ///< deviation / E, the same everywhere (V-MoE)
};

namespace detail {

/// Where the three parts of a token's logits stand: noisy, clean, deviation; n columns each.
template <class C> struct NoisyColumns {
  C* z; // [tokens, 3 n]
  index_t n;

  KOKKOS_FUNCTION C& noisy(offset_t token, index_t e) const { return z[token * 3 * n + e]; }
  KOKKOS_FUNCTION C& clean(offset_t token, index_t e) const { return z[token * 3 * n + n + e]; }
  KOKKOS_FUNCTION C& deviation(offset_t token, index_t e) const { return z[token * 3 * n + 2 * n + e]; }
};

struct NoiseSettings {
  NoiseScale scale;
  double floor, fixed;
  bool noisy; // this call draws
  std::uint64_t seed, step;

  KOKKOS_FUNCTION double draw(offset_t token, index_t e) const { return noisy ? normal(seed, step, token, e) : 0.0; }
};

template <class C> struct AddNoise {
  NoisyColumns<C> columns; // deviation: x W_noise, if learned
  NoiseSettings settings;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const token = index / columns.n;
    auto const e = index_t(index % columns.n);
    C& deviation = columns.deviation(token, e);
    if (settings.scale == NoiseScale::learned)
      deviation =
          Kokkos::max(deviation, C(0)) + Kokkos::log1p(Kokkos::exp(-Kokkos::abs(deviation))) + C(settings.floor);
    else
      deviation = C(settings.fixed);
    C const clean = columns.clean(token, e);
    columns.noisy(token, e) = settings.noisy ? clean + C(settings.draw(token, e)) * deviation : clean;
  }
};

/// Gradients of noisy, clean and deviation to those of x W and x W_noise, in place of the last two.
template <class C> struct AddNoiseBackward {
  NoisyColumns<C const> columns;
  NoisyColumns<C> d;
  NoiseSettings settings;

  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const token = index / d.n;
    auto const e = index_t(index % d.n);
    C const d_noisy = d.noisy(token, e);
    d.clean(token, e) += d_noisy;
    if (settings.scale != NoiseScale::learned) return;
    // softplus(r) = s has the slope sigmoid(r) = 1 - exp(-s)
    C const slope = -Kokkos::expm1(C(settings.floor) - columns.deviation(token, e));
    d.deviation(token, e) = (d.deviation(token, e) + d_noisy * C(settings.draw(token, e))) * slope;
  }
};

} // namespace detail

/// Linear logits that training makes noisy:
///
///     clean = W x,   deviation = softplus(W_noise x) + floor  (learned),  or  fixed_deviation / E  (fixed)
///     noisy = clean + N(0, 1) deviation in training, clean in inference
///
/// Three times as many logit columns as experts: noisy, by which everything routes, then clean, then deviation, which the
/// load loss needs; its gradient may come back in any of them. Draws depend on (seed, step, token, expert) alone.
/// Parameters: `weight` [E, router width], and `noise` [E, router width] if learned. Both are zero in the paper's
/// initialisation. Source: Shazeer et al. 2017 (arXiv:1701.06538); V-MoE, google-research/vmoe.
/// \throws kokomo::Error 106 for a negative floor or deviation
struct NoisyScorer {
  NoiseScale scale = NoiseScale::learned;
  float floor = 1e-2f;       ///< least deviation of the learned form, >= 0
  float fixed_deviation = 1; ///< of the fixed form, divided by the number of experts; >= 0
  std::uint64_t seed = 0;

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<compute_t<T>, Exec> weight, noise;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, NoisyScorer const& policy, Sizes const& sizes) {
      allocate(weight, "kokomo::NoisyScorer::weight", sizes.experts, sizes.router_width);
      if (policy.scale == NoiseScale::learned)
        allocate(noise, "kokomo::NoisyScorer::noise", sizes.experts, sizes.router_width);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "weight"}, weight);
      if (noise.extent(0) > 0) f(Name{prefix, "noise"}, noise);
    }
  };
  template <class T, class Exec> struct Inputs : CallInfo {};

  index_t columns(Sizes const& sizes) const { return 3 * sizes.experts; }
  void check(Sizes const&) const {
    detail::require(floor >= 0 && fixed_deviation >= 0, 106, "NoisyScorer floor = ", floor,
                    ", fixed_deviation = ", fixed_deviation, ", expected >= 0");
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, 3 experts]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Nothing const&, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const n = index_t(logits.extent(1) / 3);
    auto const width = offset_t(x.extent(1));
    auto const project = [&](char const* label, OwnedMatrix<C, Exec> const& weight, index_t first) {
      detail::grouped_product(exec, label, rows(x), detail::RowSource<T, C>{x.data(), width}, width,
                              detail::WeightRef<C const>{weight.data(), n * width, width, 1},
                              detail::BiasRef<C const>{}, n, detail::RowTarget<C>{logits.data() + first, 3 * n},
                              Write::overwrite, workers);
    };
    project("kokomo::NoisyScorer::clean", parameters.weight, n);
    if (scale == NoiseScale::learned) project("kokomo::NoisyScorer::deviation", parameters.noise, 2 * n);
    detail::for_each(exec, "kokomo::NoisyScorer::noise", offset_t(logits.extent(0)) * n,
                     detail::AddNoise<C>{{logits.data(), n}, settings(inputs, n)});
  }

  /// \param[in,out] d_logits [tokens, 3 experts], used up
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const& logits,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const& dx, Nothing const&,
                Parameters<T, Exec> const& grads, Write write, Nothing const&, Nothing const&,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const n = index_t(logits.extent(1) / 3);
    auto const width = offset_t(x.extent(1));
    detail::for_each(exec, "kokomo::NoisyScorer::noise_backward", offset_t(logits.extent(0)) * n,
                     detail::AddNoiseBackward<C>{{logits.data(), n}, {d_logits.data(), n}, settings(inputs, n)});
    auto const project_back = [&](OwnedMatrix<C, Exec> const& weight, OwnedMatrix<C, Exec> const& grad, index_t first) {
      detail::RowSource<C, C> const d{d_logits.data() + first, 3 * n};
      detail::grouped_outer_product(exec, "kokomo::NoisyScorer::weight_gradient", rows(x), d, n,
                                    detail::RowSource<T, C>{x.data(), width}, width,
                                    detail::WeightRef<C>{grad.data(), n * width, width, 1}, write, workers);
      detail::grouped_product(exec, "kokomo::NoisyScorer::dx", rows(x), d, n,
                              detail::WeightRef<C const>{weight.data(), n * width, 1, width},
                              detail::BiasRef<C const>{}, width, detail::RowTarget<C>{dx.data(), width}, Write::add,
                              workers);
    };
    project_back(parameters.weight, grads.weight, n);
    if (scale == NoiseScale::learned) project_back(parameters.noise, grads.noise, 2 * n);
  }

private:
  template <class X> static detail::GroupedRows rows(X const& x) {
    return {nullptr, nullptr, 1, offset_t(x.extent(0))};
  }
  detail::NoiseSettings settings(CallInfo const& call, index_t n) const {
    return {scale, floor, double(fixed_deviation) / n, call.mode == Mode::training, seed, call.step};
  }
};

} // namespace kokomo::inline v0

#endif
