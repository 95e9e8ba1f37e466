// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/capacity/capacity.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/router/top_k.hpp>

#include <limits>
#include <type_traits>

using kokomo::index_t;
using kokomo::offset_t;

namespace {

/// Routing of a file's logits without a layer: choice, capacity, weights, and the gradient of the weights.
template <class Selector, class Gate>
void compare_deepspeed(Reference const& reference, Comparison& comparison, Selector const& selector, Gate const& gate,
                       kokomo::Capacity const& capacity) {
  using T = float;
  auto const& config = reference.config();
  auto const tokens = std::size_t(reference.tokens()), experts = config.at("num_experts").get<std::size_t>();
  auto const places = config.at("capacity").get<std::size_t>();
  Exec const exec;
  auto const logits = to_device<T>(reference.at("router_logits"), tokens, experts);
  kokomo::OwnedVector<kokomo::Status, Exec> const status("status", 1);
  kokomo::OwnedMatrix<index_t, Exec> mask;
  kokomo::Routing<T, Exec> routing;
  routing.logits = logits;
  routing.status = status.data();
  routing.sizes.tokens = offset_t(tokens);
  routing.sizes.experts = routing.sizes.columns = index_t(experts);
  routing.sizes.per_token = selector.entries_per_token(routing.sizes);
  routing.sizes.entries = routing.sizes.tokens * routing.sizes.per_token;
  if (reference.find("used_token") != nullptr) {
    auto const used = kokomo::io::read<double>(reference.at("used_token"));
    mask = kokomo::OwnedMatrix<index_t, Exec>("mask", tokens, 1);
    std::vector<index_t> routed;
    for (double const each : used) routed.push_back(each != 0 ? 1 : 0);
    set(mask, routed);
    routing.token_mask = Kokkos::subview(mask, Kokkos::ALL, 0);
  }

  std::vector<Kokkos::View<std::byte*, Exec>> memory;
  auto const laid_out = [&]<class Object>(std::type_identity<Object>, auto const&... arguments) {
    kokomo::detail::Arena counted;
    (void)Object(counted, arguments...);
    memory.emplace_back("memory", counted.used());
    kokomo::detail::Arena arena(memory.back().data());
    return Object(arena, arguments...);
  };
  auto const a = laid_out(std::type_identity<kokomo::Assignment<T, Exec>>{}, routing.sizes.tokens, index_t(experts),
                          routing.sizes.entries);
  kokomo::OwnedMatrix<index_t, Exec> const counts("counts", kokomo::detail::grouping_blocks(routing.sizes.tokens),
                                                  experts);
  using SelectorScratch = typename Selector::template Scratch<T, Exec>;
  selector.template select<kokomo::SoftmaxScore>(
      exec, routing, kokomo::Nothing{}, kokomo::Nothing{}, a,
      laid_out(std::type_identity<SelectorScratch>{}, selector, routing.sizes));
  kokomo::detail::group_by_expert<T, Exec>(exec, a, counts);
  auto const chosen = to_doubles(a.expert_offsets);
  Values loads;
  for (std::size_t e = 0; e < experts; ++e) loads.push_back(chosen[e + 1] - chosen[e]);
  comparison.output("expert_counts", loads, values_of(reference, "expert_counts"));

  if (offset_t(places) != capacity.limit(routing.sizes)) comparison.fail("another capacity");
  kokomo::Capacity::Inputs<T, Exec> inputs;
  kokomo::OwnedMatrix<T, Exec> priority;
  if (reference.find("token_priority_noise") != nullptr) {
    priority = to_device<T>(reference.at("token_priority_noise"), tokens, experts);
    inputs.priority = priority;
  }
  using CapacityScratch = kokomo::Capacity::Scratch<T, Exec>;
  capacity.apply<kokomo::SoftmaxScore>(exec, routing, inputs, a,
                                       laid_out(std::type_identity<CapacityScratch>{}, capacity, routing.sizes));
  typename Gate::template Parameters<T, Exec> const none;
  gate.template forward<T>(exec, none, routing, kokomo::Nothing{}, a);
  kokomo::detail::group_by_expert<T, Exec>(exec, a, counts);
  exec.fence();

  // [tokens, experts, places]: an entry's place counts the kept ones before it, firsts before seconds where they queue so
  auto const offsets = to_doubles(a.token_offsets), expert = to_doubles(a.expert), row = to_doubles(a.row),
             weight = to_doubles(a.weight);
  auto const d_combine = values_of(reference, "grad_combine_weights");
  Values combine(tokens * experts * places), d_weight(std::size_t(a.entries()));
  std::vector<std::size_t> next(experts);
  bool const firsts_first = capacity.order == kokomo::CapacityOrder::position;
  auto const most = std::size_t(routing.sizes.per_token);
  for (std::size_t round = 0; round < (firsts_first ? most : 1); ++round)
    for (std::size_t t = 0; t < tokens; ++t)
      for (auto i = std::size_t(offsets[t]); i < std::size_t(offsets[t + 1]); ++i) {
        if (expert[i] < 0 || row[i] < 0 || (firsts_first && i - std::size_t(offsets[t]) != round)) continue;
        auto const e = std::size_t(expert[i]), place = next[e]++;
        if (place >= places) return comparison.fail("expert " + std::to_string(e) + " takes too many");
        combine[(t * experts + e) * places + place] = weight[i];
        d_weight[i] = d_combine[(t * experts + e) * places + place];
      }
  comparison.output("combine_weights", combine, values_of(reference, "combine_weights"));

  kokomo::OwnedVector<T, Exec> d("d_weight", d_weight.size());
  set(d, d_weight);
  kokomo::OwnedMatrix<T, Exec> const d_logits("d_logits", tokens, experts);
  using GateScratch = typename Gate::template BackwardScratch<T, Exec>;
  gate.template backward<T>(exec, none, routing, a, kokomo::Vector<T, Exec>(d), kokomo::Matrix<T, Exec>(d_logits), none,
                            kokomo::Write::overwrite, laid_out(std::type_identity<GateScratch>{}, gate, routing.sizes));
  exec.fence();
  comparison.gradient("grad_router_logits", to_doubles(d_logits), values_of(reference, "grad_router_logits"));
}

} // namespace

/// DeepSpeed's top1gating, top2gating and topkgating with their capacities. Their loss is checked with the others.
void check_deepspeed_gating(Reference const& reference, Comparison& comparison) {
  auto const& config = reference.config();
  std::string const kind = config.at("kind"), policy = config.at("drop_policy");
  using O = kokomo::CapacityOrder;
  kokomo::Capacity const capacity{.order = policy == "random"  ? O::random
                                           : policy == "probs" ? O::score
                                           : kind == "top2"    ? O::position
                                                               : O::token_position,
                                  .factor = config.at("capacity_factor"),
                                  .minimum = config.at("min_capacity")};
  kokomo::NormalizedSoftmaxGate const normalized{.normalize = kokomo::Normalize::sum_clamp_min,
                                                 .epsilon = std::numeric_limits<float>::epsilon(),
                                                 .drops = kokomo::Drops::renormalize};
  int const k = config.at("top_k");
  if (kind == "top1")
    compare_deepspeed(reference, comparison, kokomo::TopK<>{.k = 1}, kokomo::SoftmaxGate{}, capacity);
  else if (kind == "top2")
    compare_deepspeed(reference, comparison, kokomo::Top2{}, normalized, capacity);
  else
    compare_deepspeed(reference, comparison, kokomo::TopK<>{.k = k}, normalized, capacity);
}
