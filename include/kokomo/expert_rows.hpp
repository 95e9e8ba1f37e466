// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERT_ROWS_HPP
#define KOKOMO_EXPERT_ROWS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/operands.hpp>

#include <string>

namespace kokomo::inline v0 {

/// The rows that experts work on: row r is an input of expert rows.group_of(r), read through `x`.
template <class T, class Exec> struct ExpertRows {
  detail::RowSource<T, compute_t<T>> x; ///< width `sizes.hidden`
  detail::GroupedRows rows;
  detail::WorkerScratch workers;
  compute_t<T> const* activations =
      nullptr; ///< [tokens, experts, width] of a scorer that shares them; null: it does not
};

/// What comes back to the rows of experts in backward.
template <class T, class Exec> struct ExpertRowGradients {
  using C = compute_t<T>;
  detail::RowSource<C, C> d_out; ///< gradient of the combined output, read by row, without the weight
  C const* weight = nullptr;     ///< [rows] weight on the output; null: one
  Matrix<C, Exec> dx;            ///< [rows, width] out: gradient of the row read through x
  C* d_weight = nullptr;         ///< [rows] out: <d_out, expert(x)>; null: not wanted
  C* d_activations = nullptr;    ///< of ExpertRows::activations, added to
};

/// The same where the rows' gradients are summed up by token, and nobody needs the rows themselves.
template <class T, class Exec> struct CombinedRowGradients {
  using C = compute_t<T>;
  detail::RowSource<C, C> d_out; ///< as in ExpertRowGradients
  C const* weight = nullptr;     ///< as in ExpertRowGradients
  offset_t width = 0;            ///< of d_out's rows and of dx
  detail::CombinedRows<C> dx;    ///< out: the sum of the rows' gradients, each times its input's scale if it has one
  Write dx_write = Write::overwrite;
  C* d_weight = nullptr; ///< [rows] out: <d_out, expert(x)>; null: not wanted
  C* d_scale = nullptr;  ///< [rows] out: gradient of the scale of x; null: not wanted. Not both
};

namespace detail {

template <class Policy, class T, class Exec> struct NestedCombinedBackwardScratch { using type = Nothing; };
template <class Policy, class T, class Exec>
requires requires {
  typename Policy::template CombinedBackwardScratch<T, Exec>;
}
struct NestedCombinedBackwardScratch<Policy, T, Exec> {
  using type = typename Policy::template CombinedBackwardScratch<T, Exec>;
};
template <class Policy, class T, class Exec>
using combined_backward_scratch_t = typename NestedCombinedBackwardScratch<Policy, T, Exec>::type;

/// Experts that also weigh their rows and sum them up by token, where nobody needs the rows themselves.
template <class Experts, class T, class Exec>
concept CombinesRows = requires(Experts const& p, Exec const& exec, parameters_t<Experts, T, Exec> const& parameters,
                                ExpertRows<T, Exec> const& in, CombinedRows<compute_t<T>> const& out, offset_t width,
                                saved_t<Experts, T, Exec> const& saved, scratch_t<Experts, T, Exec> const& scratch) {
  p.template forward_combined<T>(exec, parameters, in, out, width, saved, scratch);
};

/// Whether experts are, or stand around, experts of several kinds.
template <class Experts> struct HasParts : std::false_type {};
template <class Experts>
requires requires {
  Experts::first_part;
}
struct HasParts<Experts> : std::true_type {};
template <class Experts>
requires requires {
  typename Experts::Inner;
}
struct HasParts<Experts> : HasParts<typename Experts::Inner> {};

/// Experts that say which kernels they run.
template <class Experts, class T, class Exec>
concept DescribesKernels = requires(Experts const& p) {
  std::string(p.template describe<T, Exec>());
};

/// Experts whose backward also sums up the gradients of their rows by token.
template <class Experts, class T, class Exec>
concept CombinesRowGradients = requires(Experts const& p, Exec const& exec,
                                        parameters_t<Experts, T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                                        CombinedRowGradients<T, Exec> const& d, saved_t<Experts, T, Exec> const& saved,
                                        combined_backward_scratch_t<Experts, T, Exec> const& scratch) {
  p.template backward_combined<T>(exec, parameters, in, d, parameters, Write::add, saved, scratch);
};

/// The scratch of whichever backward a layer calls.
template <class Experts, class T, class Exec>
using experts_backward_scratch_t =
    std::conditional_t<CombinesRowGradients<Experts, T, Exec>, combined_backward_scratch_t<Experts, T, Exec>,
                       backward_scratch_t<Experts, T, Exec>>;

} // namespace detail
} // namespace kokomo::inline v0

#endif
