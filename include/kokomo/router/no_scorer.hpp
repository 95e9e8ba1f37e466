// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_NO_SCORER_HPP
#define KOKOMO_ROUTER_NO_SCORER_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>

namespace kokomo::inline v0 {

/// Nobody scores: for selectors that choose without logits (HashTable, TwoChoiceHash, Given) beside a gate that does not
/// weigh by them (ConstantGate). Logits are zero, there are no parameters, and no gradient reaches the router's input.
struct NoScorer {
  template <class T, class Exec, class X>
  void forward(Exec const& exec, Nothing const&, Matrix<X, Exec> const&, Nothing const&,
               Matrix<compute_t<T>, Exec> const& logits, Nothing const&, Nothing const&,
               detail::WorkerScratch const&) const {
    detail::fill(exec, "kokomo::NoScorer::forward", logits.data(), offset_t(logits.size()), 0);
  }
  template <class T, class Exec, class X>
  void backward(Exec const&, Nothing const&, Matrix<X, Exec> const&, Nothing const&,
                Matrix<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const&,
                Matrix<compute_t<T>, Exec> const&, Nothing const&, Nothing const&, Write, Nothing const&,
                Nothing const&, detail::WorkerScratch const&) const {}
};

} // namespace kokomo::inline v0

#endif
