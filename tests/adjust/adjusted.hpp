// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_ADJUST_ADJUSTED_HPP
#define KOKOMO_TESTS_ADJUST_ADJUSTED_HPP

#include <support/routing_fixture.hpp>

#include <kokomo/router/top_k.hpp>

namespace kokomo::test {

/// One adjustment of given logits, without a layer.
template <class Policy, class T = double> struct Adjusted {
  Policy policy;
  RoutingFixture<T> fixture;
  parameters_t<Policy, T, Exec> parameters, grads;
  state_t<Policy, T, Exec> state;
  inputs_t<Policy, T, Exec> inputs{};
  Mode mode = Mode::inference;
  std::uint64_t step = 0;

  explicit Adjusted(Policy const& p, Rows const& logits, int k = 1)
      : policy(p), fixture(logits), parameters(fixture.parameters_of(policy)), grads(fixture.parameters_of(policy)),
        state(fixture.state_of(policy)), m_k(k) {
    fixture.exec.fence();
    fixture.prepare_for(TopK<>{.k = m_k});
    detail::check_settings(policy, fixture.sizes);
  }

  /// The adjusted logits of these.
  Rows operator()(Rows const& logits) {
    to_device(flat(logits), fixture.logits);
    fixture.prepare_for(TopK<>{.k = m_k});
    fixture.routing.mode = mode;
    fixture.routing.step = step;
    m_saved.clear();
    m_saved.push_back(fixture.template saved_of<Policy>(policy));
    policy.template adjust<T>(fixture.exec, parameters, fixture.routing, state, inputs, Matrix<C, Exec>(fixture.logits),
                              m_saved[0]);
    fixture.exec.fence();
    return in_rows(in_double(to_host(fixture.logits)), logits.size());
  }

  /// Gradient of sum(weights * adjusted logits) with respect to the logits that operator() saw last.
  Rows gradient(Rows const& weights, Write write = Write::overwrite) {
    OwnedMatrix<C, Exec> d("d_logits", fixture.logits.extent(0), fixture.logits.extent(1));
    to_device(flat(weights), d);
    policy.template adjust_backward<T>(fixture.exec, parameters, fixture.routing, state, inputs, m_saved[0],
                                       Matrix<C, Exec>(d), grads, write);
    fixture.exec.fence();
    return in_rows(in_double(to_host(d)), weights.size());
  }

  /// Which experts the adjustment leaves.
  std::vector<index_t> mask() { return to_host(policy.template expert_mask<T, Exec>(state, m_saved[0])); }

  /// What top-k makes of the logits that operator() left, masks included.
  template <class Score = SoftmaxScore> std::vector<std::vector<int>> chosen() {
    if constexpr (detail::MasksExperts<Policy, T, Exec>) fixture.set_expert_mask(mask());
    fixture.template select<Score>(TopK<>{.k = m_k});
    return fixture.chosen();
  }

private:
  using C = compute_t<T>;
  int m_k;
  std::vector<saved_t<Policy, T, Exec>> m_saved;
};

/// Backward against central differences of sum(weights * adjusted logits).
template <class Policy> void check_adjust_gradient(Adjusted<Policy>& adjusted, Rows const& logits) {
  Rows weights = logits;
  for (std::size_t t = 0; t < weights.size(); ++t)
    for (std::size_t e = 0; e < weights[t].size(); ++e) weights[t][e] = std::sin(3.0 * double(t) + double(e) + 1);
  auto const differences = logit_differences(logits, [&](Rows const& z) {
    auto const out = flat(adjusted(z)), w = flat(weights);
    double sum = 0;
    for (std::size_t i = 0; i < out.size(); ++i) sum += out[i] * w[i];
    return sum;
  });
  (void)adjusted(logits);
  // third derivatives of a standard deviation of order one: h^2 = 1e-10, and rounding 1e-16 / h
  CHECK(relative_error(flat(adjusted.gradient(weights)), flat(differences)) < 1e-8);
}

/// Numbers of order one that depend on the place alone, no two alike.
inline Rows some_logits(std::size_t tokens, std::size_t experts, double shift = 0) {
  Rows rows(tokens, Row(experts));
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < experts; ++e) rows[t][e] = 2 * std::sin(7.3 * double(t + 1) + 3.1 * double(e) + shift);
  return rows;
}

} // namespace kokomo::test

#endif
