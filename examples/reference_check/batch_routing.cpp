// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/balancer/bip_balancing.hpp>
#include <kokomo/detail/sinkhorn.hpp>
#include <kokomo/router/balanced_assignment.hpp>

#include <algorithm>
#include <cmath>

using kokomo::index_t;
using kokomo::offset_t;

void check_expert_choice(Reference const& reference, Comparison& comparison) {
  auto const& config = reference.config();
  kokomo::models::Description d;
  d.hidden = config.at("hidden_size");
  d.intermediate = config.at("expert_intermediate_size");
  d.experts = config.at("num_experts");
  d.capacity = config.at("capacity");
  std::string const score = config.at("score_function");
  auto const layer = families::composition(score == "sigmoid" ? "ExpertChoiceSigmoid" : "ExpertChoice")(
      d, reference.tokens(), reference.is_bfloat16());
  load(*layer, reference);
  families::Inputs inputs;
  inputs.x = kokomo::io::read<float>(reference.at("input"));
  layer->forward(inputs);
  layer->backward(kokomo::io::read<float>(reference.at("grad_output")));
  comparison.output("output", doubles(layer->y()), values_of(reference, "output"));
  comparison.output("router_logits", doubles(layer->logits()), values_of(reference, "router_logits"));

  // experts' lists: as sets, and the gate of each pair
  auto const index = kokomo::io::read<std::int64_t>(reference.at("token_index"));
  auto const gates = values_of(reference, "expert_gate");
  auto const a = layer->assignment();
  std::vector<std::map<std::int64_t, double>> taken(std::size_t(d.experts)); // tokens and gates
  for (std::size_t t = 0; t + 1 < a.token_offsets.size(); ++t)
    for (auto i = std::size_t(a.token_offsets[t]); i < std::size_t(a.token_offsets[t + 1]); ++i)
      if (a.row[i] != kokomo::none) taken[std::size_t(a.expert[i])][std::int64_t(t)] = a.weight[i];
  auto const places = std::size_t(d.capacity);
  Values got, expected;
  for (std::size_t e = 0; e < taken.size(); ++e) {
    auto const& mine = taken[e];
    std::map<std::int64_t, double> theirs;
    for (std::size_t i = 0; i < places; ++i) theirs[index[e * places + i]] = gates[e * places + i];
    for (auto const& [token, gate] : theirs) {
      if (mine.size() != theirs.size() || mine.count(token) == 0)
        return comparison.fail("expert " + std::to_string(e) + " took other tokens");
      got.push_back(mine.at(token)), expected.push_back(gate);
    }
  }
  comparison.output("expert_gate", got, expected);
  comparison.gradient("grad_input", doubles(layer->dx()), values_of(reference, "grad_input"));
  compare_gradients(*layer, reference, comparison);
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

namespace {

/// Scores as logits of a Routing, and memory for what works on it.
struct Scores {
  Exec exec;
  kokomo::OwnedMatrix<double, Exec> logits;
  kokomo::OwnedVector<kokomo::Status, Exec> status{"status", 1};
  kokomo::Routing<double, Exec> routing;
  std::vector<Kokkos::View<std::byte*, Exec>> memory;

  explicit Scores(Reference const& reference)
      : logits(to_device<double>(reference.at("scores"), std::size_t(reference.tokens()),
                                 reference.config().at("num_experts").get<std::size_t>())) {
    routing.logits = logits;
    routing.status = status.data();
    routing.sizes.tokens = reference.tokens();
    routing.sizes.experts = routing.sizes.columns = reference.config().at("num_experts");
    routing.sizes.per_token = reference.config().at("top_k");
    routing.mode = kokomo::Mode::training;
  }
  template <class Object, class... Arguments> Object laid_out(Arguments const&... arguments) {
    kokomo::detail::Arena counted;
    (void)Object(counted, arguments...);
    memory.emplace_back("memory", counted.used());
    kokomo::detail::Arena arena(memory.back().data());
    return Object(arena, arguments...);
  }
};

/// k sum u + capacity sum q + sum max(0, s - u - q): what no feasible choice exceeds, for any u and any q >= 0.
double dual_value(Values const& s, Values const& u, Values const& q, double k, double capacity) {
  double sum = 0;
  for (double const v : u) sum += k * v;
  for (double const v : q) sum += capacity * v;
  for (std::size_t i = 0; i < s.size(); ++i) sum += std::max(0.0, s[i] - u[i / q.size()] - q[i % q.size()]);
  return sum;
}

} // namespace

/// The auction against the optimum of scipy: loads, distance, and that the file's own duals prove its optimum.
void check_balanced_assignment(Reference const& reference, Comparison& comparison) {
  Scores scores(reference);
  auto const s = values_of(reference, "scores");
  double const optimum = values_of(reference, "optimum")[0];
  auto const capacity = reference.config().at("capacity").get<offset_t>();
  comparison.output(
      "dual of the file",
      {dual_value(s, values_of(reference, "token_dual"), values_of(reference, "expert_dual"), 1, double(capacity))},
      {optimum});

  kokomo::BalancedAssignment const selector;
  using Scratch = kokomo::BalancedAssignment::Scratch<double, Exec>;
  auto const scratch = scores.laid_out<Scratch>(selector, scores.routing.sizes);
  kokomo::detail::auction<double, Exec>(scores.exec, scores.routing, scratch,
                                        {selector.accuracy, selector.minimum_epsilon, selector.rounds});
  scores.exec.fence();
  auto const expert = to_doubles(scratch.expert), price = to_doubles(scratch.price);
  std::vector<offset_t> loads(price.size());
  double value = 0, bound = 0;
  for (std::size_t t = 0; t < expert.size(); ++t) {
    double best = -INFINITY;
    for (std::size_t e = 0; e < price.size(); ++e) best = std::max(best, s[t * price.size() + e] - price[e]);
    bound += best;
    value += s[t * price.size() + std::size_t(expert[t])];
    ++loads[std::size_t(expert[t])];
  }
  for (std::size_t e = 0; e < price.size(); ++e) {
    bound += double(capacity) * price[e];
    if (loads[e] != capacity) comparison.fail("expert " + std::to_string(e) + " has another load");
  }
  double const distance = double(expert.size()) * to_doubles(scratch.epsilon)[0];
  if (!(value <= optimum + 1e-9 * std::abs(optimum))) comparison.fail("an assignment beyond the optimum");
  if (!(value >= optimum - distance)) comparison.fail("further from the optimum than T epsilon");
  if (!(bound >= optimum - 1e-9 && bound <= value + distance + 1e-9)) comparison.fail("prices that prove nothing");

  // and with a finer epsilon closer
  kokomo::detail::auction<double, Exec>(scores.exec, scores.routing, scratch, {1e-5, 1e-9, 1 << 20});
  scores.exec.fence();
  auto const fine = to_doubles(scratch.expert);
  double fine_value = 0;
  for (std::size_t t = 0; t < fine.size(); ++t) fine_value += s[t * price.size() + std::size_t(fine[t])];
  if (!(fine_value >= optimum - double(fine.size()) * to_doubles(scratch.epsilon)[0]))
    comparison.fail("further from the optimum than a finer T epsilon");
}

/// BIP's duals against a linear programme's: never below its optimum, never rising, and the file's own duals reach it.
void check_capacity_lp(Reference const& reference, Comparison& comparison) {
  auto const s = values_of(reference, "scores");
  double const optimum = values_of(reference, "optimum")[0];
  auto const k = reference.config().at("top_k").get<offset_t>();
  auto const capacity = reference.config().at("capacity").get<offset_t>();
  comparison.output("dual of the file",
                    {dual_value(s, values_of(reference, "token_dual"), values_of(reference, "expert_dual"), double(k),
                                double(capacity))},
                    {optimum});
  auto const mask = values_of(reference, "assignment_mask");
  double masked = 0;
  for (std::size_t i = 0; i < s.size(); ++i) masked += s[i] * mask[i];
  comparison.output("optimum", {masked}, {optimum});

  double before = INFINITY;
  for (int iterations = 1; iterations <= 64; iterations *= 2) {
    Scores scores(reference);
    kokomo::BipBalancing const balancer{.iterations = iterations, .places = capacity};
    using Saved = kokomo::BipBalancing::Saved<double, Exec>;
    auto const saved = scores.laid_out<Saved>(balancer, scores.routing.sizes);
    kokomo::BipBalancing::State<double, Exec> const state(kokomo::Allocator<Exec>(scores.exec), balancer,
                                                          scores.routing.sizes);
    balancer.prepare<kokomo::IdentityScore, double>(scores.exec, scores.routing, state, saved);
    scores.exec.fence();
    auto q = to_doubles(state.bias);
    for (double& v : q) v = -v;
    double const value = dual_value(s, to_doubles(saved.dual), q, double(k), double(capacity));
    if (!(value >= optimum - 1e-9)) comparison.fail("a dual value below the optimum");
    if (!(value <= before + 1e-9)) comparison.fail("a dual value that rises");
    before = value;
  }
  double const unconstrained = values_of(reference, "unconstrained_optimum")[0];
  if (!(before <= unconstrained + 1e-9)) comparison.fail("a dual value above the optimum without capacities");
}
