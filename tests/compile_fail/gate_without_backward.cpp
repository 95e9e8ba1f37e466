// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer::backward, slot Gate: the policy lacks template <class T, class Exec> void backward\(}}
#include "use.hpp"

/// A gate of a user that only infers, in a layer that is trained.
struct Mine {
  using Score = kokomo::SigmoidScore;
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&, kokomo::Nothing const&,
               kokomo::Assignment<T, Exec> const&) const {}
#if defined(KOKOMO_CORRECTED)
  template <class T, class Exec>
  void backward(Exec const&, kokomo::Nothing const&, kokomo::Routing<T, Exec> const&,
                kokomo::Assignment<T, Exec> const&, kokomo::Vector<kokomo::compute_t<T> const, Exec> const&,
                kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&) const {}
#endif
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, Mine>>();
