// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_ROUTING_FIXTURE_HPP
#define KOKOMO_TESTS_SUPPORT_ROUTING_FIXTURE_HPP

#include <support/compiled.hpp>
#include <support/views.hpp>

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/grouping.hpp>
#include <kokomo/detail/product.hpp>

#include <functional>

namespace kokomo::test {

/// What the routing policies of one call see, made from logits and without a layer: selectors, gates and balancers are
/// tested against their formulas at a fraction of a layer's compile time.
///
///     RoutingFixture<> f({{2, 1, 0}, {0, 0, 5}});
///     f.select<SoftmaxScore>(TopK<>{.k = 2});
///     REQUIRE(f.chosen() == std::vector<std::vector<int>>{{0, 1}, {2, 0}});
///     f.weigh(SoftmaxGate{});
///     f.observe(ZLoss{});   // f.loss()
///     auto d = f.gate_gradient(SoftmaxGate{}, d_weights);
///
/// Set `bias`, `token_mask`, `expert_mask`, `routing.mode`, `routing.step` before. Memory that policies lay out is
/// poisoned: what is read without having been written shows.
template <class TypeT = double, class ExecT = Exec> struct RoutingFixture {
  using T = TypeT;
  using Exec = ExecT;
  using C = compute_t<T>;

  Exec exec;
  Sizes sizes;
  OwnedMatrix<C, Exec> logits;
  OwnedVector<C, Exec> bias;             ///< [experts], if allocated
  OwnedVector<index_t, Exec> token_mask; ///< [tokens], if allocated
  OwnedVector<index_t, Exec> expert_mask;
  Routing<T, Exec> routing;
  Assignment<T, Exec> assignment;

  /// \param[in] shared the last so many columns are those of jointly weighed shared experts
  explicit RoutingFixture(Rows const& rows, index_t shared = 0, std::size_t columns = 1)
      : logits("logits", rows.size(), rows.empty() ? columns : rows[0].size()), m_loss("loss", 1),
        m_status("status", 1) {
    sizes.tokens = offset_t(rows.size());
    sizes.hidden = sizes.router_width = 1;
    sizes.columns = index_t(logits.extent(1));
    sizes.shared = shared;
    sizes.experts = sizes.weighted = sizes.columns - shared;
    sizes.workers = detail::product_workers(exec);
    to_device(flat(rows), logits);
  }

  void set_bias(Row const& values) { set(bias, values); }
  void set_token_mask(std::vector<index_t> const& values) { set(token_mask, values); }
  void set_expert_mask(std::vector<index_t> const& values) { set(expert_mask, values); }

  template <class Policy> parameters_t<Policy, T, Exec> parameters_of(Policy const& policy) {
    Allocator<Exec> const allocate(exec);
    return detail::make<parameters_t<Policy, T, Exec>>(allocate, policy, sizes);
  }
  template <class Policy> state_t<Policy, T, Exec> state_of(Policy const& policy) {
    Allocator<Exec> const allocate(exec);
    return detail::make<state_t<Policy, T, Exec>>(allocate, policy, sizes);
  }
  template <class Policy> saved_t<Policy, T, Exec> saved_of(Policy const& policy) {
    return laid_out<saved_t<Policy, T, Exec>>(policy);
  }

  /// Selects and groups; checks the selector's settings first, as a layer does.
  template <class Score, class Selector> void select(Selector const& selector) {
    select<Score>(selector, state_of(selector), inputs_t<Selector, T, Exec>{});
  }
  template <class Score, class Selector>
  void select(Selector const& selector, state_t<Selector, T, Exec> const& state,
              inputs_t<Selector, T, Exec> const& inputs) {
    prepare_for(selector);
    selector.template select<Score>(exec, routing, state, inputs, assignment,
                                    laid_out<scratch_t<Selector, T, Exec>>(selector));
    group();
  }

  /// Sizes, routing and an empty assignment for a selector: what `select` begins with.
  template <class Selector> void prepare_for(Selector const& selector) {
    detail::check_settings(selector, sizes);
    sizes.per_token = selector.entries_per_token(sizes);
    if constexpr (detail::BoundsBatch<Selector>)
      sizes.entries = selector.entries(sizes);
    else
      sizes.entries = sizes.tokens * sizes.per_token;
    refresh();
    detail::Arena counted;
    (void)Assignment<T, Exec>(counted, sizes.tokens, sizes.experts, sizes.entries);
    detail::Arena arena(m_memory.allocate(counted.used()));
    assignment = Assignment<T, Exec>(arena, sizes.tokens, sizes.experts, sizes.entries);
  }

  /// Groups the executed entries by expert.
  void group() {
    Matrix<index_t, Exec> const counts(
        reinterpret_cast<index_t*>(
            m_memory.allocate(std::size_t(detail::grouping_blocks(sizes.tokens) * sizes.experts) * sizeof(index_t))),
        std::size_t(detail::grouping_blocks(sizes.tokens)), std::size_t(sizes.experts));
    detail::group_by_expert(exec, assignment, counts);
    exec.fence();
  }

  /// Writes the weights, and those of the rows.
  template <class Gate> void weigh(Gate const& gate) { weigh(gate, parameters_of(gate)); }
  template <class Gate> void weigh(Gate const& gate, parameters_t<Gate, T, Exec> const& parameters) {
    detail::check_settings(gate, sizes);
    refresh();
    gate.template forward<T>(exec, parameters, routing, inputs_t<Gate, T, Exec>{}, assignment);
    group();
  }

  /// d_logits [tokens][columns] of a gate, for a gradient of each entry's weight in entry order.
  template <class Gate> Rows gate_gradient(Gate const& gate, Row d_weights) {
    d_weights.resize(std::size_t(assignment.entries()), 0.0);
    OwnedVector<C, Exec> d_weight("d_weight", d_weights.size());
    to_device(d_weights, d_weight);
    OwnedMatrix<C, Exec> d_logits("d_logits", logits.extent(0), logits.extent(1));
    poison_view(d_logits);
    auto const parameters = parameters_of(gate), grads = parameters_of(gate);
    gate.template backward<T>(exec, parameters, routing, assignment, Vector<C, Exec>(d_weight),
                              Matrix<C, Exec>(d_logits), grads, Write::overwrite,
                              laid_out<backward_scratch_t<Gate, T, Exec>>(gate));
    exec.fence();
    return in_rows(tensor(d_logits).read(), logits.extent(0));
  }

  /// Lets a balancer see what was chosen; returns its loss.
  template <class Balancer>
  double observe(Balancer const& balancer, state_t<Balancer, T, Exec> const& state,
                 saved_t<Balancer, T, Exec> const& saved) {
    detail::check_settings(balancer, sizes);
    refresh();
    to_device(Row{0}, m_loss);
    balancer.template observe<T>(exec, routing, assignment, state, saved, Vector<C, Exec>(m_loss));
    exec.fence();
    return tensor(m_loss).read()[0];
  }
  /// d_logits of the loss that `observe` saw.
  template <class Balancer> Rows loss_gradient(Balancer const& balancer, saved_t<Balancer, T, Exec> const& saved) {
    OwnedMatrix<C, Exec> d_logits("d_logits", logits.extent(0), logits.extent(1)); // zero: a balancer adds
    balancer.template backward<T>(exec, routing, assignment, saved, Matrix<C, Exec>(d_logits));
    exec.fence();
    return in_rows(tensor(d_logits).read(), logits.extent(0));
  }

  /// Experts that each token chose, in entry order, without those of nobody.
  std::vector<std::vector<int>> chosen() const { return experts_of(false); }
  /// Those of them that took it.
  std::vector<std::vector<int>> executed() const { return experts_of(true); }
  /// Weights of the chosen ones.
  Rows weights() const {
    auto const offsets = to_host(assignment.token_offsets);
    auto const expert = to_host(assignment.expert);
    auto const weight = to_host(assignment.weight);
    Rows rows(std::size_t(sizes.tokens));
    for (std::size_t t = 0; t < rows.size(); ++t)
      for (auto i = offsets[t]; i < offsets[t + 1]; ++i)
        if (expert[i] != none) rows[t].push_back(double(weight[i]));
    return rows;
  }
  /// Executed entries of each expert.
  std::vector<offset_t> loads() const {
    auto const offsets = to_host(assignment.expert_offsets);
    std::vector<offset_t> counts;
    for (std::size_t e = 0; e + 1 < offsets.size(); ++e) counts.push_back(offsets[e + 1] - offsets[e]);
    return counts;
  }
  Status status() const { return to_host(m_status)[0]; }

  /// A nested object of a policy, in poisoned memory.
  template <class Object, class Policy> Object laid_out(Policy const& policy) {
    detail::Arena counted;
    (void)detail::make<Object>(counted, policy, sizes);
    detail::Arena arena(m_memory.allocate(counted.used()));
    return detail::make<Object>(arena, policy, sizes);
  }

private:
  template <class V, class Values> static void set(V& view, Values const& values) {
    view = V("values", values.size());
    to_device(values, view);
  }

  void refresh() {
    routing.logits = logits;
    routing.bias = bias;
    routing.token_mask = token_mask;
    routing.expert_mask = expert_mask;
    routing.status = m_status.data();
    routing.sizes = sizes;
  }

  std::vector<std::vector<int>> experts_of(bool executed_only) const {
    auto const offsets = to_host(assignment.token_offsets);
    auto const expert = to_host(assignment.expert), row = to_host(assignment.row);
    std::vector<std::vector<int>> rows(std::size_t(sizes.tokens));
    for (std::size_t t = 0; t < rows.size(); ++t)
      for (auto i = offsets[t]; i < offsets[t + 1]; ++i)
        if (expert[i] != none && !(executed_only && row[i] == none)) rows[t].push_back(expert[i]);
    return rows;
  }

  OwnedVector<C, Exec> m_loss;
  OwnedVector<Status, Exec> m_status;
  PoisonedMemory m_memory;
};
extern template struct RoutingFixture<double, Exec>;
extern template struct RoutingFixture<float, Exec>;

/// Central differences of f(logits) for every logit, with a step h: off by h^2 times the third derivative, and by rounding
/// 1e-16 |f| / h.
Rows logit_differences(Rows logits, std::function<double(Rows const&)> const& f, double h = 1e-5);

} // namespace kokomo::test

#endif
