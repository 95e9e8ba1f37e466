// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// FeedForwardExperts on tensor cores, which are simulated (support/simulated_exec.hpp), against the same experts on the
// host: what is launched with which operands, forward and backward.
#include <support/catch.hpp>
#include <support/simulated_exec.hpp>

#include <kokomo/experts/feed_forward.hpp>

#include <cmath>
#include <numeric>
#include <random>

namespace tensor_cores_test {

using namespace kokomo;
using kokomo::test::SimulatedExec;
using Host = Kokkos::DefaultHostExecutionSpace;

struct Case {
  std::vector<offset_t> rows_of_expert;
  offset_t tokens, hidden;
  bool scaled = false, gathered = true;
  Write write = Write::overwrite;
};

/// Numbers in (-1, 1) that fit into 16 bits, the same for both.
template <class S> void fill(S* data, std::size_t count, unsigned seed) {
  std::mt19937 engine(seed);
  for (std::size_t i = 0; i < count; ++i) data[i] = S(float(int(engine() % 255) - 127) / 128.0f);
}

/// A simulation cannot allocate; its Views have the same types as the host's.
template <class T, class Exec, class Policy> auto make_parameters(Policy const& policy, Sizes const& sizes) {
  Host const host;
  typename Policy::template Parameters<T, Host> const from(Allocator<Host>(host), policy, sizes);
  typename Policy::template Parameters<T, Exec> to;
  to.gate_up = from.gate_up, to.gate = from.gate, to.up = from.up, to.down = from.down;
  to.gate_up_bias = from.gate_up_bias, to.gate_bias = from.gate_bias, to.up_bias = from.up_bias;
  to.down_bias = from.down_bias;
  return to;
}

struct Results {
  std::vector<std::vector<double>> values; ///< out, dx, d_weight, then the gradients of all parameters
  std::vector<std::string> launched;
};

template <class T, class Exec, class Policy> Results results(Policy const& policy, Case const& sizes) {
  using C = float;
  Results r;
  Exec exec;
  int workers = 0;
  if constexpr (std::is_same_v<Exec, SimulatedExec>)
    exec.launched = &r.launched;
  else
    workers = detail::product_workers(exec);
  std::vector<offset_t> offsets{0};
  std::vector<index_t> expert_of_row, token_of_row;
  for (offset_t count : sizes.rows_of_expert) {
    offsets.push_back(offsets.back() + count);
    expert_of_row.insert(expert_of_row.end(), std::size_t(count), index_t(offsets.size() - 2));
  }
  offset_t const used = offsets.back(), bound = used + 3, sources = sizes.gathered ? sizes.tokens : bound;
  for (offset_t row = 0; row < bound; ++row) token_of_row.push_back(index_t(row * 7 % sizes.tokens));
  expert_of_row.resize(std::size_t(bound));
  auto const experts = index_t(sizes.rows_of_expert.size());
  Sizes const all{.tokens = sizes.tokens,
                  .hidden = sizes.hidden,
                  .experts = experts,
                  .weighted = experts,
                  .entries = bound,
                  .workers = workers};

  auto const parameters = make_parameters<T, Exec>(policy, all), grads = make_parameters<T, Exec>(policy, all);
  unsigned seed = 0;
  parameters.for_each([&](auto const&, auto const& view) { fill(view.data(), view.size(), ++seed); }, "");
  grads.for_each([&](auto const&, auto const& view) { fill(view.data(), view.size(), ++seed); }, "");

  auto const with_memory = [](auto const& make, std::vector<std::byte>& memory) {
    detail::Arena counted;
    (void)make(counted);
    memory.assign(counted.used() + 64, std::byte{0x7f});
    auto const at = reinterpret_cast<std::uintptr_t>(memory.data());
    detail::Arena arena(memory.data() + (64 - at % 64) % 64);
    return make(arena);
  };
  std::vector<std::byte> memory[4];
  auto const saved = with_memory(
      [&](detail::Arena& a) { return typename Policy::template Saved<T, Exec>(a, policy, all); }, memory[0]);
  auto const scratch = with_memory(
      [&](detail::Arena& a) { return typename Policy::template Scratch<T, Exec>(a, policy, all); }, memory[1]);
  auto const backward_scratch = with_memory(
      [&](detail::Arena& a) { return typename Policy::template BackwardScratch<T, Exec>(a, policy, all); }, memory[2]);
  auto const block = with_memory(
      [&](detail::Arena& a) { return a.take<std::byte>(detail::product_scratch_bytes<C, Host>() * workers); },
      memory[3]);

  std::vector<T> x(std::size_t(sources * sizes.hidden));
  auto const rows = static_cast<std::size_t>(bound), width = static_cast<std::size_t>(sizes.hidden);
  std::vector<C> scale(rows), weight(rows), d_weight(rows), d_out(x.size()), out(rows * width), dx(rows * width);
  fill(x.data(), x.size(), 71), fill(d_out.data(), d_out.size(), 72), fill(weight.data(), weight.size(), 73);
  std::iota(scale.begin(), scale.end(), 1.0f);
  for (C& s : scale) s = 1.0f / s;
  index_t const* const index = sizes.gathered ? token_of_row.data() : nullptr;
  ExpertRows<T, Exec> const in{{x.data(), sizes.hidden, index, sizes.scaled ? scale.data() : nullptr},
                               {offsets.data(), expert_of_row.data(), experts, bound},
                               {block, detail::product_scratch_bytes<C, Host>(), workers}};
  Matrix<C, Exec> const out_rows(out.data(), rows, width), dx_rows(dx.data(), rows, width);
  ExpertRowGradients<T, Exec> const d{{d_out.data(), sizes.hidden, index}, weight.data(), dx_rows, d_weight.data()};
  policy.template forward<T>(exec, parameters, in, out_rows, saved, scratch);
  policy.template backward<T>(exec, parameters, in, d, grads, sizes.write, saved, backward_scratch);

  auto const keep = [&](auto const* data, offset_t count) { r.values.emplace_back(data, data + count); };
  keep(out.data(), used * sizes.hidden), keep(dx.data(), used * sizes.hidden), keep(d_weight.data(), used);
  grads.for_each([&](auto const&, auto const& view) { keep(view.data(), offset_t(view.size())); }, "");
  return r;
}

template <class T, class Policy> std::vector<std::string> check(Policy const& policy, Case const& sizes) {
  Results const simulated = results<T, SimulatedExec>(policy, sizes), expected = results<T, Host>(policy, sizes);
  REQUIRE(simulated.values.size() == expected.values.size());
  for (std::size_t i = 0; i < expected.values.size(); ++i) {
    CAPTURE(i);
    double error = 0, norm = 0;
    REQUIRE(simulated.values[i].size() == expected.values[i].size());
    for (std::size_t j = 0; j < expected.values[i].size(); ++j) {
      error += std::pow(simulated.values[i][j] - expected.values[i][j], 2);
      norm += std::pow(expected.values[i][j], 2);
    }
    // Where sums in another order fall on another side of a rounding, and what is rounded here and not there (d_pre and
    // scaled rows to T before they are multiplied): a few halves of a last place of T, 2^-9 or 2^-12 each.
    REQUIRE(std::sqrt(error) <= 4 * std::ldexp(1.0, std::is_same_v<T, bfloat16> ? -9 : -12) * std::sqrt(norm));
    REQUIRE(norm > 0);
  }
  return simulated.launched;
}

TEST_CASE("experts on tensor cores: gated, every storage order, forward and backward") {
  std::vector<offset_t> const rows{0, 9, 30, 1};
  SwiGluExperts experts{.intermediate = 24};
  auto const launched = check<bfloat16>(experts, {rows, 11, 40});
  CHECK(launched == std::vector<std::string>{
                        "kokomo::FeedForwardExperts::hidden", "kokomo::FeedForwardExperts::down",
                        "kokomo::FeedForwardExperts::hidden_gradient", "kokomo::FeedForwardExperts::down_gradient",
                        "kokomo::FeedForwardExperts::up_gradient", "kokomo::FeedForwardExperts::dx"});
  for (GateUp gate_up : {GateUp::interleaved, GateUp::separate, GateUp::concatenated})
    for (WeightOrder order : {WeightOrder::in_out, WeightOrder::out_in}) {
      experts.gate_up = gate_up;
      experts.up_order = experts.down_order = order;
      experts.bias = true;
      check<bfloat16>(experts, {rows, 11, 40, gate_up == GateUp::separate, true, Write::add});
    }
}

TEST_CASE("experts on tensor cores: plain, odd sizes, nothing saved") {
  FeedForwardExperts<Plain<SquaredRelu>> experts{.intermediate = 19, .bias = true, .save = Save::inputs};
  check<float16>(experts, {{21, 0, 7}, 5, 13, true});
  experts.up_order = WeightOrder::in_out;
  check<float16>(experts, {{21, 0, 7}, 5, 13, false, false});
}

TEST_CASE("experts on tensor cores: few rows an expert") {
  SwiGluExperts experts{.intermediate = 24, .bias = true};
  check<bfloat16>(experts, {{1, 0, 2, 3, 0, 1}, 3, 40});
}

TEST_CASE("experts on tensor cores: a setting leaves the portable products") {
  SwiGluExperts experts{.intermediate = 24};
  CHECK(experts.describe<bfloat16, SimulatedExec>().find("tensor cores") == 0);
  CHECK(experts.describe<bfloat16, Host>().find("tensor cores") == std::string::npos);
  experts.products = Products::portable;
  CHECK(!experts.on_tensor_cores<bfloat16, SimulatedExec>());
}

} // namespace tensor_cores_test
