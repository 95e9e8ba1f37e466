// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/hash.hpp>

namespace hash_test {

using namespace kokomo;
using namespace kokomo::test;

/// DeepSeek-V4's first layers: the table chooses, the logits weigh.
template <class T>
using Subject = Layer<Router<LinearScorer, HashTable>, NormalizedSqrtSoftplusGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T>
Fixture<Subject<T>> subject(int k, std::vector<index_t> const& table, std::vector<offset_t> const& ids,
                            offset_t experts) {
  Shape const shape{.tokens = offset_t(ids.size()), .hidden = 4, .experts = experts};
  Fixture<Subject<T>> fixture(shape, {.router = {.selector = {.k = k, .vocabulary = offset_t(table.size()) / k}},
                                      .experts = {.intermediate = 3}});
  to_device(table, fixture.state.selector.table);
  fixture.set_token_ids(ids);
  return fixture;
}

TEST_CASE("a hash table routes by token id alone") {
  std::vector<index_t> const table{0, 3, 2, 1, 1, 2, none, 3};
  std::vector<offset_t> const ids{0, 3, 2, 2, 1, 0, 3};
  auto fixture = subject<double>(2, table, ids, 4);
  check_forward(fixture);
  auto const out = fixture.result();
  REQUIRE(out.choice == std::vector<std::vector<int>>{{0, 3}, {-1, 3}, {1, 2}, {1, 2}, {2, 1}, {0, 3}, {-1, 3}});
  REQUIRE(out.weights[1][0] == 0);
  REQUIRE(out.weights[1][1] == 1); // normalised over what it has
  check_gradients(fixture);

  auto in_float = subject<float>(2, table, ids, 4);
  check_forward(in_float);
}

TEST_CASE("ids outside the vocabulary and experts outside the layer route nowhere and are counted") {
  auto fixture = subject<double>(2, {0, 1, 7, 2, 1, -5}, {0, 3, 1, -1, 2, 1}, 3);
  fixture.forward();
  REQUIRE(fixture.result().choice ==
          std::vector<std::vector<int>>{{0, 1}, {-1, -1}, {-1, 2}, {-1, -1}, {1, -1}, {-1, 2}});
  auto const status = fixture.layer.status(fixture.exec, fixture.tape);
  REQUIRE(status.invalid_ids == 5); // tokens 1 and 3; experts 7, 7 and -5
  REQUIRE(status.tokens_without_expert == 2);
  check_grouping(fixture);
}

TEST_CASE("a hash table does not look at masked tokens") {
  auto fixture = subject<double>(1, {0, 1}, {0, 99, 1}, 2);
  fixture.set_mask({1, 0, 1});
  fixture.forward();
  REQUIRE(fixture.result().choice == std::vector<std::vector<int>>{{0}, {-1}, {1}});
  REQUIRE(fixture.layer.status(fixture.exec, fixture.tape).invalid_ids == 0);
}

} // namespace hash_test
