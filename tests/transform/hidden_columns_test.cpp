// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "../models/preset.hpp"

#include <support/finite_differences.hpp>

#include <kokomo/models/dense_to_sparse.hpp>

/// Experts cut out of a dense network, and the layers that are published with them.

namespace hidden_columns_test {

using namespace kokomo;
using namespace kokomo::test;

using Columns = std::vector<HiddenColumn>;

TEST_CASE("columns by activation: strictly above the N-th, what all domains need apart from what each needs") {
  //                                          0  1  2  3  4  5
  auto const active = active_columns({{6, 5, 1, 4, 0, 2}, {6, 1, 5, 0, 4, 2}, {7, 0, 0, 8, 9, 1}}, 0.5);
  // the third largest is 4, 4 and 7: two columns are above it
  REQUIRE(active.residual == Columns{});
  REQUIRE(active.of_domain[0] == Columns{{0, 0}, {0, 1}});
  REQUIRE(active.of_domain[1] == Columns{{0, 0}, {0, 2}});
  REQUIRE(active.of_domain[2] == Columns{{0, 3}, {0, 4}});
  auto const two = active_columns({{6, 5, 1, 4, 0, 2}, {6, 1, 5, 0, 4, 2}}, 2.0 / 3);
  REQUIRE(two.residual == Columns{{0, 0}}); // above 2 in both
  REQUIRE(two.of_domain[0] == Columns{{0, 1}, {0, 3}});
  REQUIRE(two.of_domain[1] == Columns{{0, 2}, {0, 4}});
  REQUIRE(two.whole(0) == Columns{{0, 0}, {0, 1}, {0, 3}});
  REQUIRE(two.whole(1) == Columns{{0, 0}, {0, 2}, {0, 4}});
  REQUIRE_THROWS_AS(active_columns({}, 0.5), Error);
  REQUIRE_THROWS_AS(active_columns({{1, 2}, {1}}, 0.5), Error);
  REQUIRE_THROWS_AS(active_columns({{1, 2}}, 0.4), Error);
  REQUIRE_THROWS_AS(active_columns({{1, 2}}, 2), Error);
}

using Parts =
    Layer<Router<LinearScorer, TopK<>>, ConstantGate, NoBalancer, FeedForwardExperts<Plain<Gelu>>, double, Exec>;

TEST_CASE("Union of Experts: all parts together are the dense network, merged they are its weights") {
  Parts::Policies whole, cut;
  whole.router.selector.k = 1, cut.router.selector.k = 4;
  whole.experts.intermediate = 12, cut.experts.intermediate = 3;
  whole.experts.bias = cut.experts.bias = true;
  cut.experts.up_order = WeightOrder::in_out; // another storage order
  Fixture<Parts> dense({.tokens = 5, .hidden = 4, .experts = 1}, whole, 3);
  Fixture<Parts> parts({.tokens = 5, .hidden = 4, .experts = 4}, cut, 4);
  auto const columns = equal_parts(12, 4);
  for (index_t e = 0; e < 4; ++e)
    copy_columns<double>(dense.exec, whole.experts, dense.parameters.experts, cut.experts, parts.parameters.experts, e,
                         columns[std::size_t(e)], /*bias_share*/ 0.25f);
  to_device(to_host(dense.x), parts.x);
  dense.forward(), parts.forward();
  REQUIRE(relative_error(flat(parts.result().y), flat(dense.result().y)) < 1e-14); // sums in another order

  Fixture<Parts> merged({.tokens = 5, .hidden = 4, .experts = 1}, whole, 5);
  Columns all;
  for (index_t e = 0; e < 4; ++e)
    for (index_t c = 0; c < 3; ++c) all.push_back({e, c});
  copy_columns<double>(dense.exec, cut.experts, parts.parameters.experts, whole.experts, merged.parameters.experts, 0,
                       all);
  auto const before = tensors_of(dense.parameters), after = tensors_of(merged.parameters);
  for (std::size_t i = 0; i < before.size(); ++i)
    if (before[i].first != "router.weight") REQUIRE(after[i].second.read() == before[i].second.read());

  // two of four parts are half of the work: rows times hidden columns
  cut.router.selector.k = 2;
  Parts const half({.tokens = 5, .hidden = 4, .experts = 4}, cut);
  REQUIRE(2 * half.sizes().entries * cut.experts.intermediate ==
          dense.layer.sizes().entries * whole.experts.intermediate);

  auto const id = [&](index_t to_expert, Columns const& some) {
    try {
      copy_columns<double>(dense.exec, whole.experts, dense.parameters.experts, cut.experts, parts.parameters.experts,
                           to_expert, some);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id(0, Columns(4)) == 101);
  CHECK(id(4, {}) == 106);
  CHECK(id(0, {{0, 12}}) == 106);
  CHECK(id(0, {{1, 0}}) == 106);
  CHECK(id(0, {}) == 0); // an expert of zeros
  REQUIRE_THROWS_AS(equal_parts(12, 5), Error);
}

using ReadMe = models::ReadMe<double, Exec>;

ReadMe::Policies read_me_policies(offset_t expert, offset_t residual) {
  ReadMe::Policies policies;
  policies.router.selector.k = 1;
  policies.experts.routed.intermediate = expert;
  policies.experts.shared.intermediate = residual, policies.experts.count = 1;
  return policies;
}

TEST_CASE("Read-ME: fused and split experts agree, and with all columns they are the dense network") {
  Shape const one{.tokens = 9, .hidden = 4, .experts = 1, .router_hidden = 3},
      two{.tokens = 9, .hidden = 4, .experts = 2, .router_hidden = 3};
  auto const policies = read_me_policies(6, 6);
  auto const& routed = policies.experts.routed;
  Fixture<ReadMe> dense(one, policies, 3), split(two, policies, 4), fused(two, policies, 4);
  auto const& network = dense.parameters.experts;
  auto const active = active_columns({{6, 5, 1, 4, 0, 2}, {6, 1, 5, 0, 4, 2}}, 2.0 / 3);
  auto const copy = [&](Fixture<ReadMe>& to, index_t e, Columns const& columns, Columns const& residual) {
    copy_columns<double>(dense.exec, routed, network, routed, to.parameters.experts, e, columns);
    copy_columns<double>(dense.exec, routed, network, policies.experts.shared, to.parameters.shared.experts, 0,
                         residual);
  };
  for (index_t e = 0; e < 2; ++e) {
    copy(split, e, active.of_domain[std::size_t(e)], active.residual);
    copy(fused, e, active.whole(std::size_t(e)), {});
  }
  split.forward(), fused.forward(); // the same seed, so the same x and features
  auto const y = split.result();
  REQUIRE(y.choice == fused.result().choice);
  REQUIRE(relative_error(flat(fused.result().y), flat(y.y)) < 1e-14);
  REQUIRE(y.weights == Rows(9, Row{1.0})); // no weight of the gate

  Columns all;
  for (index_t c = 0; c < 6; ++c) all.push_back({0, c});
  copy(fused, 0, all, {}), copy(fused, 1, all, {});
  Fixture<ReadMe> whole(one, policies, 4);
  for (auto const& [name, tensor] : tensors_of(whole.parameters))
    if (name.find("shared") == 0) tensor.write(Row(tensor.read().size()));
  to_device(to_host(network.gate_up), whole.parameters.experts.gate_up);
  to_device(to_host(network.down), whole.parameters.experts.down);
  to_device(to_host(fused.x), whole.x);
  fused.forward(), whole.forward();
  REQUIRE(fused.result().y == whole.result().y); // bit for bit
}

TEST_CASE(
    "Read-ME: what a token needs is known before the first layer, the same in all of them, from earlier tokens alone") {
  Shape const shape{.tokens = 9, .hidden = 4, .experts = 3, .router_hidden = 3};
  Fixture<ReadMe> first(shape, read_me_policies(2, 2), 1), second(shape, read_me_policies(2, 2), 2);
  to_device(to_host(first.router_input), second.router_input);
  second.parameters.router = first.parameters.router; // one router in front of the model
  first.forward(), second.forward();
  auto const choice = first.result().choice;
  REQUIRE(second.result().choice == choice); // whatever the layers' own inputs are
  static_assert(ReadMe::causal);
  auto features = to_host(first.router_input);
  for (std::size_t h = 0; h < 3; ++h) features[5 * 3 + h] *= -1;
  to_device(features, first.router_input);
  first.forward();
  auto const changed = first.result().choice;
  REQUIRE(changed[5] != choice[5]);
  for (std::size_t t = 0; t < 5; ++t) REQUIRE(changed[t] == choice[t]);
  check_gradients(first);
}

template <class Gate> using Data = models::UnionOfExpertsData<double, Exec, Gate, ScaleExperts>;

TEST_CASE("Union of Experts, data selection: without weights the router learns nothing, with the shares it does") {
  Data<ConstantGate>::Policies policies;
  models::configure_union_of_experts_data(policies, 2, 4);
  Fixture<Data<ConstantGate>> f({.tokens = 8, .hidden = 3, .experts = 4}, policies, 6);
  f.forward(), f.backward();
  auto const out = f.result();
  std::vector<int> loads(4, 0);
  for (auto const& chosen : out.choice)
    for (int const e : chosen) ++loads[std::size_t(e)];
  REQUIRE(loads == std::vector<int>(4, 2 * 2)); // half of four tokens, of two sequences
  auto const x = matrix_of(f.x), scale = matrix_of(f.parameters.experts.scale);
  Rows y(8, Row(3, 0.0));
  for (std::size_t t = 0; t < 8; ++t)
    for (int const e : out.choice[t])
      for (std::size_t h = 0; h < 3; ++h) y[t][h] += scale[std::size_t(e)][h] * x[t][h]; // added up
  REQUIRE(relative_error(flat(out.y), flat(y)) < 1e-14);
  REQUIRE(norm(in_double(to_host(f.gradients.router.weight))) == 0);

  Data<ScoreGate<IdentityScore>>::Policies weighed;
  models::configure_union_of_experts_data(weighed, 2, 4);
  Fixture<Data<ScoreGate<IdentityScore>>> raw({.tokens = 8, .hidden = 3, .experts = 4}, weighed, 6);
  check_gradients(raw);
  raw.forward(), raw.backward();
  REQUIRE(raw.result().choice == out.choice);
  REQUIRE(norm(in_double(to_host(raw.gradients.router.weight))) > 0.01);
}

} // namespace hidden_columns_test
