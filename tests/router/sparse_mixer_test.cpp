// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>

#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/sparse_mixer.hpp>

namespace sparse_mixer_test {

using namespace kokomo;
using namespace kokomo::test;

template <class T>
using Subject = Layer<Router<LinearScorer, SparseMixer>, SparseMixerGate, NoBalancer, SwiGluExperts, T, Exec>;

template <class T> typename Subject<T>::Policies settings(float epsilon, std::uint64_t seed = 0) {
  return {.router = {.selector = {.epsilon = epsilon, .seed = seed}},
          .gate = {.epsilon = epsilon},
          .experts = {.intermediate = 3}};
}

Fixture<Subject<double>> repeated(std::vector<double> const& logits, offset_t tokens, float epsilon) {
  Fixture<Subject<double>> fixture({.tokens = tokens, .hidden = 1, .experts = offset_t(logits.size())},
                                   settings<double>(epsilon, 11));
  to_device(logits, fixture.parameters.router.weight);
  to_device(std::vector<double>(std::size_t(tokens), 1.0), fixture.x);
  return fixture;
}

TEST_CASE("SparseMixer in inference takes the two best and equals the reference") {
  std::vector<Shape> const shapes{{.tokens = 1, .hidden = 1, .experts = 2}, {.tokens = 60, .hidden = 7, .experts = 5}};
  for (float const epsilon : {0.0f, 0.01f, 0.3f}) {
    check_shapes<Subject<double>>(shapes, [&](Shape const&) { return settings<double>(epsilon); });
    check_shapes<Subject<float>>(shapes, [&](Shape const&) { return settings<float>(epsilon); });
  }
  auto tie = repeated({1, 3, 3, 3}, 1, 0.01f);
  tie.forward();
  REQUIRE(tie.result().choice[0] == std::vector<int>{1, 2});
}

TEST_CASE("SparseMixer samples in training from the experts close to the best, then from those close without it") {
  int const n = 4000;
  // with epsilon 0.1 an expert is seen down to 4/5 of a positive best logit: {2, 1.9, 1.7}, and 1.5 for a best of 1.7
  std::vector<double> const logits{1.7, 2, 1.5, 1.9, 0.2};
  auto fixture = repeated(logits, n, 0.1f);
  fixture.mode = Mode::training;
  fixture.forward();
  auto const out = fixture.result();
  for (int first = 0; first < 5; ++first) {
    auto const p = reference::sparse_mixer_softmax(logits, -1, 0.1f);
    auto const q = reference::sparse_mixer_softmax(logits, first, 0.1f);
    double count = 0;
    std::vector<double> seconds(5, 0.0);
    for (auto const& choice : out.choice)
      if (choice[0] == first) ++count, ++seconds[choice[1]];
    // four standard deviations; an expert that is not seen has probability 0 and must never come
    INFO("first " << first);
    CHECK(std::abs(count / n - p[first]) <= 4 * std::sqrt(p[first] * (1 - p[first]) / n));
    for (int e = 0; e < 5 && count > 0; ++e)
      CHECK(std::abs(seconds[e] / count - q[e]) <= 4 * std::sqrt(q[e] * (1 - q[e]) / count));
  }
}

TEST_CASE("SparseMixer draws again at another step, and only then, masked tokens draw nothing") {
  auto fixture = repeated({1, 1, 1, 1}, 50, 0.1f);
  fixture.mode = Mode::training;
  fixture.forward();
  auto const base = fixture.result().choice;
  fixture.forward();
  REQUIRE(fixture.result().choice == base);
  fixture.step = 1;
  fixture.forward();
  REQUIRE(fixture.result().choice != base);
  fixture.set_mask(std::vector<index_t>(50, 0));
  fixture.forward();
  REQUIRE(fixture.result().choice == std::vector<std::vector<int>>(50, {none, none}));
  REQUIRE(fixture.result().weights == reference::Rows(50, {0, 0}));
}

} // namespace sparse_mixer_test
