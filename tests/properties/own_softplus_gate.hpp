// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_OWN_SOFTPLUS_GATE_HPP
#define KOKOMO_TESTS_PROPERTIES_OWN_SOFTPLUS_GATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/score.hpp>

/// A gate as a user writes one.
namespace own {

using kokomo::index_t;
using kokomo::offset_t;

template <class T, class Exec> struct SoftplusWeigh {
  kokomo::Routing<T, Exec> routing;
  kokomo::Assignment<T, Exec> a;
  KOKKOS_FUNCTION void operator()(int token) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      a.weight[i] = a.expert[i] == kokomo::none ? 0 : Kokkos::log1p(Kokkos::exp(routing.logits(token, a.expert[i])));
  }
};

template <class T, class Exec> struct SoftplusGradient {
  using C = kokomo::compute_t<T>;
  kokomo::Routing<T, Exec> routing;
  kokomo::Assignment<T, Exec> a;
  kokomo::Vector<C const, Exec> d_weight;
  kokomo::Matrix<C, Exec> d_logits;
  KOKKOS_FUNCTION void operator()(int token) const {
    for (index_t e = 0; e < routing.sizes.columns; ++e) d_logits(token, e) = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      if (a.expert[i] != kokomo::none)
        d_logits(token, a.expert[i]) += d_weight[i] / (1 + Kokkos::exp(-routing.logits(token, a.expert[i])));
  }
};

/// w = log(1 + exp(z)) of each chosen expert.
struct SoftplusGate {
  using Score = kokomo::SigmoidScore;

  template <class T, class Exec>
  void forward(Exec const& exec, kokomo::Nothing const&, kokomo::Routing<T, Exec> const& routing,
               kokomo::Nothing const&, kokomo::Assignment<T, Exec> const& a) const {
    Kokkos::parallel_for("own::SoftplusGate::forward", Kokkos::RangePolicy<Exec>(exec, 0, int(a.tokens)),
                         SoftplusWeigh<T, Exec>{routing, a});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, kokomo::Nothing const&, kokomo::Routing<T, Exec> const& routing,
                kokomo::Assignment<T, Exec> const& a, kokomo::Vector<kokomo::compute_t<T> const, Exec> const& d_weight,
                kokomo::Matrix<kokomo::compute_t<T>, Exec> const& d_logits, kokomo::Nothing const&, kokomo::Write,
                kokomo::Nothing const&) const {
    Kokkos::parallel_for("own::SoftplusGate::backward", Kokkos::RangePolicy<Exec>(exec, 0, int(a.tokens)),
                         SoftplusGradient<T, Exec>{routing, a, d_weight, d_logits});
  }
};
static_assert(kokomo::GatePolicy<SoftplusGate>); // the contract is checked where the policy is written

} // namespace own

#endif
