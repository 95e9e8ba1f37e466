// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>
#include <support/swiglu.hpp>

#include <kokomo/experts/mixed.hpp>
#include <kokomo/experts/packed.hpp>
#include <kokomo/experts/with_identity.hpp>
#include <kokomo/router/given.hpp>

namespace mixed_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts>
using Subject = Layer<Router<LinearScorer, Given>, SoftmaxGate, NoBalancer, Experts, double, Exec>;

/// 2 experts of one width, 3 of another, both on the path that sums rows up while it computes them.
using Two = Subject<MixedExperts<SwiGluExperts, SwiGluExperts>>;
/// Kinds of which one returns rows, one has experts of its own beside the weighted ones, and some stand behind all.
using Kinds = Subject<WithIdentity<MixedExperts<WithIdentity<SwiGluExperts>, ScaleExperts>>>;

Two::Policies two(offset_t first, offset_t second) {
  Two::Policies policies;
  policies.router.selector.k = 2;
  policies.experts = {.parts = {SwiGluExperts{.intermediate = first, .bias = true},
                                SwiGluExperts{.intermediate = second, .save = Save::inputs}},
                      .count = {2, 3}};
  return policies;
}

/// Every token's experts, weighted as the layer says.
template <class F, class Expert> void check_sums(F const& f, Expert const& expert) {
  auto const out = f.result();
  auto const x = in_rows(in_double(to_host(f.x)), std::size_t(f.tokens));
  Rows y(x.size(), Row(x[0].size(), 0.0));
  for (std::size_t t = 0; t < x.size(); ++t)
    for (std::size_t i = 0; i < out.choice[t].size(); ++i) {
      if (out.choice[t][i] == none) continue;
      auto const part = expert(std::size_t(out.choice[t][i]), x[t]);
      for (std::size_t h = 0; h < part.size(); ++h) y[t][h] += out.weights[t][i] * part[h];
    }
  CHECK(relative_error(flat(out.y), flat(y)) <= 1e-12); // sums of a dozen terms in another order
}

TEST_CASE("experts of two sizes equal plain loops, gradients equal differences, with parts that nobody chose") {
  std::vector<std::vector<index_t>> const choices{{0, 4, 3, 1, 2, 2, 0, 1, 4, 0, 3, 2, 1, 4},
                                                  {0, 1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 1, 1, 0},
                                                  {2, 3, 4, 2, 3, 3, 2, 4, 4, 3, 2, 2, 3, 4}};
  for (auto const& choice : choices) {
    auto policies = two(5, 2);
    std::get<0>(policies.experts.parts).bias = false;
    Fixture<Two> f({.tokens = 7, .hidden = 3, .experts = 5}, policies);
    f.set_choice(choice, 2);
    f.forward();
    check_sums(f, [&](std::size_t e, Row const& x) {
      auto const& parts = f.parameters.experts.parts;
      return e < 2 ? swiglu(std::get<0>(parts), e, x) : swiglu(std::get<1>(parts), e - 2, x);
    });
    check_grouping(f);
    check_gradients(f);
  }
  auto with_biases = two(5, 2);
  std::get<1>(with_biases.experts.parts).bias = true;
  Fixture<Two> biased({.tokens = 7, .hidden = 3, .experts = 5}, with_biases);
  biased.set_choice(choices[0], 2);
  biased.set_mask({1, 1, 0, 1, 1, 1, 1});
  biased.forward();
  check_gradients(biased);
}

TEST_CASE("parts of one size are one set of experts, bit for bit, forward and backward") {
  using One = Subject<SwiGluExperts>;
  auto policies = two(70, 70);
  std::get<0>(policies.experts.parts) = std::get<1>(policies.experts.parts) = {.intermediate = 70};
  One::Policies together;
  together.router.selector.k = 2;
  together.experts = {.intermediate = 70};
  Shape const shape{.tokens = 29, .hidden = 37, .experts = 5};
  Fixture<Two> mixed(shape, policies);
  Fixture<One> one(shape, together);
  std::vector<index_t> choice;
  for (index_t i = 0; i < 58; ++i) choice.push_back(i * i % 7 % 5);
  mixed.set_choice(choice, 2), one.set_choice(choice, 2);
  auto const joined = [](auto const& parts, auto const& of) {
    auto all = to_host(of(std::get<0>(parts)));
    auto const rest = to_host(of(std::get<1>(parts)));
    all.insert(all.end(), rest.begin(), rest.end());
    return all;
  };
  auto const gate_up = [](auto const& p) { return p.gate_up; };
  auto const down = [](auto const& p) { return p.down; };
  to_device(joined(mixed.parameters.experts.parts, gate_up), one.parameters.experts.gate_up);
  to_device(joined(mixed.parameters.experts.parts, down), one.parameters.experts.down);
  to_device(to_host(mixed.parameters.router.weight), one.parameters.router.weight);
  to_device(to_host(mixed.x), one.x), to_device(to_host(mixed.dy), one.dy);
  mixed.forward(), one.forward();
  REQUIRE(to_host(mixed.y) == to_host(one.y));
  for (Write const write : {Write::overwrite, Write::add}) {
    mixed.backward(write), one.backward(write);
    REQUIRE(joined(mixed.gradients.experts.parts, gate_up) == to_host(one.gradients.experts.gate_up));
    REQUIRE(joined(mixed.gradients.experts.parts, down) == to_host(one.gradients.experts.down));
    REQUIRE(to_host(mixed.gradients.router.weight) == to_host(one.gradients.router.weight));
    // dx is summed slice by slice within a part, and not over all experts of a slice: another order
    REQUIRE(relative_error(to_host(mixed.dx), to_host(one.dx)) <= 1e-14);
  }
}

TEST_CASE("parts of any kind: rows, identities within a part and behind all, gradients equal differences") {
  Kinds::Policies policies;
  policies.router.selector.k = 3;
  policies.experts.identity = policies.experts.zero = 1;
  policies.experts.inner.count = {1, 2};
  std::get<0>(policies.experts.inner.parts) = {.inner = {.intermediate = 4}, .identity = 1, .zero = 1};
  // ids: 0 SwiGLU, 1 identity, 2 zero of the part; 3, 4 scaled; 5 identity, 6 zero of all
  Fixture<Kinds> f({.tokens = 6, .hidden = 3, .experts = 3}, policies);
  REQUIRE(f.layer.sizes().experts == 7);
  f.set_choice({0, 1, 2, 3, 4, 5, 6, 0, 2, 2, 3, 6, 5, 1, 4, 0, 0, -1}, 3);
  f.forward();
  check_sums(f, [&](std::size_t e, Row x) {
    auto const& parts = f.parameters.experts.parts;
    auto const scale = in_rows(in_double(to_host(std::get<1>(parts).scale)), 2);
    if (e == 0) return swiglu(std::get<0>(parts), 0, x);
    for (std::size_t h = 0; h < x.size(); ++h) x[h] *= e == 3 || e == 4 ? scale[e - 3][h] : e == 2 || e == 6 ? 0 : 1;
    return x;
  });
  check_gradients(f);
}

TEST_CASE("parts: packed panels in one of them, rows alone and summed up, on a host") {
  using Experts = MixedExperts<SwiGluExperts, Packed<SwiGluExperts>>;
  TestHost const exec;
  Allocator<TestHost> const allocate(exec);
  Experts const policy{.parts = {SwiGluExperts{.intermediate = 5}, {.inner = {.intermediate = 3}}}, .count = {2, 1}};
  Sizes sizes{.tokens = 4, .hidden = 3, .experts = 3, .weighted = 3, .entries = 7};
  Experts::Parameters<double, TestHost> const parameters(allocate, policy, sizes);
  sizes.weighted = sizes.experts = 1;
  SwiGluExperts const plain = std::get<1>(policy.parts).inner;
  SwiGluExperts::Parameters<double, TestHost> const unpacked(allocate, plain, sizes);
  sizes.weighted = sizes.experts = 3;
  exec.fence();
  std::mt19937 engine(3);
  auto const& big = std::get<0>(parameters.parts);
  for (auto const& view : {big.gate_up, big.down, unpacked.gate_up, unpacked.down}) fill_uniform(tensor(view), engine);
  std::get<1>(policy.parts).pack<double>(exec, unpacked, std::get<1>(parameters.parts));

  std::vector<offset_t> const offsets{0, 2, 3, 6}; // of the seven rows planned one is not used
  std::vector<index_t> const expert{0, 0, 1, 2, 2, 2}, token{0, 3, 1, 0, 2, 3};
  Row x(12), weight(7);
  for (std::size_t i = 0; i < 12; ++i) x[i] = std::sin(double(i)), weight[i % 7] = 0.1 + double(i);
  Rows rows, sums(4, Row(3, 0.0));
  for (std::size_t r = 0; r < 6; ++r) {
    Row const of_token(x.begin() + 3 * token[r], x.begin() + 3 * token[r] + 3);
    rows.push_back(expert[r] < 2 ? swiglu(big, std::size_t(expert[r]), of_token) : swiglu(unpacked, 0, of_token));
    for (std::size_t h = 0; h < 3; ++h) sums[std::size_t(token[r])][h] += weight[r] * rows[r][h];
  }

  int const workers = detail::product_workers(exec);
  auto const bytes = detail::product_scratch_bytes<double, TestHost>();
  std::vector<std::byte> of_workers(std::size_t(bytes * workers)), memory(1 << 16);
  ExpertRows<double, TestHost> const in{
      {x.data(), 3, token.data()}, {offsets.data(), expert.data(), 3, 7}, {of_workers.data(), bytes, workers}};
  detail::Arena arena(memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64);
  Experts::Saved<double, TestHost> const saved(arena, policy, sizes);
  Experts::Scratch<double, TestHost> const scratch(arena, policy, sizes);
  Row out(21, 7.0), summed(12, std::nan(""));
  policy.forward<double>(exec, parameters, in, Matrix<double, TestHost>(out.data(), 7, 3), saved, scratch);
  detail::CombinedRows<double> const target{summed.data(), 4, token.data(), weight.data()};
  policy.forward_combined<double>(exec, parameters, in, target, 3, saved, scratch);
  exec.fence();
  REQUIRE(Row(out.begin() + 18, out.end()) == Row(3, 7.0)); // what does not exist is left alone
  out.resize(18);
  CHECK(relative_error(out, flat(rows)) <= 1e-14); // sums of five terms in another order
  CHECK(relative_error(summed, flat(sums)) <= 1e-14);
}

TEST_CASE("parts: a batch without tokens, and one whose tokens have no expert") {
  for (offset_t const tokens : {0, 3}) {
    Fixture<Two> f({.tokens = 3, .hidden = 3, .experts = 5}, two(5, 2), 1, tokens);
    f.set_choice(std::vector<index_t>(std::size_t(2 * tokens), none), 2);
    f.forward(), f.backward();
    REQUIRE(to_host(f.y) == Row(std::size_t(3 * tokens), 0.0));
    REQUIRE(to_host(f.dx) == Row(std::size_t(3 * tokens), 0.0));
    for (auto const& [name, gradient] : tensors_of(f.gradients)) REQUIRE(norm(gradient.read()) == 0);
  }
}

TEST_CASE("parts: parameters are named by part, counts must be those of the layer") {
  Two const layer({.tokens = 2, .hidden = 3, .experts = 5}, two(5, 2));
  std::vector<std::string> names;
  layer.describe_parameters().for_each([&](std::string const& name, auto const&) { names.push_back(name); });
  REQUIRE(names == std::vector<std::string>{"router.weight", "experts.0.gate_up", "experts.0.down",
                                            "experts.0.gate_up_bias", "experts.0.down_bias", "experts.1.gate_up",
                                            "experts.1.down"});
  auto const refused = [](auto const& policies, offset_t experts) {
    REQUIRE_THROWS_AS(Two({.tokens = 2, .hidden = 3, .experts = experts}, policies), Error);
  };
  refused(two(5, 2), 4);
  auto none_of_one = two(5, 2);
  none_of_one.experts.count = {5, 0};
  refused(none_of_one, 5);
  refused(two(5, 0), 5); // a part's own settings are checked too
}

} // namespace mixed_test
