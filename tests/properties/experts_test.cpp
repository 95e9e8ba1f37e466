// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compare.hpp>
#include <properties/compositions.hpp>

/// What an expert is called does not matter, but to ties; and the ends of the ranges of E and k.

using namespace properties;

namespace {

/// The permutation of the experts: groups move as a whole, and experts within each; zero-computation experts stay.
std::vector<std::size_t> relabelling(Composition const& c, kokomo::Sizes const& sizes) {
  auto const weighted = std::size_t(sizes.weighted), groups = std::size_t(c.groups), width = weighted / groups;
  std::vector<std::size_t> order;
  for (std::size_t g : permutation(groups, 8))
    for (std::size_t e : permutation(width, unsigned(g + 20))) order.push_back(g * width + e);
  for (auto e = weighted; e < std::size_t(sizes.experts); ++e) order.push_back(e);
  return order;
}

/// Whether the first axis of a tensor of a layer goes over experts.
bool by_expert(std::string const& name) {
  return name.starts_with("experts.") || name.starts_with("router.") || name.starts_with("balancer.");
}

Tensor relabelled(Tensor tensor, std::vector<std::size_t> const& order) {
  auto const experts = std::size_t(tensor.extents.at(0)), stride = tensor.values.size() / experts;
  auto const old = tensor.values;
  for (std::size_t e = 0; e < experts; ++e)
    std::copy_n(old.begin() + offset_t(order[e] * stride), stride, tensor.values.begin() + offset_t(e * stride));
  return tensor;
}

} // namespace

TEST_CASE("relabelling experts changes no output and relabels gradients") {
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const machine = c.make({}), other = c.make({});
    if (machine->state.contains("balancer.bias"))
      machine->state.at("balancer.bias").values = random_numbers(std::size_t(machine->sizes().experts), 4, 0.25);
    auto const order = relabelling(c, machine->sizes());
    REQUIRE_FALSE(std::is_sorted(order.begin(), order.end()));
    for (Tensors Machine::*map : {&Machine::parameters, &Machine::state})
      for (auto const& [name, tensor] : machine.get()->*map)
        (other.get()->*map).at(name) = by_expert(name) ? relabelled(tensor, order) : tensor;
    auto batch = random_batch(*machine, 40);
    if (!c.training_differs) batch.mode = kokomo::Mode::training;
    auto const a = machine->run(batch, Pass::forward_and_backward);
    auto const b = other->run(batch, Pass::forward_and_backward);
    for (std::size_t t = 0; t < 40; ++t) {
      auto renamed = choices(b, t);
      for (index_t& e : renamed) e = e == kokomo::none ? e : index_t(order[std::size_t(e)]);
      REQUIRE(renamed == choices(a, t));
    }
    // A token's experts, and a softmax over all of them, are summed in the order of their names: at most 12 terms in
    // float32, each rounding at most 6e-8.
    REQUIRE(relative_error(b.y, a.y) <= 1e-6);
    REQUIRE(b.loss == Approx(a.loss).epsilon(1e-6));
    // dx sums the router's part over experts, in the order of their names.
    REQUIRE(relative_error(b.dx, a.dx) <= 1e-6);
    for (auto const& [name, tensor] : a.gradients) {
      INFO(name);
      auto const expected = by_expert(name) ? relabelled(tensor, order) : tensor;
      REQUIRE(relative_error(b.gradients.at(name).values, expected.values) <= 1e-5);
    }
    for (auto const& [name, tensor] : machine->state)
      REQUIRE(identical(other->state.at(name).values, relabelled(tensor, order).values));
  }
}

TEST_CASE("ties go to the smaller expert and the smaller token") {
  Setup setup;
  for (auto const& c : compositions()) {
    INFO(c.name);
    auto const plain = c.make(setup);
    setup.router_hidden = plain->sizes().columns;
    auto const machine = c.make(setup);
    setup.router_hidden = 0;
    auto const batch = with_logits(*machine, random_batch(*machine, 12),
                                   std::vector<double>(std::size_t(12 * machine->sizes().columns), 0.0));
    auto const result = machine->run(batch);
    check_assignment(result, 12, machine->sizes());
    std::map<index_t, int> served;
    for (std::size_t t = 0; t < 12; ++t) {
      auto const chosen = choices(result, t);
      for (std::size_t j = 0; j < chosen.size(); ++j) REQUIRE(chosen[j] == index_t(j));
      auto const w = weights(result, t);
      for (std::size_t i = 0; i < w.size(); ++i)
        if (!c.competes && c.name != "SparseMixer") REQUIRE(w[i] == w[0]);
    }
    if (c.name == "Switch")
      for (std::size_t t = 0; t < 12; ++t) REQUIRE((result.row[t] != kokomo::none) == (t < 4));
    if (c.name == "NLLB") // 7 places: equal priority, so the first tokens
      for (std::size_t t = 0; t < 12; ++t) REQUIRE((result.row[2 * t] != kokomo::none) == (t < 7));
    if (c.name == "SparseMixer") // the first pick sees 8 experts, the second 7
      for (std::size_t t = 0; t < 12; ++t) {
        REQUIRE(weights(result, t).at(0) == Approx(1.0 / 8));
        REQUIRE(weights(result, t).at(1) == Approx(1.0 / 7));
      }
  }
}

TEST_CASE("k = experts chooses all of them") {
  struct Case {
    std::string name;
    offset_t experts;
    int k;
  };
  for (auto const& [name, experts, k] :
       {Case{"DeepSeek-V3", 6, 6}, Case{"GPT-OSS", 6, 6}, Case{"LongCat", 6, 10}, Case{"NLLB", 2, 2},
        Case{"SparseMixer", 2, 2}, Case{"Switch", 1, 1}, Case{"Llama 4", 1, 1}, Case{"GPT-OSS", 1, 1},
        Case{"DeepSeek-V3", 1, 1}, Case{"LongCat", 1, 5}}) {
    for (auto const& c : compositions()) {
      if (c.name != name) continue;
      INFO(name << " with " << experts << " experts");
      Setup setup;
      setup.experts = experts;
      setup.k = k;
      auto const machine = c.make(setup);
      auto const batch = random_batch(*machine, 9);
      auto const result = machine->run(batch, Pass::forward_and_backward);
      check_assignment(result, 9, machine->sizes());
      for (std::size_t t = 0; t < 9; ++t) {
        auto chosen = choices(result, t);
        std::sort(chosen.begin(), chosen.end());
        for (std::size_t e = 0; e < chosen.size(); ++e) REQUIRE(chosen[e] == index_t(e));
        REQUIRE(chosen.size() == std::size_t(machine->sizes().experts));
      }
      for (double v : result.y) REQUIRE(std::isfinite(v));
      for (double v : result.dx) REQUIRE(std::isfinite(v));
      for (auto const& [parameter, gradient] : result.gradients) {
        INFO(parameter);
        for (double v : gradient.values) REQUIRE(std::isfinite(v));
      }
    }
  }
}

TEST_CASE("one expert that everybody visits has all of the weight") {
  Setup setup;
  setup.experts = setup.k = 1;
  for (auto const& c : compositions())
    if (c.name == "GPT-OSS" || c.name == "Switch") {
      INFO(c.name);
      auto const machine = c.make(setup);
      auto const result = machine->run(random_batch(*machine, 4));
      for (std::size_t t = 0; t < 4; ++t)
        REQUIRE(weights(result, t) == std::vector<double>{c.name == "GPT-OSS" ? 1.25 : 1.0});
    }
}

TEST_CASE("experts that nobody chooses get a gradient of zero, not garbage") {
  Setup setup;
  for (auto const& c : compositions()) {
    INFO(c.name);
    setup.router_hidden = c.make({})->sizes().columns;
    auto const machine = c.make(setup);
    std::vector<double> logits;
    for (int t = 0; t < 10; ++t)
      for (offset_t e = 0; e < setup.router_hidden; ++e) logits.push_back(e < 4 ? 4.0 - double(e) : -3.0 - double(e));
    auto const result =
        machine->run(with_logits(*machine, random_batch(*machine, 10), logits), Pass::forward_and_backward);
    bool some = false;
    for (auto const& [name, gradient] : result.gradients) {
      if (!name.starts_with("experts.")) continue;
      auto const stride = gradient.values.size() / std::size_t(gradient.extents[0]);
      for (std::size_t i = 0; i < gradient.values.size(); ++i) {
        if (i / stride >= 4) REQUIRE(gradient.values[i] == 0);
        some = some || gradient.values[i] != 0;
      }
    }
    REQUIRE(some);
  }
}
