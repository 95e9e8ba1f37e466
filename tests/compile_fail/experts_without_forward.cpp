// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer, slot Experts: the policy lacks template <class T, class Exec> void forward\(}}
#include "use.hpp"

/// Experts of a user without forward.
struct Mine {
  kokomo::index_t routed(kokomo::index_t weighted) const { return weighted; }
#if defined(KOKOMO_CORRECTED)
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
               kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&,
               kokomo::Nothing const&) const {}
#endif
  template <class T, class Exec>
  void backward(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
                kokomo::ExpertRowGradients<T, Exec> const&, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&, kokomo::Nothing const&) const {}
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                                kokomo::NoBalancer, Mine>>();
