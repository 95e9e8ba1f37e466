// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_WITH_IDENTITY_HPP
#define KOKOMO_EXPERTS_WITH_IDENTITY_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The rows behind those of the experts with weights, as one range of rows.
template <class T, class Exec> struct TailRows {
  GroupedRows rows; // of the experts with weights
  offset_t const* all_end;
  offset_t width;

  KOKKOS_FUNCTION bool contains(offset_t row) const { return row >= rows.end(rows.groups - 1) && row < *all_end; }
};

template <class T, class Exec> struct CopyRows {
  using C = compute_t<T>;
  TailRows<T, Exec> tail;
  RowSource<T, C> x;
  C* out;
  C factor;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!tail.contains(row)) return;
    for (offset_t h = 0; h < tail.width; ++h) out[row * tail.width + h] = factor * x(row, h);
  }
};

/// The same rows, weighted and added to their tokens' sums. A worker owns columns of all of them, on a host.
template <class T, class Exec> struct AddRows {
  using C = compute_t<T>;
  TailRows<T, Exec> tail;
  RowSource<T, C> x;
  CombinedRows<C> out;
  int workers;

  void operator()(int worker) const {
    offset_t const first = tail.width * worker / workers, last = tail.width * (worker + 1) / workers;
    for (offset_t row = tail.rows.end(tail.rows.groups - 1); row < *tail.all_end; ++row) {
      C* const sum = out.data + offset_t(out.token_of_row[row]) * tail.width;
      C const weight = out.weight_of_row != nullptr ? out.weight_of_row[row] : C(1);
      for (offset_t h = first; h < last; ++h) sum[h] += weight * x(row, h);
    }
  }
};

template <class T, class Exec> struct CopyRowsBackward {
  using C = compute_t<T>;
  TailRows<T, Exec> tail;
  RowSource<T, C> x;
  RowSource<C, C> d_out;
  C const* weight;
  C* dx;
  C* d_weight;
  C factor;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!tail.contains(row)) return;
    C const s = (weight != nullptr ? weight[row] : C(1)) * factor;
    C along = 0;
    for (offset_t h = 0; h < tail.width; ++h) {
      C const g = d_out(row, h);
      dx[row * tail.width + h] = s * g;
      along += g * x(row, h);
    }
    if (d_weight != nullptr) d_weight[row] = factor * along;
  }
};

} // namespace detail

/// Experts without weights behind those of Inner: `identity` of them return their input (LongCat-Flash's zero-computation
/// experts), then `zero` of them return nothing (a skip expert: ZAYA). The router chooses among all of them; the last
/// `zero` expert ids are zeros, the `identity` before them identities. They own no parameters and compute no product.
/// \throws kokomo::Error 101 for negative counts
template <class InnerT> struct WithIdentity {
  using Inner = InnerT;
  static_assert(
      !requires { InnerT::reads_activations; },
      "kokomo::WithIdentity: the activations that AutonomousExperts continue from are of experts with weights only");

  Inner inner{};
  index_t identity = 0; ///< >= 0
  index_t zero = 0;     ///< >= 0

  template <class T, class Exec> using Parameters = detail::OfInner<parameters_t<Inner, T, Exec>>;
  template <class T, class Exec> using Saved = detail::OfInner<saved_t<Inner, T, Exec>>;
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Inner, T, Exec>>;
  template <class T, class Exec> using BackwardScratch = detail::OfInner<backward_scratch_t<Inner, T, Exec>>;

  void check(Sizes const& sizes) const {
    detail::require(identity >= 0 && zero >= 0, 101, "identity experts = ", identity, ", zero experts = ", zero,
                    ", expected >= 0");
    detail::check_settings(inner, sizes);
  }
  index_t routed(index_t weighted) const { return inner.routed(weighted) + identity + zero; }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    inner.template forward<T>(exec, parameters, weighted(in), out, saved, scratch);
    for_each_kind<T, Exec>(in, offset_t(out.extent(1)), [&](char const* label, auto const& tail, auto factor) {
      detail::for_each(exec, label, in.rows.rows, detail::CopyRows<T, Exec>{tail, in.x, out.data(), factor});
    });
  }

  /// The same, each row weighted and added to its token's sum, where the inner experts do so.
  template <class T, class Exec>
  requires(detail::CombinesRows<Inner, T, Exec>) void forward_combined(Exec const& exec,
                                                                       Parameters<T, Exec> const& parameters,
                                                                       ExpertRows<T, Exec> const& in,
                                                                       detail::CombinedRows<compute_t<T>> const& out,
                                                                       offset_t width, Saved<T, Exec> const& saved,
                                                                       Scratch<T, Exec> const& scratch) const {
    inner.template forward_combined<T>(exec, parameters, weighted(in), out, width, saved, scratch);
    if (identity == 0) return;
    auto const rows = weighted(in).rows;
    detail::TailRows<T, Exec> const tail{rows, in.rows.offsets + rows.groups + identity, width};
    detail::host::launch(exec, "kokomo::WithIdentity::add", in.workers.workers,
                         detail::AddRows<T, Exec>{tail, in.x, out, in.workers.workers});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    inner.template backward<T>(exec, parameters, weighted(in), d, grads, write, saved, scratch);
    for_each_kind<T, Exec>(in, offset_t(d.dx.extent(1)), [&](char const* label, auto const& tail, auto factor) {
      detail::for_each(
          exec, label, in.rows.rows,
          detail::CopyRowsBackward<T, Exec>{tail, in.x, d.d_out, d.weight, d.dx.data(), d.d_weight, factor});
    });
  }

private:
  template <class T, class Exec> ExpertRows<T, Exec> weighted(ExpertRows<T, Exec> in) const {
    in.rows.groups -= identity + zero;
    return in;
  }
  template <class T, class Exec, class F> void for_each_kind(ExpertRows<T, Exec> in, offset_t width, F const& f) const {
    using C = compute_t<T>;
    auto const tail = [&](index_t groups, index_t count) {
      auto rows = in.rows;
      rows.groups = groups;
      return detail::TailRows<T, Exec>{rows, in.rows.offsets + groups + count, width};
    };
    index_t const first = in.rows.groups - identity - zero;
    if (identity > 0) f("kokomo::WithIdentity::identity", tail(first, identity), C(1));
    if (zero > 0) f("kokomo::WithIdentity::zero", tail(first + identity, zero), C(0));
  }
};

} // namespace kokomo::inline v0

#endif
