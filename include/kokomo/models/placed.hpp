// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_PLACED_HPP
#define KOKOMO_MODELS_PLACED_HPP

#include <kokomo/experts/low_rank_plus_row_sparse.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/placement/expert_map.hpp>

namespace kokomo::inline v0 {

namespace detail {

/// A layer with a table of where its experts lie.
template <class L, class Placement> struct WithPlacement;
template <class Router, class Gate, class Balancer, class Experts, class T, class Exec, class... Slots, class Placement>
struct WithPlacement<Layer<Router, Gate, Balancer, Experts, T, Exec, Slots...>, Placement> {
  using type = Layer<Router, Gate, Balancer, Experts, T, Exec, Slots..., Placement>;
};

/// A layer with other experts.
template <class L, class Experts> struct WithExperts;
template <class Router, class Gate, class Balancer, class Old, class T, class Exec, class... Slots, class Experts>
struct WithExperts<Layer<Router, Gate, Balancer, Old, T, Exec, Slots...>, Experts> {
  static_assert(std::is_same_v<routed_t<Old>, Old>,
                "kokomo::models::CompressedMcSmoe: write blocks with shared experts out");
  using type = Layer<Router, Gate, Balancer, Experts, T, Exec, Slots...>;
};

} // namespace detail

/// Any block P whose router knows more experts than there are weights for: docs/families/placed.md.
namespace models {

/// MC-SMoE: P after its experts were merged (compress/). The router is untouched; a balancer of P stays as training left it.
template <class P> using McSmoe = typename kokomo::detail::WithPlacement<P, TiedExperts>::type;
/// ExpertFlow: P with its experts in a host's memory, and a few places for them where it computes (cache/).
template <class P> using Cached = typename kokomo::detail::WithPlacement<P, PlacedExperts>::type;

/// MC-SMoE's second half: merged experts that are of low rank but for some rows. Gated as P's are.
template <class P>
using CompressedMcSmoe =
    McSmoe<typename kokomo::detail::WithExperts<P, LowRankPlusRowSparse<typename P::Routed::Activation>>::type>;

/// The settings of P with those of the placement.
template <class L, class Policies>
typename L::Policies with_placement(Policies const& p, typename L::Placement const& placement) {
  return {p.router, p.gate, p.balancer, p.experts, p.adjust, p.capacity, p.space, p.combine, placement};
}

} // namespace models
} // namespace kokomo::inline v0

#endif
