// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_CONSTANT_HPP
#define KOKOMO_GATE_CONSTANT_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct ConstantWeigh {
  Assignment<T, Exec> a;
  compute_t<T> value;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i)
      a.weight[i] = a.expert[i] != none ? value : compute_t<T>(0);
  }
};

} // namespace detail

/// Every chosen expert has the same weight, the constant one unless `.value` says otherwise (hash layers, one-expert
/// routing). No gradient reaches the logits.
struct ConstantGate {
  using Score = IdentityScore;

  float value = 1;

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const&, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::ConstantGate::forward", a.tokens,
                     detail::ConstantWeigh<T, Exec>{a, compute_t<T>(value)});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const&, Assignment<T, Exec> const&,
                Vector<compute_t<T> const, Exec> const&, Matrix<compute_t<T>, Exec> const& d_logits, Nothing const&,
                Write, Nothing const&) const {
    detail::fill(exec, "kokomo::ConstantGate::backward", d_logits.data(), offset_t(d_logits.size()), 0);
  }
};

/// ReMix's weight of k adapters of a rank: 2 / (k rank), or 2 / sqrt(k rank) in its rank-stabilised form.
/// \throws kokomo::Error 106 unless k >= 1 and rank >= 1
inline ConstantGate remix_gate(int k, int rank, bool rank_stabilized = false) {
  detail::require(k >= 1 && rank >= 1, 106, "remix_gate k = ", k, ", rank = ", rank, ", expected >= 1");
  float const size = static_cast<float>(k) * static_cast<float>(rank);
  return {.value = 2 / (rank_stabilized ? Kokkos::sqrt(size) : size)};
}

} // namespace kokomo::inline v0

#endif
