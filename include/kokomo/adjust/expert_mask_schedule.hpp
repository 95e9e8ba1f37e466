// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_EXPERT_MASK_SCHEDULE_HPP
#define KOKOMO_ADJUST_EXPERT_MASK_SCHEDULE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Which experts a schedule leaves visible.
enum class VisibleExperts {
  random, ///< so many of the pool, drawn anew for each step
  local   ///< the layer's own first, then those that follow them in the pool
};

/// What a masked expert is kept from.
enum class MaskEffect {
  selection, ///< it is not chosen; a softmax over all experts still counts it, as a score set to 0 behind it does
  logits     ///< its logit is the lowest number too: a softmax over all experts is one over the visible ones
};

namespace detail {

template <class T, class Exec> struct DrawMask {
  VisibleExperts visible;
  index_t count, pool, first; // visible ones, experts of the pool, the first local one
  std::uint64_t seed, step;
  Vector<index_t, Exec> mask;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const e = static_cast<index_t>(i);
    index_t ahead = (e - first + pool) % pool; // how many come before e
    if (visible == VisibleExperts::random) {
      double const own = uniform(seed, step, 0, e);
      ahead = 0;
      for (index_t other = 0; other < pool; ++other) {
        double const draw = uniform(seed, step, 0, other);
        ahead += draw < own || (draw == own && other < e) ? 1 : 0;
      }
    }
    mask[e] = ahead < count ? 1 : 0;
  }
};

template <class T, class Exec> struct ApplyMask {
  Routing<T, Exec> routing;
  Vector<index_t const, Exec> mask;
  Matrix<compute_t<T>, Exec> logits;
  compute_t<T> value;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.experts; ++e)
      if (mask[e] == 0) logits(token, e) = value;
  }
};

} // namespace detail

/// Experts of a shared pool that come into sight one after the other over the steps of training: a router over the
/// experts of several layers learns with few of them first. All but N_t are masked before selection,
///
///     N_t = local                                                        for t <= begin
///         = floor((1 + (layers - 1) (t - begin) / (end - begin)) local)  for begin < t <= end
///         = layers * local                                               after
///
/// with local = experts / layers, t the call's step. The same seed and step mask the same experts everywhere.
/// Source: ReXMoE (arXiv 2510.17483), its progressive scaling.
/// \throws kokomo::Error 103 unless layers divides the experts and 0 <= own < layers, 106 unless begin <= end
struct ExpertMaskSchedule {
  using slot = slots::adjust;

  VisibleExperts visible = VisibleExperts::random;
  MaskEffect effect = MaskEffect::selection;
  int layers = 1; ///< that share the pool; experts are in the order of their layers
  int own = 0;    ///< which of them this layer is
  std::uint64_t begin = 0, end = 0;
  std::uint64_t seed = 0; ///< one for each pool

  template <class T, class Exec> struct Saved {
    Vector<index_t, Exec> mask; ///< [experts]

    Saved(detail::Arena& arena, ExpertMaskSchedule const&, Sizes const& sizes)
        : mask(arena.vector<index_t, Exec>(sizes.experts)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(layers >= 1 && sizes.experts % layers == 0, 103, "ExpertMaskSchedule layers = ", layers,
                    ", expected a divisor of the ", sizes.experts, " experts");
    detail::require(own >= 0 && own < layers, 103, "ExpertMaskSchedule own = ", own, ", expected 0 to ", layers - 1);
    detail::require(begin <= end, 106, "ExpertMaskSchedule begin = ", begin, ", expected at most end = ", end);
  }

  /// N_t
  constexpr index_t visible_experts(std::uint64_t step, index_t experts) const {
    index_t const local = experts / layers;
    if (step <= begin) return local;
    if (step > end) return experts;
    // (1 + (r - 1) s / n) local = local + (experts - local) s / n: exact in integers
    return static_cast<index_t>(local + static_cast<std::uint64_t>(experts - local) * (step - begin) / (end - begin));
  }

  template <class T, class Exec>
  Vector<index_t const, Exec> expert_mask(Nothing const&, Saved<T, Exec> const& saved) const {
    return saved.mask;
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&, Nothing const&,
              Matrix<compute_t<T>, Exec> const& logits, Saved<T, Exec> const& saved) const {
    index_t const pool = routing.sizes.experts;
    detail::for_each(exec, "kokomo::ExpertMaskSchedule::draw", pool,
                     detail::DrawMask<T, Exec>{visible, visible_experts(routing.step, pool), pool, pool / layers * own,
                                               seed, routing.step, saved.mask});
    if (effect == MaskEffect::logits)
      apply(exec, routing, saved, logits, Kokkos::Experimental::finite_min_v<compute_t<T>>);
  }

  /// A logit that was replaced passes nothing back.
  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, Nothing const&,
                       Nothing const&, Saved<T, Exec> const& saved, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    if (effect == MaskEffect::logits) apply(exec, routing, saved, d_logits, compute_t<T>(0));
  }

private:
  template <class T, class Exec>
  static void apply(Exec const& exec, Routing<T, Exec> const& routing, Saved<T, Exec> const& saved,
                    Matrix<compute_t<T>, Exec> const& values, compute_t<T> value) {
    detail::for_each(exec, "kokomo::ExpertMaskSchedule::apply", routing.sizes.tokens,
                     detail::ApplyMask<T, Exec>{routing, saved.mask, values, value});
  }
};

} // namespace kokomo::inline v0

#endif
