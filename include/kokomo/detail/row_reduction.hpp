// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ROW_REDUCTION_HPP
#define KOKOMO_DETAIL_ROW_REDUCTION_HPP

#include <kokomo/concepts.hpp>

namespace kokomo::inline v0::detail {

/// A Combine that makes one row of a token's rows itself, instead of their weighted sum: the experts write its `rows`.
template <class Combine, class T, class Exec>
concept ReducesRows = requires(saved_t<Combine, T, Exec> const& saved) {
  saved.rows;
};

/// What a forward pass demands of it.
template <class P, class T, class Exec>
concept ReducePolicy = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                Assignment<T, Exec> const& a, Matrix<compute_t<T>, Exec> const& routed,
                                saved_t<P, T, Exec> const& saved, scratch_t<P, T, Exec> const& scratch,
                                WorkerScratch const& workers) {
  p.template reduce<T>(e, w, a, routed, saved, scratch, workers);
};
/// What backward demands of it.
template <class P, class T, class Exec>
concept ReduceGradient = requires(P const& p, Exec const& e, parameters_t<P, T, Exec> const& w,
                                  Assignment<T, Exec> const& a, Matrix<compute_t<T>, Exec> const& d_routed,
                                  Vector<compute_t<T>, Exec> const& d_weight, saved_t<P, T, Exec> const& saved,
                                  backward_scratch_t<P, T, Exec> const& scratch, WorkerScratch const& workers) {
  p.template reduce_backward<T>(e, w, a, d_routed, d_weight, w, Write::add, saved, scratch, workers);
  scratch.d_rows;
};

} // namespace kokomo::inline v0::detail

#endif
