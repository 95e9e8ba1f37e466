// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer, slot Gate: the policy lacks template <class T, class Exec> void forward\(}}
#include "use.hpp"

/// A gate of a user without forward.
struct Mine {
  using Score = kokomo::SigmoidScore;
#if defined(KOKOMO_CORRECTED)
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&, kokomo::Nothing const&,
               kokomo::Assignment<T, Exec> const&) const {}
#endif
  template <class T, class Exec>
  void backward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&,
                kokomo::Assignment<T, Exec> const&, kokomo::Vector<kokomo::compute_t<T> const, Exec> const&,
                kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&) const {}
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, Mine>>();
