// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/cross_attention.hpp>
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/combine/primary_cross_attention.hpp>
#include <kokomo/router/given.hpp>

namespace primary_cross_attention_test {

using namespace kokomo;
using namespace kokomo::test;

/// Given experts; a weight is max(z, 0), so that some are exactly zero.
using Subject =
    Layer<Router<LinearScorer, Given>, ReluGate, NoBalancer, ScaleExperts, double, Exec, PrimaryCrossAttention>;

Fixture<Subject> fixture(std::vector<index_t> const& choice, int k, PrimaryCrossAttention const& combine,
                         unsigned seed = 1) {
  Subject::Policies policies;
  policies.router.selector.k = k;
  policies.combine = combine;
  Fixture<Subject> f({.tokens = offset_t(choice.size()) / k, .hidden = 3, .experts = 4}, policies, seed);
  f.set_choice(choice, std::size_t(k));
  return f;
}

Row scaled(Fixture<Subject> const& f, std::size_t t, std::size_t e) {
  auto x = in_rows(in_double(to_host(f.x)), std::size_t(f.tokens))[t];
  auto const scale = in_rows(in_double(to_host(f.parameters.experts.scale)), 4);
  for (std::size_t h = 0; h < x.size(); ++h) x[h] *= scale[e][h];
  return x;
}

Rows output(Fixture<Subject>& f) {
  f.forward();
  return f.result().y;
}

TEST_CASE("cross attention of the primary expert equals plain loops, gradients equal differences") {
  std::vector<index_t> const choice{0, 1, 2, 3, 2, 0, 1, 3, 1, -1, 2, 3, 0, -1, -1, -1, -1, -1, 3, 0, 2, 1, 2, 2};
  for (PrimaryCrossAttention const& combine :
       {PrimaryCrossAttention{.width = 4, .heads = 2}, PrimaryCrossAttention{.width = 4, .heads = 1, .weighted = true},
        PrimaryCrossAttention{.width = 6, .heads = 3, .weighted = true}, PrimaryCrossAttention{.width = 1}}) {
    auto f = fixture(choice, 3, combine, 4);
    f.set_mask({1, 1, 1, 1, 1, 1, 1, 0});
    f.forward();
    auto const out = f.result();
    Rows y(8, Row(3, 0.0));
    bool some_without_weight = false;
    for (std::size_t t = 0; t < 8; ++t) {
      Thoughts token;
      for (std::size_t i = 0; i < out.choice[t].size(); ++i) {
        if (out.choice[t][i] == none) continue;
        token.experts.push_back(std::size_t(out.choice[t][i]));
        token.outputs.push_back(scaled(f, t, token.experts.back()));
        token.weights.push_back(out.weights[t][i]);
        some_without_weight = some_without_weight || out.weights[t][i] == 0;
      }
      if (!token.experts.empty())
        y[t] = primary_cross_attention(f.parameters.combine, std::size_t(combine.width), std::size_t(combine.heads),
                                       combine.weighted, token);
    }
    REQUIRE(some_without_weight);
    CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
    check_gradients(f);
  }
}

TEST_CASE("cross attention: with a zero projection back the primary expert's output is the layer's, bit for bit") {
  auto f = fixture({2, 0, 1, 3, 1, 0}, 3, {.width = 4, .heads = 2});
  to_device(Row(f.parameters.combine.back.size(), 0.0), f.parameters.combine.back);
  auto const y = output(f);
  REQUIRE(y[0] == scaled(f, 0, 2));
  REQUIRE(y[1] == scaled(f, 1, 3));
  auto const fresh = f.layer.make_parameters(f.exec);
  f.exec.fence();
  REQUIRE(to_host(fresh.combine.back) == Row(fresh.combine.back.size(), 0.0)); // as new ones are
}

TEST_CASE("cross attention: the order of the other experts does not count, that of the primary one does") {
  auto f = fixture({0, 1, 2, 3}, 4, {.width = 4, .heads = 2});
  auto const y = output(f);
  f.set_choice({0, 3, 1, 2}, 4);
  REQUIRE(relative_error(flat(output(f)), flat(y)) <= 1e-14); // sums of four terms in another order
  f.set_choice({1, 0, 2, 3}, 4);
  REQUIRE(relative_error(flat(output(f)), flat(y)) > 1e-3);
}

TEST_CASE("cross attention: one expert alone is the primary one") {
  auto one = fixture({3, 0}, 1, {.width = 4, .heads = 2});
  auto const y = output(one);
  REQUIRE(y[0] == scaled(one, 0, 3));
  REQUIRE(y[1] == scaled(one, 1, 0));
  auto rest = fixture({-1, 2, -1}, 3, {.width = 4}); // the others were not executed
  REQUIRE(output(rest)[0] == scaled(rest, 0, 2));
}

TEST_CASE("cross attention: a peer that is masked by its weight may as well be missing") {
  auto f = fixture({0, 1, 2, 0, 1, 2}, 3, {.width = 4, .heads = 2, .weighted = true});
  // logits: x W^T with x = 1 and rows of W; expert 2 has no weight in token 0, experts 1 and 2 have none in token 1
  to_device(Row{1, 0, 0, 0, 1, 0}, f.x);
  to_device(Row{1, 2, 0, 0.5, -1, 0, -1, -2, 0, 1, 1, 0}, f.parameters.router.weight);
  f.forward();
  REQUIRE(f.result().weights == Rows{{1, 0.5, 0}, {2, 0, 0}});
  auto const y = f.result().y;
  f.set_choice({0, 1, -1, 0, -1, -1}, 3);
  REQUIRE(output(f) == y);
  REQUIRE(y[1] == scaled(f, 1, 0));
  f.set_choice({0, -1, -1, 0, -1, -1}, 3);
  REQUIRE(output(f)[0] != y[0]);
}

TEST_CASE("cross attention: a batch without tokens, and one whose tokens have no expert") {
  Subject::Policies policies;
  policies.router.selector.k = 2;
  policies.combine = {.width = 4, .heads = 2};
  for (offset_t const tokens : {0, 3}) {
    Fixture<Subject> f({.tokens = 3, .hidden = 3, .experts = 4}, policies, 1, tokens);
    f.set_choice(std::vector<index_t>(std::size_t(2 * tokens), none), 2);
    f.forward(), f.backward();
    REQUIRE(to_host(f.y) == Row(std::size_t(3 * tokens), 0.0));
    REQUIRE(to_host(f.dx) == Row(std::size_t(3 * tokens), 0.0));
    for (auto const& [name, gradient] : tensors_of(f.gradients)) REQUIRE(norm(gradient.read()) == 0);
  }
}

TEST_CASE("cross attention: settings") {
  auto const refused = [](PrimaryCrossAttention const& combine) { REQUIRE_THROWS_AS(fixture({0}, 1, combine), Error); };
  refused({}), refused({.width = 4, .heads = 0}), refused({.width = 4, .heads = 3});
}

} // namespace primary_cross_attention_test
