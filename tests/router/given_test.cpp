// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/given.hpp>

namespace given_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, Given>, NormalizedSoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> Fixture<Subject<T>> subject(std::vector<index_t> const& ids, int k, offset_t experts) {
  Shape const shape{.tokens = offset_t(ids.size()) / k, .hidden = 4, .experts = experts};
  Fixture<Subject<T>> fixture(shape, {.router = {.selector = {.k = k}}, .experts = {.intermediate = 3}});
  fixture.set_choice(ids, std::size_t(k));
  return fixture;
}

TEST_CASE("a given choice is taken: in any order, with gaps, twice the same expert, more ids than experts") {
  std::vector<index_t> const ids{2, 0, 1, none, none, none, 1, 1, 0, none, 2, none, 0, 0, 0};
  auto fixture = subject<double>(ids, 3, 3);
  check_forward(fixture);
  REQUIRE(fixture.result().tokens_without_expert == 1);
  check_gradients(fixture);

  auto in_float = subject<float>(ids, 3, 3);
  check_forward(in_float);
  auto more_ids = subject<double>({0, 1, 1, 0, 0, 1}, 3, 2);
  check_forward(more_ids);
}

TEST_CASE("given ids outside the experts route nowhere and are counted") {
  auto fixture = subject<double>({0, 3, -2, 1, 2147483647, 2}, 2, 3);
  fixture.forward();
  REQUIRE(fixture.result().choice == std::vector<std::vector<int>>{{0, -1}, {-1, 1}, {-1, 2}});
  REQUIRE(fixture.layer.status(fixture.exec, fixture.tape).invalid_ids == 3);
}

TEST_CASE("given choices of masked tokens are ignored") {
  auto fixture = subject<double>({0, 1, 9, 9, 1, 2}, 2, 3);
  fixture.set_mask({1, 0, 1});
  fixture.forward();
  REQUIRE(fixture.result().choice == std::vector<std::vector<int>>{{0, 1}, {-1, -1}, {1, 2}});
  REQUIRE(fixture.layer.status(fixture.exec, fixture.tape).invalid_ids == 0);
}

} // namespace given_test
