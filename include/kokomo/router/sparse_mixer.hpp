// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_SPARSE_MIXER_HPP
#define KOKOMO_ROUTER_SPARSE_MIXER_HPP

#include <kokomo/detail/random.hpp>
#include <kokomo/router/top_k.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// One of SparseMixer's two picks sees the experts whose logit is close to the best of those left:
/// (m - z_e) / max(|z_e|, m) <= 2 epsilon, with m the largest logit but for the expert that is removed.
template <class C> struct SparseMixerPick {
  C const* z;
  index_t n;
  index_t removed; // none at the first pick
  C two_epsilon;
  C max;
  index_t argmax;

  KOKKOS_FUNCTION SparseMixerPick(C const* logits, index_t experts, index_t without, C epsilon)
      : z(logits), n(experts), removed(without), two_epsilon(C(2) * epsilon), max(-Kokkos::Experimental::infinity_v<C>),
        argmax(none) {
    for (index_t e = 0; e < n; ++e)
      if (e != removed && (argmax == none || rankable(z[e]) > max)) max = rankable(z[e]), argmax = e;
  }
  KOKKOS_FUNCTION bool sees(index_t e) const {
    return e != removed && !((max - z[e]) / Kokkos::max(Kokkos::abs(z[e]), max) > two_epsilon);
  }
  /// The softmax over the experts that this pick sees is exp(z - max) / normaliser().
  KOKKOS_FUNCTION C normaliser() const {
    C sum = 0;
    for (index_t e = 0; e < n; ++e)
      if (sees(e)) sum += Kokkos::exp(z[e] - max);
    return sum;
  }
};

template <class T, class Exec> struct SelectSparseMixer {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  C epsilon;
  std::uint64_t seed;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    offset_t const first = token * 2;
    a.token_offsets[token] = first;
    if (token == a.tokens) return;
    index_t removed = none;
    for (int j = 0; j < 2; ++j) {
      index_t chosen = none;
      if (!routing.masked(token)) {
        SparseMixerPick<C> const pick(routing.row(token), routing.sizes.experts, removed, epsilon);
        chosen = routing.mode == Mode::training ? sample(pick, token, j) : pick.argmax;
      }
      a.choose(first + j, chosen);
      removed = chosen;
    }
  }

  KOKKOS_FUNCTION index_t sample(SparseMixerPick<C> const& pick, offset_t token, int j) const {
    index_t best = pick.argmax;
    double best_value = -Kokkos::Experimental::infinity_v<double>;
    for (index_t e = 0; e < pick.n; ++e) {
      if (!pick.sees(e)) continue;
      double const value = pick.z[e] + gumbel(seed, routing.step, token, e + j * pick.n);
      if (value > best_value) best_value = value, best = e;
    }
    return best;
  }
};

} // namespace detail

/// SparseMixer's two picks: the second is made as if the first expert did not exist.
///
/// Inference takes the argmax of each. Training samples from the softmax of the experts close to the best
/// (see SparseMixerGate, which must have the same epsilon), keyed by (seed, step, token).
/// Source: Phi-3.5-MoE, transformers phimoe `sparsemixer`. Two experts a token, always.
/// \throws kokomo::Error 102 for fewer than two experts, 106 for a negative epsilon
struct SparseMixer {
  float epsilon = 0.01f; ///< >= 0, jitter epsilon; `router_jitter_noise` in Phi's configuration
  std::uint64_t seed = 0;

  offset_t entries_per_token(Sizes const&) const { return 2; }
  void check(Sizes const& sizes) const {
    detail::check_k(2, sizes);
    detail::require(epsilon >= 0, 106, "SparseMixer epsilon = ", epsilon, ", expected >= 0");
  }

  template <class GateScore, class T, class Exec>
  void select(Exec const& exec, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Assignment<T, Exec> const& a, Nothing const&) const {
    detail::for_each(exec, "kokomo::SparseMixer::select", a.tokens + 1,
                     detail::SelectSparseMixer<T, Exec>{routing, a, compute_t<T>(epsilon), seed});
  }
};

} // namespace kokomo::inline v0

#endif
