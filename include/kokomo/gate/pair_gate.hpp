// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_PAIR_GATE_HPP
#define KOKOMO_GATE_PAIR_GATE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/key_pairs.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/score.hpp>

namespace kokomo::inline v0 {

/// The weight of a pair of keys with the logit z.
enum class PairWeight {
  selected_softmax, ///< softmax over the pairs that its head chose
  relu,             ///< max(z, 0)
  joint_probability ///< exp(z): of a grid of log-probabilities the probability of row and column
};

namespace detail {

template <class T, class Exec> struct PairToken {
  using C = compute_t<T>;
  Routing<T, Exec> const& routing;
  Assignment<T, Exec> const& a;
  KeyPairs const& pairs;
  offset_t token;
  C const* z = routing.row(token);
  offset_t begin = a.token_offsets[token];
  offset_t per_head = (a.token_offsets[token + 1] - begin) / pairs.heads;

  KOKKOS_FUNCTION offset_t begin_of(int head) const { return begin + head * per_head; }
  KOKKOS_FUNCTION C logit(int head, offset_t entry) const { return pairs.logit(z, head, a.expert[entry]); }
};

template <class T, class Exec> struct WeighPairs {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  KeyPairs pairs;
  PairWeight kind;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    PairToken<T, Exec> const own{routing, a, pairs, token};
    for (int head = 0; head < pairs.heads; ++head) {
      offset_t const begin = own.begin_of(head), end = own.begin_of(head + 1);
      C max = 0, sum = 1;
      if (kind == PairWeight::selected_softmax) {
        max = -Kokkos::Experimental::infinity_v<C>;
        for (offset_t i = begin; i < end; ++i)
          if (a.expert[i] != none && own.logit(head, i) > max) max = own.logit(head, i);
        sum = 0;
        for (offset_t i = begin; i < end; ++i)
          if (counts(own, head, i)) sum += Kokkos::exp(own.logit(head, i) - max);
      }
      for (offset_t i = begin; i < end; ++i) {
        C weight = 0;
        if (counts(own, head, i))
          weight = kind == PairWeight::relu ? Kokkos::max(own.logit(head, i), C(0))
                                            : Kokkos::exp(own.logit(head, i) - max) / sum;
        a.weight[i] = weight;
      }
    }
  }
  KOKKOS_FUNCTION bool counts(PairToken<T, Exec> const& own, int head, offset_t i) const {
    return a.expert[i] != none && own.logit(head, i) > -Kokkos::Experimental::infinity_v<C>;
  }
};

template <class T, class Exec> struct PairGradient {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  Assignment<T, Exec> a;
  KeyPairs pairs;
  PairWeight kind;
  Vector<C const, Exec> d_weight;
  Matrix<C, Exec> d_logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t c = 0; c < routing.sizes.columns; ++c) d_logits(token, c) = 0;
    PairToken<T, Exec> const own{routing, a, pairs, token};
    for (int head = 0; head < pairs.heads; ++head) {
      offset_t const begin = own.begin_of(head), end = own.begin_of(head + 1);
      C along = 0;
      if (kind == PairWeight::selected_softmax)
        for (offset_t i = begin; i < end; ++i) along += d_weight[i] * a.weight[i];
      for (offset_t i = begin; i < end; ++i) {
        index_t const expert = a.expert[i];
        if (expert == none) continue;
        C const d =
            kind == PairWeight::relu ? (a.weight[i] > C(0) ? d_weight[i] : C(0)) : a.weight[i] * (d_weight[i] - along);
        d_logits(token, pairs.first(head, expert / pairs.columns)) += d;
        d_logits(token, pairs.second(head, expert % pairs.columns)) += d;
      }
    }
  }
};

} // namespace detail

/// Weights of pairs of keys, from their logits z = first + second:
///
///     softmax of z over the k pairs of a head,   max(z, 0),   or exp(z), the joint probability of a grid
///
/// The joint probability renormalised over the chosen is the first. Heads add up; what capacity drops loses its share.
/// Source: PEER (arXiv:2407.04153), "non-competitive" for relu; OmniMoE (arXiv:2602.05711): its equation 2 is the softmax,
/// its code the joint probability.
/// \throws kokomo::Error 101 for heads or rows that are not the scorer's
struct PairGate {
  using Score = IdentityScore;
  using Logits = logits::key_pairs;

  PairWeight weight = PairWeight::selected_softmax;
  int heads = 1;    ///< as the scorer has it
  index_t rows = 0; ///< as the scorer has it, 0: a square

  void check(Sizes const& sizes) const { pairs(sizes).check("PairGate", sizes); }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
               Assignment<T, Exec> const& a) const {
    detail::for_each(exec, "kokomo::PairGate::forward", a.tokens,
                     detail::WeighPairs<T, Exec>{routing, a, pairs(routing.sizes), weight});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Vector<compute_t<T> const, Exec> const& d_weight, Matrix<compute_t<T>, Exec> const& d_logits,
                Nothing const&, Write, Nothing const&) const {
    detail::for_each(exec, "kokomo::PairGate::backward", a.tokens,
                     detail::PairGradient<T, Exec>{routing, a, pairs(routing.sizes), weight, d_weight, d_logits});
  }

private:
  detail::KeyPairs pairs(Sizes const& sizes) const { return detail::KeyPairs::of(heads, rows, sizes.experts); }
};

} // namespace kokomo::inline v0

#endif
