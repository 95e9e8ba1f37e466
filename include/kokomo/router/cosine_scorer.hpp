// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_COSINE_SCORER_HPP
#define KOKOMO_ROUTER_COSINE_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// inverse[r] = (sum of row r squared + epsilon)^(-1/2)
template <class X, class C> struct InverseNorms {
  X const* data;
  offset_t width;
  C epsilon;
  C* inverse;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    C sum = 0;
    for (offset_t h = 0; h < width; ++h) {
      C const value = static_cast<C>(data[row * width + h]);
      sum += value * value;
    }
    inverse[row] = C(1) / Kokkos::sqrt(sum + epsilon);
  }
};

/// Inner products to cosines and logits.
template <class C> struct ToCosines {
  index_t columns;
  C const *token_inverse, *expert_inverse, *learned;
  C scale;
  C *cosines, *logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C const cosine = logits[i] * token_inverse[i / columns] * expert_inverse[i % columns];
    cosines[i] = cosine;
    logits[i] = (learned != nullptr ? learned[0] * scale : scale) * cosine;
  }
};

/// One token's part of what goes through the norms: along = sum of dcos cos; d_logits become gradients of the inner
/// products.
template <class C> struct TokenCosinesBackward {
  index_t columns;
  C const *token_inverse, *expert_inverse, *learned;
  C scale;
  C const* cosines;
  C* d_logits;
  C* along; // [tokens] sum over experts of dz cos

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const factor = learned != nullptr ? learned[0] * scale : scale;
    C sum = 0;
    for (index_t e = 0; e < columns; ++e) {
      offset_t const i = token * columns + e;
      sum += d_logits[i] * cosines[i];
      d_logits[i] *= factor * token_inverse[token] * expert_inverse[e];
    }
    along[token] = sum;
  }
};

template <class C> struct ExpertAlong {
  index_t columns;
  offset_t tokens;
  C const *cosines, *d_logits;
  C* along; // [experts] sum over tokens of dz cos

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    C sum = 0;
    for (offset_t token = 0; token < tokens; ++token)
      sum += d_logits[token * columns + e] * cosines[token * columns + e];
    along[e] = sum;
  }
};

/// d -= factor along inverse^2 v for each row v: what a normalised row does not pass on.
template <class X, class C> struct LeaveOutAlong {
  X const* data;
  offset_t width;
  C const *along, *inverse, *learned;
  C scale;
  C* d;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const row = i / width;
    C const factor = learned != nullptr ? learned[0] * scale : scale;
    d[i] -= factor * along[row] * inverse[row] * inverse[row] * static_cast<C>(data[i]);
  }
};

template <class C> struct SumAlong {
  C const* along;
  index_t count;
  C scale;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = 0;
    for (index_t e = 0; e < count; ++e) sum += along[e];
    grad[0] = write == Write::add ? grad[0] + scale * sum : scale * sum;
  }
};

} // namespace detail

/// Logits are cosines between the router's input and an embedding of each expert, times a scale:
///
///     z_e = s <x, w_e> / (|x| |w_e|),   |v| = sqrt(sum v^2 + epsilon),   s = scale, or scale times a learned number
///
/// so that neither the size of an activation nor that of an embedding favours an expert. 1 / s is the temperature.
/// Parameters: `weight` [columns, router width], `scale` [1] if `.learned_scale`; zero is no useful start for either.
/// Source: the normalisation of Soft MoE's router, google-research/vmoe.
/// \throws kokomo::Error 106 unless epsilon > 0
struct CosineScorer {
  float scale = 1;
  bool learned_scale = false;
  float epsilon = 1e-6f; ///< > 0: an input of zeros has the logits 0

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<compute_t<T>, Exec> weight;
    OwnedVector<compute_t<T>, Exec> scale;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, CosineScorer const& policy, Sizes const& sizes) {
      allocate(weight, "kokomo::CosineScorer::weight", sizes.columns, sizes.router_width);
      if (policy.learned_scale) allocate(scale, "kokomo::CosineScorer::scale", 1);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "weight"}, weight);
      if (scale.extent(0) > 0) f(Name{prefix, "scale"}, scale);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> cosines;        ///< [tokens, columns]
    Vector<compute_t<T>, Exec> token_inverse;  ///< [tokens] 1 / |x|
    Vector<compute_t<T>, Exec> expert_inverse; ///< [columns] 1 / |w|

    Saved(detail::Arena& arena, CosineScorer const&, Sizes const& sizes)
        : cosines(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.columns)),
          token_inverse(arena.vector<compute_t<T>, Exec>(sizes.tokens)),
          expert_inverse(arena.vector<compute_t<T>, Exec>(sizes.columns)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> token_along;  // [tokens]
    Vector<compute_t<T>, Exec> expert_along; // [columns]

    BackwardScratch(detail::Arena& arena, CosineScorer const&, Sizes const& sizes)
        : token_along(arena.vector<compute_t<T>, Exec>(sizes.tokens)),
          expert_along(arena.vector<compute_t<T>, Exec>(sizes.columns)) {}
  };

  void check(Sizes const&) const {
    detail::require(epsilon > 0, 106, "CosineScorer epsilon = ", epsilon, ", expected > 0");
  }

  /// \param[in] x [tokens, router width]
  /// \param[out] logits [tokens, columns]
  template <class T, class Exec, class X>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<X, Exec> const& x, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved, Nothing const&,
               detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    using Element = std::remove_const_t<X>;
    auto const rows = offset_t(x.extent(0)), width = offset_t(x.extent(1)), columns = offset_t(logits.extent(1));
    C const* const weight = parameters.weight.data();
    detail::for_each(exec, "kokomo::CosineScorer::norms", rows,
                     detail::InverseNorms<Element, C>{x.data(), width, C(epsilon), saved.token_inverse.data()});
    detail::for_each(exec, "kokomo::CosineScorer::norms", columns,
                     detail::InverseNorms<C, C>{weight, width, C(epsilon), saved.expert_inverse.data()});
    detail::linear(exec, "kokomo::CosineScorer::product", x.data(), rows, width, weight, static_cast<C const*>(nullptr),
                   columns, logits.data(), Write::overwrite, workers);
    detail::for_each(exec, "kokomo::CosineScorer::cosines", offset_t(logits.size()),
                     detail::ToCosines<C>{index_t(columns), saved.token_inverse.data(), saved.expert_inverse.data(),
                                          parameters.scale.data(), C(scale), saved.cosines.data(), logits.data()});
  }

  /// \param[in,out] d_logits [tokens, columns], used up
  /// \param[in,out] dx [tokens, router width], added to
  template <class T, class Exec, class X>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<X, Exec> const& x, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits,
                Matrix<compute_t<T>, Exec> const& dx, Nothing const&, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    using Element = std::remove_const_t<X>;
    auto const rows = offset_t(x.extent(0)), width = offset_t(x.extent(1)), columns = offset_t(d_logits.extent(1));
    C const* const weight = parameters.weight.data();
    C const* const learned = parameters.scale.data();
    detail::for_each(exec, "kokomo::CosineScorer::along", columns,
                     detail::ExpertAlong<C>{index_t(columns), rows, saved.cosines.data(), d_logits.data(),
                                            scratch.expert_along.data()});
    if (learned_scale)
      detail::for_each(
          exec, "kokomo::CosineScorer::scale_gradient", 1,
          detail::SumAlong<C>{scratch.expert_along.data(), index_t(columns), C(scale), grads.scale.data(), write});
    detail::for_each(exec, "kokomo::CosineScorer::cosines_backward", rows,
                     detail::TokenCosinesBackward<C>{
                         index_t(columns), saved.token_inverse.data(), saved.expert_inverse.data(), learned, C(scale),
                         saved.cosines.data(), d_logits.data(), scratch.token_along.data()});
    C const* const d = d_logits.data();
    detail::linear_weight_gradient(exec, "kokomo::CosineScorer::weight_gradient", d, rows, columns, x.data(), width,
                                   grads.weight.data(), write, workers);
    detail::for_each(exec, "kokomo::CosineScorer::weight_gradient", columns * width,
                     detail::LeaveOutAlong<C, C>{weight, width, scratch.expert_along.data(),
                                                 saved.expert_inverse.data(), learned, C(scale), grads.weight.data()});
    detail::linear_input_gradient(exec, "kokomo::CosineScorer::dx", d, rows, width, weight, columns, dx.data(),
                                  Write::add, workers);
    detail::for_each(exec, "kokomo::CosineScorer::dx", rows * width,
                     detail::LeaveOutAlong<Element, C>{x.data(), width, scratch.token_along.data(),
                                                       saved.token_inverse.data(), learned, C(scale), dx.data()});
  }
};

} // namespace kokomo::inline v0

#endif
