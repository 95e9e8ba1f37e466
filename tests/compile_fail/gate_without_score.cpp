// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer, slot Gate: the policy lacks using Score, the score function that selection ranks by}}
#include "use.hpp"

/// A gate of a user that does not say which score it is of.
struct Mine {
#if defined(KOKOMO_CORRECTED)
  using Score = kokomo::SigmoidScore;
#endif
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&, kokomo::Nothing const&,
               kokomo::Assignment<T, Exec> const&) const {}
  template <class T, class Exec>
  void backward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&,
                kokomo::Assignment<T, Exec> const&, kokomo::Vector<kokomo::compute_t<T> const, Exec> const&,
                kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&) const {}
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, Mine>>();
