// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LAYER_MEMORY_HPP
#define KOKOMO_DETAIL_LAYER_MEMORY_HPP

// Included by kokomo/layer.hpp: what a layer's parameters, state, tape and workspace are made of.

#define KOKOMO_LAYER_TEMPLATE                                                                                          \
  template <class RouterT, class GateT, class BalancerT, class ExpertsT, class T, class ExecT, class... SlotPolicies>
#define KOKOMO_LAYER Layer<RouterT, GateT, BalancerT, ExpertsT, T, ExecT, SlotPolicies...>

namespace kokomo::inline v0 {

KOKOMO_LAYER_TEMPLATE
auto KOKOMO_LAYER::parameters(Allocator<Exec> const& allocate) const -> Parameters {
  using detail::make;
  Sizes const inner = expert_sizes(m_sizes);
  Parameters p;
  p.router = make<decltype(p.router)>(allocate, m_policies.router.scorer, m_sizes);
  p.gate = make<decltype(p.gate)>(allocate, m_policies.gate, m_sizes);
  p.experts = make<decltype(p.experts)>(allocate, routed(), inner);
  if constexpr (has_shared) p.shared = make<decltype(p.shared)>(allocate, m_policies.experts, m_sizes);
  p.adjust = make<decltype(p.adjust)>(allocate, m_policies.adjust, m_sizes);
  p.space = make<decltype(p.space)>(allocate, m_policies.space, m_sizes);
  p.combine = make<decltype(p.combine)>(allocate, m_policies.combine, m_sizes);
  return p;
}

KOKOMO_LAYER_TEMPLATE
auto KOKOMO_LAYER::state(Allocator<Exec> const& allocate) const -> State {
  State s;
  s.scorer = detail::make<decltype(s.scorer)>(allocate, m_policies.router.scorer, m_sizes);
  s.selector = detail::make<decltype(s.selector)>(allocate, m_policies.router.selector, m_sizes);
  s.balancer = detail::make<decltype(s.balancer)>(allocate, m_policies.balancer, m_sizes);
  s.adjust = detail::make<decltype(s.adjust)>(allocate, m_policies.adjust, m_sizes);
  s.placement = detail::make<decltype(s.placement)>(allocate, m_policies.placement, m_sizes);
  return s;
}

KOKOMO_LAYER_TEMPLATE
auto KOKOMO_LAYER::lay_out(detail::Arena& arena, Sizes const& sizes) const -> Saved {
  using detail::make;
  // members are laid out in the order of these statements, the same whenever the sizes are
  Matrix<Compute, Exec> const logits = arena.matrix<Compute, Exec>(sizes.tokens, sizes.columns);
  auto const scored = has_adjust ? arena.matrix<Compute, Exec>(sizes.tokens, sizes.columns) : logits;
  Assignment<T, Exec> const assignment(arena, sizes.tokens, sizes.experts, sizes.entries);
  Vector<Compute, Exec> const loss = arena.vector<Compute, Exec>(1);
  Vector<Status, Exec> const status = arena.vector<Status, Exec>(1);
  Vector<offset_t, Exec> const chosen = arena.vector<offset_t, Exec>(1);
  auto const shared = [&] {
    if constexpr (has_shared)
      return make<saved_t<Experts, T, Exec>>(arena, m_policies.experts, sizes);
    else
      return Nothing{};
  };
  return Saved{logits,
               scored,
               assignment,
               loss,
               status,
               chosen,
               make<saved_t<Scorer, T, Exec>>(arena, m_policies.router.scorer, sizes),
               make<saved_t<Adjust, T, Exec>>(arena, m_policies.adjust, sizes),
               make<saved_t<Gate, T, Exec>>(arena, m_policies.gate, sizes),
               make<saved_t<Balancer, T, Exec>>(arena, m_policies.balancer, sizes),
               make<saved_t<Space, T, Exec>>(arena, m_policies.space, sizes),
               make<saved_t<Routed, T, Exec>>(arena, routed(), expert_sizes(sizes)),
               shared(),
               make<saved_t<Combine, T, Exec>>(arena, m_policies.combine, sizes),
               make<saved_t<Placement, T, Exec>>(arena, m_policies.placement, sizes)};
}

namespace detail {

inline WorkerScratch worker_scratch(Arena& arena, offset_t bytes, int workers) {
  return {arena.take<std::byte>(bytes * workers), bytes, workers};
}

} // namespace detail

KOKOMO_LAYER_TEMPLATE
struct KOKOMO_LAYER::ForwardScratch {
  detail::WorkerScratch workers;
  detail::GroupingScratch<Exec> grouping;
  Matrix<Compute, Exec> rows;       // [entries, expert width] the experts' outputs, unless they sum them up themselves
  Matrix<Compute, Exec> routed;     // [tokens, hidden] their weighted sum
  Matrix<Compute, Exec> shared_out; // [tokens, hidden]
  scratch_t<Scorer, T, Exec> scorer;
  scratch_t<Selector, T, Exec> selector;
  scratch_t<Capacity, T, Exec> capacity;
  scratch_t<Placement, T, Exec> placement;
  scratch_t<Routed, T, Exec> experts;
  std::conditional_t<has_shared, scratch_t<Experts, T, Exec>, Nothing> shared;
  scratch_t<Combine, T, Exec> combine;

  ForwardScratch(detail::Arena& arena, Layer const& layer, Sizes const& sizes, int worker_count)
      : workers(detail::worker_scratch(arena, detail::product_scratch_bytes<Compute, Exec>(), worker_count)),
        grouping(arena, sizes),
        rows(arena.matrix<Compute, Exec>(combines_rows || by_token || reduces_rows ? 0 : sizes.entries,
                                         layer.expert_sizes(sizes).hidden)),
        routed(arena.matrix<Compute, Exec>(sizes.tokens, sizes.hidden)),
        shared_out(arena.matrix<Compute, Exec>(has_shared ? sizes.tokens : 0, sizes.hidden)),
        scorer(detail::make<decltype(scorer)>(arena, layer.m_policies.router.scorer, sizes)),
        selector(detail::make<decltype(selector)>(arena, layer.m_policies.router.selector, sizes)),
        capacity(detail::make<decltype(capacity)>(arena, layer.m_policies.capacity, sizes)),
        placement(detail::make<decltype(placement)>(arena, layer.m_policies.placement, sizes)),
        experts(detail::make<decltype(experts)>(arena, layer.routed(), layer.expert_sizes(sizes))),
        shared(detail::make<decltype(shared)>(arena, layer.m_policies.experts, sizes)),
        combine(detail::make<decltype(combine)>(arena, layer.m_policies.combine, sizes)) {}
};

KOKOMO_LAYER_TEMPLATE
struct KOKOMO_LAYER::BackwardScratch {
  detail::WorkerScratch workers;
  Matrix<Compute, Exec> dx;             // [tokens, hidden]
  Matrix<Compute, Exec> d_routed;       // [tokens, hidden]
  Matrix<Compute, Exec> d_router_input; // [tokens, router width], in the place of d_routed, which is used up by then
  Matrix<Compute, Exec> d_shared;       // [tokens, hidden]
  Matrix<Compute, Exec> d_combined;     // [tokens, expert width], where experts have a space of their own
  Matrix<Compute, Exec> d_entered;      // the same
  Matrix<Compute, Exec> dx_rows;        // [entries, expert width], unless the experts sum them up themselves
  Vector<Compute, Exec> d_weight_rows;  // [entries]
  Vector<Compute, Exec> d_weight;       // [entries]
  Matrix<Compute, Exec> d_logits;       // [tokens, columns]
  Matrix<Compute, Exec> d_joint;        // [tokens, shared]
  backward_scratch_t<Scorer, T, Exec> scorer;
  backward_scratch_t<Gate, T, Exec> gate;
  backward_scratch_t<Space, T, Exec> space;
  std::conditional_t<combines_gradients, detail::combined_backward_scratch_t<Routed, T, Exec>,
                     backward_scratch_t<Routed, T, Exec>>
      experts;
  std::conditional_t<has_shared, backward_scratch_t<Experts, T, Exec>, Nothing> shared;
  backward_scratch_t<Combine, T, Exec> combine;

  BackwardScratch(detail::Arena& arena, Layer const& layer, Sizes const& sizes, int worker_count)
      : workers(detail::worker_scratch(arena, detail::product_scratch_bytes<Compute, Exec>(), worker_count)),
        dx(arena.matrix<Compute, Exec>(sizes.tokens, sizes.hidden)),
        d_routed(arena.take<Compute>(sizes.tokens * std::max(sizes.hidden, sizes.router_width)),
                 std::size_t(sizes.tokens), std::size_t(sizes.hidden)),
        d_router_input(d_routed.data(), std::size_t(sizes.tokens), std::size_t(sizes.router_width)),
        d_shared(arena.matrix<Compute, Exec>(has_shared ? sizes.tokens : 0, sizes.hidden)),
        d_combined(arena.matrix<Compute, Exec>(has_space ? sizes.tokens : 0, layer.expert_sizes(sizes).hidden)),
        d_entered(arena.matrix<Compute, Exec>(has_space ? sizes.tokens : 0, layer.expert_sizes(sizes).hidden)),
        dx_rows(arena.matrix<Compute, Exec>(combines_gradients || by_token ? 0 : sizes.entries,
                                            layer.expert_sizes(sizes).hidden)),
        d_weight_rows(arena.vector<Compute, Exec>(sizes.entries)), d_weight(arena.vector<Compute, Exec>(sizes.entries)),
        d_logits(arena.matrix<Compute, Exec>(sizes.tokens, sizes.columns)),
        d_joint(arena.matrix<Compute, Exec>(weighs_shared ? sizes.tokens : 0, sizes.shared)),
        scorer(detail::make<decltype(scorer)>(arena, layer.m_policies.router.scorer, sizes)),
        gate(detail::make<decltype(gate)>(arena, layer.m_policies.gate, sizes)),
        space(detail::make<decltype(space)>(arena, layer.m_policies.space, sizes)),
        experts(detail::make<decltype(experts)>(arena, layer.routed(), layer.expert_sizes(sizes))),
        shared(detail::make<decltype(shared)>(arena, layer.m_policies.experts, sizes)),
        combine(detail::make<decltype(combine)>(arena, layer.m_policies.combine, sizes)) {}
};

} // namespace kokomo::inline v0

#endif
