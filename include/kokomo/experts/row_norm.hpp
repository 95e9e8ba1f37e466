// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_ROW_NORM_HPP
#define KOKOMO_EXPERTS_ROW_NORM_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// y = u (mean(u^2) + epsilon)^(-1/2), u = raw (offset + weight): scaled first, then normalised.
template <class T, class Exec> struct ScaleThenNorm {
  using C = compute_t<T>;
  GroupedRows rows;
  C* out; // in: raw rows, out: normalised ones
  C* raw; // keeps them
  C const* weight;
  C offset, epsilon;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    C sum = 0;
    for (offset_t h = 0; h < width; ++h) {
      C const value = out[row * width + h];
      C const u = value * (offset + weight[h]);
      raw[row * width + h] = value;
      sum += u * u;
    }
    C const inverse = C(1) / Kokkos::sqrt(sum / C(width) + epsilon);
    for (offset_t h = 0; h < width; ++h) out[row * width + h] *= (offset + weight[h]) * inverse;
  }
};

/// d_raw of each row (the row's weight s included), du for the weight's gradient, and d_weight = <d_out, y>.
template <class T, class Exec> struct ScaleThenNormBackward {
  using C = compute_t<T>;
  GroupedRows rows;
  C const* raw;
  C const* gain;
  C offset, epsilon;
  offset_t width;
  RowSource<C, C> d_out;
  C const* row_weight;
  C* d_raw;
  C* d_gain; // [rows, width] share of each row
  C* d_weight;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    C sum = 0, along = 0;
    for (offset_t h = 0; h < width; ++h) {
      C const u = raw[row * width + h] * (offset + gain[h]);
      sum += u * u;
      along += d_out(row, h) * u;
    }
    C const inverse = C(1) / Kokkos::sqrt(sum / C(width) + epsilon);
    C const s = row_weight != nullptr ? row_weight[row] : C(1);
    for (offset_t h = 0; h < width; ++h) {
      C const value = raw[row * width + h];
      C const u = value * (offset + gain[h]);
      C const du = s * inverse * (d_out(row, h) - u * along * inverse * inverse / C(width));
      d_raw[row * width + h] = du * (offset + gain[h]);
      d_gain[row * width + h] = du * value;
    }
    if (d_weight != nullptr) d_weight[row] = along * inverse;
  }
};

/// One column of the gradient of a vector that all rows share.
template <class T> struct SumRows {
  using C = compute_t<T>;
  GroupedRows rows;
  C const* values; // [rows, width]
  offset_t width;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t h) const {
    C sum = 0;
    for (offset_t row = rows.begin(0); row < rows.end(rows.groups - 1); ++row) sum += values[row * width + h];
    grad[h] = write == Write::add ? grad[h] + sum : sum;
  }
};

} // namespace detail

/// An RMS norm on each expert's output row, before its weight: y <- u (mean(u^2) + epsilon)^(-1/2) with
/// u = y (offset + weight), scale first. One `weight` [width] for all experts. Keeps the raw rows for backward.
/// Source: transformers muse_spark (`post_expert_norm`, offset 1).
template <class InnerT> struct RowNorm {
  using Inner = InnerT;

  Inner inner{};
  float epsilon = 1e-8f; ///< >= 0
  float offset = 0;      ///< added to the weight

  template <class T, class Exec> struct Parameters {
    parameters_t<Inner, T, Exec> inner;
    OwnedVector<compute_t<T>, Exec> norm; ///< [width]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, RowNorm const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(allocate, policy.inner, sizes)) {
      allocate(norm, "kokomo::RowNorm::norm", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      inner.for_each(f, prefix);
      f(Name{prefix, "norm"}, norm);
    }
  };
  template <class T, class Exec> struct Saved {
    saved_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> raw; ///< [rows, width]

    Saved(detail::Arena& arena, RowNorm const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          raw(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)) {}
  };
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Inner, T, Exec>>;
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> d_raw, d_gain; ///< [rows, width]

    BackwardScratch(detail::Arena& arena, RowNorm const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          d_raw(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)),
          d_gain(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(epsilon >= 0, 106, "RowNorm epsilon = ", epsilon, ", expected >= 0");
    detail::check_settings(inner, sizes);
  }
  index_t routed(index_t weighted) const { return inner.routed(weighted); }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    inner.template forward<T>(exec, parameters.inner, in, out, saved.inner, scratch);
    detail::for_each(exec, "kokomo::RowNorm::forward", in.rows.rows,
                     detail::ScaleThenNorm<T, Exec>{in.rows, out.data(), saved.raw.data(), parameters.norm.data(),
                                                    compute_t<T>(offset), compute_t<T>(epsilon),
                                                    offset_t(out.extent(1))});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = offset_t(d.dx.extent(1));
    detail::for_each(exec, "kokomo::RowNorm::backward", in.rows.rows,
                     detail::ScaleThenNormBackward<T, Exec>{in.rows, saved.raw.data(), parameters.norm.data(),
                                                            C(offset), C(epsilon), width, d.d_out, d.weight,
                                                            scratch.d_raw.data(), scratch.d_gain.data(), d.d_weight});
    detail::for_each(exec, "kokomo::RowNorm::norm_gradient", width,
                     detail::SumRows<T>{in.rows, scratch.d_gain.data(), width, grads.norm.data(), write});
    ExpertRowGradients<T, Exec> inner_d{{scratch.d_raw.data(), width}, nullptr, d.dx, nullptr};
    inner.template backward<T>(exec, parameters.inner, in, inner_d, grads.inner, write, saved.inner, scratch.inner);
  }
};

} // namespace kokomo::inline v0

#endif
