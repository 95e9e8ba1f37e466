// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TRANSFORM_REINFORCE_HPP
#define KOKOMO_TRANSFORM_REINFORCE_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/router/gumbel_top_k.hpp>

#include <span>
#include <vector>

namespace kokomo::inline v0 {

/// The leave-one-out advantages of M draws: (L_m - mean L) / (M - 1). With them, sum_m advantage_m grad log Q(draw_m) is an
/// unbiased estimate of the gradient of E[L] (RLOO): each draw's baseline is the mean loss of the others.
/// \throws kokomo::Error 106 for fewer than two draws
inline std::vector<double> leave_one_out(std::span<double const> losses) {
  detail::require(losses.size() >= 2, 106, "leave_one_out of ", losses.size(), " draws, expected at least 2");
  double mean = 0;
  for (double const loss : losses) mean += loss / static_cast<double>(losses.size());
  std::vector<double> advantages;
  for (double const loss : losses) advantages.push_back((loss - mean) / static_cast<double>(losses.size() - 1));
  return advantages;
}

namespace detail {

template <class C, class Exec> struct SpreadAdvantage {
  Vector<double const, Exec> advantage;
  Vector<C, Exec> factor;
  KOKKOS_FUNCTION void operator()(offset_t token) const {
    factor[token] = C(advantage.extent(0) == 1 ? advantage[0] : advantage[token]);
  }
};

} // namespace detail

/// Teaches a router by the losses of what it drew, instead of by gradients of weights: backward adds
///
///     advantage * d log Q / dz,   Q = prod_j q_(i_j) / (1 - sum_{j' < j} q_(i_j')),   q = softmax(z)
///
/// to the gradient of the logits, i_1, i_2, ... the experts of a token in the order in which GumbelTopK drew them. Stands in
/// the balancer's slot, alone or among Balancers; the weights come from a ConstantGate. For M draws: M forwards with M
/// steps and tapes, their losses through `leave_one_out`, then, draw by draw, its advantage to `advantage` and backward of
/// its tape with Write::add. The other parameters' gradients are then summed over the draws as well.
/// Source: ReMix, the paper's text, which draws the whole network's selections M times for one input.
/// \throws kokomo::Error 106 unless there is one advantage, or one for each token
template <class Exec> struct ScoreFunction {
  OwnedVector<double, Exec> advantage{}; ///< [1], or one a token; read by backward

  template <class T, class E> struct Saved {
    Vector<compute_t<T>, E> factor; ///< [tokens]

    Saved(detail::Arena& arena, ScoreFunction const&, Sizes const& sizes)
        : factor(arena.vector<compute_t<T>, E>(sizes.tokens)) {}
  };

  void check(Sizes const& sizes) const {
    auto const given = static_cast<offset_t>(advantage.extent(0));
    detail::require(given == 1 || given >= sizes.tokens, 106, "ScoreFunction advantage has ", given,
                    " elements, expected 1, or one for each of ", sizes.tokens, " tokens");
  }

  template <class T>
  void backward(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
                Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits) const {
    detail::for_each(exec, "kokomo::ScoreFunction::spread", a.tokens,
                     detail::SpreadAdvantage<compute_t<T>, Exec>{advantage, saved.factor});
    draw_log_probability_gradient<T, Exec>(exec, routing, a, saved.factor, d_logits);
  }
};

} // namespace kokomo::inline v0

#endif
