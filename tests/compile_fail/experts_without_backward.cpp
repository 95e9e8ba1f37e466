// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer::backward, slot Experts: the policy lacks template <class T, class Exec> void backward\(}}
#include "use.hpp"

/// Experts of a user that only infer, in a layer that is trained.
struct Mine {
  kokomo::index_t routed(kokomo::index_t weighted) const { return weighted; }
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
               kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&,
               kokomo::Nothing const&) const {}
#if defined(KOKOMO_CORRECTED)
  template <class T, class Exec>
  void backward(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
                kokomo::ExpertRowGradients<T, Exec> const&, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&, kokomo::Nothing const&) const {}
#endif
};

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                                kokomo::NoBalancer, Mine>>();
