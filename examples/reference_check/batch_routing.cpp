// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/batch_routing.hpp>

#include <cmath>
#include <set>

using kokomo::index_t;
using kokomo::offset_t;

namespace {

using Values = std::vector<double>;

Values values_of(Reference const& reference, std::string const& name) {
  return kokomo::io::read<double>(reference.at(name));
}

template <class Layer> void compare_expert_choice(Reference const& reference, Comparison& comparison) {
  auto const& config = reference.config();
  kokomo::models::Description d;
  d.hidden = config.at("hidden_size");
  d.intermediate = config.at("expert_intermediate_size");
  d.experts = config.at("num_experts");
  d.capacity = config.at("capacity");
  Block<Layer> block(reference, d);
  block.run({});
  comparison.output("output", to_doubles(block.y), values_of(reference, "output"));
  comparison.output("router_logits", to_doubles(block.layer.saved(block.tape).logits),
                    values_of(reference, "router_logits"));

  // experts' lists: as sets, and the gate of each pair
  auto const index = kokomo::io::read<std::int64_t>(reference.at("token_index"));
  auto const gates = values_of(reference, "expert_gate");
  auto const a = block.layer.saved(block.tape).assignment;
  auto const offsets = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.expert_offsets);
  auto const tokens = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.token_of_row);
  auto const weights = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.weight_of_row);
  auto const places = std::size_t(d.capacity);
  Values got, expected;
  for (std::size_t e = 0; e < std::size_t(d.experts); ++e) {
    std::map<std::int64_t, double> mine, theirs;
    for (auto row = offsets(e); row < offsets(e + 1); ++row) mine[tokens(row)] = weights(row);
    for (std::size_t i = 0; i < places; ++i) theirs[index[e * places + i]] = gates[e * places + i];
    for (auto const& [token, gate] : theirs) {
      if (mine.size() != theirs.size() || mine.count(token) == 0)
        return comparison.fail("expert " + std::to_string(e) + " took other tokens");
      got.push_back(mine.at(token)), expected.push_back(gate);
    }
  }
  comparison.output("expert_gate", got, expected);
  comparison.gradient("grad_input", to_doubles(block.dx), values_of(reference, "grad_input"));
  block.compare_gradients(reference, comparison);
}

} // namespace

void check_expert_choice(Reference const& reference, Comparison& comparison) {
  namespace models = kokomo::models;
  if (reference.config().at("score_function") == "sigmoid")
    compare_expert_choice<models::ExpertChoiceMoe<float, Exec, kokomo::SigmoidGate>>(reference, comparison);
  else
    compare_expert_choice<models::ExpertChoiceMoe<float, Exec>>(reference, comparison);
}

/// The entropic plan for any masses, and the gradient of a function of it with respect to the cost.
void check_sinkhorn(Reference const& reference, Comparison& comparison) {
  auto const tokens = reference.tokens();
  auto const experts = reference.config().at("num_experts").get<index_t>();
  double const reg = reference.config().at("reg");
  Exec const exec;
  using Plan = kokomo::detail::SinkhornPlan<double, Exec>;
  kokomo::detail::Arena counted;
  (void)Plan(counted, tokens, experts);
  Kokkos::View<std::byte*, Exec> memory("plan", counted.used());
  kokomo::detail::Arena arena(memory.data());
  Plan const plan(arena, tokens, experts);
  auto const set = [](auto const& target, Values const& values) {
    auto const host = Kokkos::create_mirror_view(target);
    std::copy(values.begin(), values.end(), host.data());
    Kokkos::deep_copy(target, host);
  };
  auto scores = values_of(reference, "cost"), rows = values_of(reference, "row_marginal"),
       columns = values_of(reference, "column_marginal");
  for (double& s : scores) s /= -reg;
  for (double& mass : rows) mass = std::log(mass);
  for (double& mass : columns) mass = std::log(mass);
  set(plan.scores, scores), set(plan.log_row, rows), set(plan.log_column, columns);

  // the reference ran to convergence, and so does this
  constexpr int iterations = 20000;
  constexpr double tolerance = 1e-13;
  kokomo::detail::sinkhorn<double, Exec>(
      exec, plan, {iterations, tolerance, -INFINITY, kokomo::detail::SinkhornStop::marginals}, true);
  exec.fence();
  auto const potential = to_doubles(plan.row), column_potential = to_doubles(plan.column);
  auto const cost = values_of(reference, "cost");
  auto const d_plan = values_of(reference, "grad_plan");
  Values got(scores.size()), d_log(scores.size());
  double transport_cost = 0;
  for (std::size_t i = 0; i < scores.size(); ++i) {
    got[i] = std::exp(scores[i] + potential[i / std::size_t(experts)] + column_potential[i % std::size_t(experts)]);
    d_log[i] = got[i] * d_plan[i];
    transport_cost += got[i] * cost[i];
  }
  comparison.output("plan", got, values_of(reference, "plan"));
  comparison.output("transport_cost", {transport_cost}, values_of(reference, "transport_cost"));
  if (transport_cost < values_of(reference, "exact_transport_cost")[0] * (1 - 1e-9))
    comparison.fail("a regularised plan cannot cost less than the exact one");

  kokomo::OwnedMatrix<double, Exec> d("d", std::size_t(tokens), std::size_t(experts));
  kokomo::OwnedVector<double, Exec> a("a", std::size_t(tokens)), b("b", std::size_t(experts));
  set(d, d_log);
  kokomo::detail::sinkhorn_backward<double, Exec>(exec, plan, d, a, b, iterations, tolerance);
  exec.fence();
  auto d_cost = to_doubles(d);
  for (double& value : d_cost) value /= -reg;
  comparison.gradient("grad_cost", d_cost, values_of(reference, "grad_cost"));
}
