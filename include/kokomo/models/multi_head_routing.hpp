// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_MULTI_HEAD_ROUTING_HPP
#define KOKOMO_MODELS_MULTI_HEAD_ROUTING_HPP

#include <kokomo/experts/merged_adapters.hpp>
#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/split_gate.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/table_scorer.hpp>

namespace kokomo::inline v0::models {

/// Multi-head routing (MHR): a task's row of a table says with which weights the skills of each split are averaged, before
/// they are applied; with one split Polytropon. The projection that the result is added to is the caller's.
/// Source: microsoft/mttl. docs/families/multi_head_routing.md
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MultiHeadRouting = Layer<Router<TableScorer, TopK<>>, SplitGate, NoBalancer, MergedAdapters, T, Exec>;

/// MHR-mu: the mean of the skills, whatever the task.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using MultiHeadMean = Layer<Router<TableScorer, TopK<>>, ConstantGate, NoBalancer, MergedAdapters, T, Exec>;

/// The settings of both: `tasks` rows, `splits` of `skills` skills each (Shape::experts = splits * skills).
template <class P>
constexpr void configure_multi_head_routing(P& policies, offset_t tasks, index_t splits, index_t skills,
                                            offset_t rank) {
  policies.router.scorer.rows = tasks;
  policies.router.selector.k = int(splits * skills);
  policies.experts.splits = splits;
  policies.experts.rank = rank;
  if constexpr (requires { policies.gate.splits; })
    policies.gate.splits = splits;
  else
    policies.gate.value = 1.0f / float(skills);
}

} // namespace kokomo::inline v0::models

#endif
