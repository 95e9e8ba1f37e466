// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/routing_fixture.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/gate/selected_softmax.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/agreement.hpp>
#include <kokomo/router/balanced_assignment.hpp>
#include <kokomo/router/cascade.hpp>
#include <kokomo/router/escalate.hpp>
#include <kokomo/router/expert_choice.hpp>
#include <kokomo/router/group_limited_top_k.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/percentile.hpp>
#include <kokomo/router/positive.hpp>
#include <kokomo/router/self_healing.hpp>
#include <kokomo/router/sinkhorn_top_k.hpp>
#include <kokomo/router/sparse_mixer.hpp>
#include <kokomo/router/top_2.hpp>
#include <kokomo/router/top_k.hpp>
#include <kokomo/router/top_p.hpp>
#include <kokomo/router/two_choice_hash.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>

/// What holds for the routing of every preset, whatever its formula: selector and gate of each, without a layer around them.

namespace presets_test {

using namespace kokomo;
using namespace kokomo::test;

/// What one call brings to a router. Token ids travel with their tokens.
struct Call {
  Rows logits;
  std::vector<offset_t> ids{};
  std::vector<index_t> mask{};
  Mode mode = Mode::inference;
  std::uint64_t step = 3;
  bool half_the_threads = false;
};

struct Outcome {
  std::vector<std::vector<int>> chosen;
  Rows weights;
  std::vector<offset_t> loads;

  std::map<int, double> of(std::size_t token) const {
    std::map<int, double> weight_of;
    for (std::size_t j = 0; j < chosen[token].size(); ++j) weight_of[chosen[token][j]] = weights[token][j];
    return weight_of;
  }
  bool operator==(Outcome const& o) const = default;
};

class Preset {
public:
  virtual ~Preset() = default;
  virtual Outcome run(Call const& call) const = 0;
  /// d (sum of weight times what its expert is worth) / d logits.
  virtual Rows gradient(Call const& call, Row const& worth) const = 0;
  virtual bool causal_in(Mode mode) const = 0;

  std::string name;
  std::set<Mode> random{};       ///< draws, keyed by a token's place
  std::set<Mode> in_order{};     ///< earlier tokens and experts have a say
  bool by_label = false;         ///< what an expert is called matters
  bool training_differs = false; ///< by design
  int groups = 1;                ///< relabelling must keep them together
  std::vector<int> at_zero{};    ///< the choice where all logits are zero; empty: it is no list of the first ones
};

template <class Selector, class Gate> class PresetOf final : public Preset {
public:
  PresetOf(Selector const& selector, Gate const& gate, Row const& bias)
      : m_selector(selector), m_gate(gate), m_bias(bias) {}

  Outcome run(Call const& call) const override {
    auto const f = routed(call);
    return {f->chosen(), f->weights(), f->loads()};
  }
  Rows gradient(Call const& call, Row const& worth) const override {
    auto const f = routed(call);
    Row d;
    for (index_t const e : to_host(f->assignment.expert)) d.push_back(e == none ? 0 : worth[std::size_t(e)]);
    d.resize(std::size_t(to_host(f->assignment.token_offsets).back()));
    return f->gate_gradient(m_gate, d);
  }
  bool causal_in(Mode mode) const override { return detail::is_causal_in(m_selector, mode); }

private:
  std::unique_ptr<RoutingFixture<>> routed(Call const& call) const {
    auto f = std::make_unique<RoutingFixture<>>(call.logits, 0, 6);
    if (call.half_the_threads) f->exec = Kokkos::Experimental::partition_space(Exec{}, 1, 1)[0];
    f->routing.mode = call.mode, f->routing.step = call.step;
    if (!call.mask.empty()) f->set_token_mask(call.mask);
    if (!m_bias.empty()) f->set_bias(Row(m_bias.begin(), m_bias.begin() + f->sizes.experts));
    inputs_t<Selector, double, Exec> inputs;
    OwnedVector<offset_t, Exec> const ids("ids", call.logits.size());
    if constexpr (requires { inputs.token_ids; }) {
      auto values = call.ids;
      values.resize(call.logits.size(), 0);
      to_device(values, ids);
      inputs.token_ids = ids;
    }
    auto const state = f->state_of(m_selector);
    if constexpr (requires { state.table; }) {
      std::vector<index_t> table(state.table.size());
      for (std::size_t i = 0; i < table.size(); ++i) table[i] = index_t((5 * i + 2) % std::size_t(f->sizes.experts));
      to_device(table, state.table);
    }
    if constexpr (requires { state.failed; })
      to_device(std::vector<index_t>(std::size_t(f->sizes.experts), 0), state.failed);
    f->template select<typename Gate::Score>(m_selector, state, inputs);
    f->weigh(m_gate);
    return f;
  }

  Selector m_selector;
  Gate m_gate;
  Row m_bias;
};

using Presets = std::vector<std::unique_ptr<Preset>>;

template <class Selector, class Gate>
Preset& add(Presets& list, std::string const& name, Selector const& selector, Gate const& gate, Row const& bias = {}) {
  list.push_back(std::make_unique<PresetOf<Selector, Gate>>(selector, gate, bias));
  list.back()->name = name;
  return *list.back();
}

/// The routers of the published presets for this many experts: those that can do with them.
Presets presets(int experts, int k) {
  Presets list;
  auto first = [](int n) {
    std::vector<int> ids(std::size_t(n), 0);
    std::iota(ids.begin(), ids.end(), 0);
    return ids;
  };
  Row const bias{0.02, -0.05, 0, 0.07, -0.01, 0.03};
  using ByLogits = TopK<dynamic, RankByLogits>;
  add(list, "noisy top-k, GPT-OSS", ByLogits{.k = k}, SelectedSoftmaxGate{}).at_zero = first(k);
  add(list, "Switch", TopK<1>{}, SoftmaxGate{}).at_zero = first(1);
  add(list, "V-MoE, DeepSeekMoE", TopK<>{.k = k}, SoftmaxGate{}).at_zero = first(k);
  add(list, "Mixtral", TopK<>{.k = k}, NormalizedSoftmaxGate{}).at_zero = first(k);
  add(list, "LongCat", TopK<>{.k = k}, SoftmaxGate{.scale = 6}, bias);
  add(list, "DeepSeek-V4", TopK<>{.k = k}, NormalizedSqrtSoftplusGate{}, bias);
  add(list, "Llama 4", ByLogits{.k = 1}, SigmoidGate{}).at_zero = first(1);
  add(list, "MoE++", TopK<>{.k = k}, ScoreGate<SoftmaxScore, Normalize::sum>{.weightless = experts > 1 ? 1 : 0})
      .by_label = true;
  add(list, "ReMoE", Positive{}, ReluGate{});
  add(list, "top-p", TopP{.p = 0.6f}, SoftmaxGate{});
  add(list, "DynaMoE, a token's own logits", Percentile<PercentileScope::token>{.tau = 0.6f}, SelectedSoftmaxGate{})
      .at_zero = first(1);
  add(list, "DynaMoE, the batch", Percentile<>{.tau = 0.6f}, SelectedSoftmaxGate{}).at_zero = first(1);
  add(list, "DynaMoE, experts", Percentile<PercentileScope::expert>{.tau = 0.6f}, SelectedSoftmaxGate{}).at_zero =
      first(1);
  add(list, "expert choice", ExpertChoice{.places = 3}, SoftmaxGate{});
  add(list, "Mixture-of-Depths", ExpertChoice{.places = 3, .inference = InferenceChoice::above_threshold},
      ScoreGate<IdentityScore>{})
      .training_differs = true;
  auto& sinkhorn = add(list, "Sinkhorn", SinkhornTopK{.k = k}, SoftmaxGate{});
  sinkhorn.training_differs = true, sinkhorn.at_zero = first(k);
  auto& base = add(list, "BASE", BalancedAssignment{}, SigmoidGate{});
  base.training_differs = true, base.in_order = {Mode::training}, base.at_zero = first(1);
  add(list, "hash", HashTable{.k = 1, .vocabulary = 12}, ConstantGate{}).by_label = true;
  add(list, "healed Mixtral", SelfHealing<TopK<>>{{.k = k}}, NormalizedSoftmaxGate{}).at_zero = first(k);
  add(list, "cascade", Cascade{.few = 1, .many = k, .threshold = 0.3f}, SoftmaxGate{}).at_zero = first(k);
  auto& agreement = add(list, "agreement", Agreement{}, SoftmaxGate{});
  agreement.random = {Mode::inference, Mode::training};
  auto& gumbel = add(list, "ReMix", GumbelTopK{.k = k}, ConstantGate{});
  gumbel.random = {Mode::training}, gumbel.training_differs = true, gumbel.at_zero = first(k);
  if (experts < 2) return list;
  add(list, "GShard, the best second", Top2{}, NormalizedSoftmaxGate{}).at_zero = first(2);
  auto& gshard = add(list, "GShard", Top2{.second = SecondExpert::random}, NormalizedSoftmaxGate{});
  gshard.random = {Mode::inference, Mode::training};
  auto& mixer = add(list, "SparseMixer", SparseMixer{.epsilon = 0.3f}, SparseMixerGate{.epsilon = 0.3f});
  mixer.random = {Mode::training}, mixer.training_differs = true, mixer.at_zero = first(2);
  auto& two = add(list, "two-choice hash", TwoChoiceHash{}, ConstantGate{});
  two.in_order = {Mode::inference, Mode::training}, two.by_label = true;
  add(list, "NanoVLA", Escalate{}, ConstantGate{}).by_label = true;
  if (experts % 2 != 0) return list;
  auto const grouped = [&](GroupScore score) {
    return GroupLimitedTopK<>{.k = std::min(k, experts / 2), .groups = 2, .allowed_groups = 1, .group_score = score};
  };
  auto& v2 = add(list, "DeepSeek-V2", grouped(GroupScore::max), SoftmaxGate{});
  auto& v3 = add(list, "DeepSeek-V3", grouped(GroupScore::top2_sum), NormalizedSigmoidGate{.scale = 2.5f}, bias);
  v2.groups = v3.groups = 2, v2.at_zero = first(std::min(k, experts / 2));
  return list;
}

Call random_call(std::size_t tokens, std::size_t experts, unsigned seed) {
  std::mt19937 engine(seed);
  std::normal_distribution<double> normal;
  Call call{.logits = Rows(tokens, Row(experts))};
  for (auto& row : call.logits) {
    for (double& z : row) z = normal(engine);
    call.ids.push_back(offset_t(engine() % 12));
  }
  return call;
}

std::vector<std::size_t> shuffled(std::size_t n, unsigned seed) {
  std::vector<std::size_t> order(n);
  std::iota(order.begin(), order.end(), std::size_t(0));
  std::mt19937 engine(seed);
  for (std::size_t i = n; i > 1; --i) std::swap(order[i - 1], order[engine() % i]);
  return order;
}

/// Experts exist, none twice; entries are grouped without loss.
void check_valid(Outcome const& out, int experts) {
  offset_t entries = 0;
  for (auto const& token : out.chosen) {
    REQUIRE(std::set<int>(token.begin(), token.end()).size() == token.size());
    for (int const e : token) REQUIRE((e >= 0 && e < experts));
    entries += offset_t(token.size());
  }
  REQUIRE(std::accumulate(out.loads.begin(), out.loads.end(), offset_t(0)) == entries);
}

constexpr Mode modes[] = {Mode::inference, Mode::training};

TEST_CASE("every preset: entries are conserved, for any number of tokens and experts, and the same on fewer threads") {
  for (auto const& [experts, k] : {std::pair(6, 2), std::pair(1, 1), std::pair(4, 4), std::pair(3, 2)})
    for (auto const& preset : presets(experts, k))
      for (auto const mode : modes)
        for (std::size_t const tokens : {0, 1, 2, 40}) {
          if (tokens == 0 && experts != 6) continue; // the fixture is told six columns
          INFO(preset->name << ", " << experts << " experts, k = " << k << ", " << tokens << " tokens");
          auto call = random_call(tokens, std::size_t(experts), unsigned(tokens + 1));
          call.mode = mode;
          auto const out = preset->run(call);
          check_valid(out, experts);
          REQUIRE(out.chosen.size() == tokens);
          call.half_the_threads = true;
          REQUIRE(preset->run(call) == out);
        }
}

TEST_CASE("every preset: tokens in another order are routed alike, unless their order is declared to matter") {
  auto const order = shuffled(24, 4);
  for (auto const& preset : presets(6, 2))
    for (auto const mode : modes) {
      if (preset->random.contains(mode) || preset->in_order.contains(mode)) continue;
      INFO(preset->name);
      auto call = random_call(24, 6, 5);
      call.mode = mode;
      auto permuted = call;
      for (std::size_t t = 0; t < 24; ++t) {
        permuted.logits[t] = call.logits[order[t]];
        permuted.ids[t] = call.ids[order[t]];
      }
      auto const a = preset->run(call), b = preset->run(permuted);
      for (std::size_t t = 0; t < 24; ++t)
        REQUIRE((b.chosen[t] == a.chosen[order[t]] && b.weights[t] == a.weights[order[t]]));
    }
}

TEST_CASE("every preset: padding routes nowhere and changes nothing for others") {
  auto places = shuffled(30, 6);
  places.resize(20);
  std::sort(places.begin(), places.end());
  for (auto const& preset : presets(6, 2))
    for (auto const mode : modes) {
      if (preset->random.contains(mode)) continue; // keyed by a token's place
      INFO(preset->name);
      auto call = random_call(20, 6, 7), padded = random_call(30, 6, 8);
      call.mode = padded.mode = mode;
      padded.mask.assign(30, 0);
      for (std::size_t i = 0; i < 20; ++i) {
        padded.mask[places[i]] = 1;
        padded.logits[places[i]] = call.logits[i];
        padded.ids[places[i]] = call.ids[i];
      }
      auto const a = preset->run(call), b = preset->run(padded);
      REQUIRE(b.loads == a.loads);
      for (std::size_t i = 0; i < 20; ++i)
        REQUIRE((b.chosen[places[i]] == a.chosen[i] && b.weights[places[i]] == a.weights[i]));
      for (std::size_t t = 0; t < 30; ++t)
        if (padded.mask[t] == 0) REQUIRE(b.chosen[t].empty());
    }
}

TEST_CASE("every preset: experts under other names are chosen alike, unless their names are declared to matter") {
  for (auto const& preset : presets(6, 2))
    for (auto const mode : modes) {
      if (preset->random.contains(mode) || preset->in_order.contains(mode) || preset->by_label) continue;
      if (preset->name == "LongCat" || preset->name == "DeepSeek-V4" || preset->name == "DeepSeek-V3")
        continue; // biased by name
      INFO(preset->name);
      std::vector<std::size_t> const order =
          preset->groups == 1 ? std::vector<std::size_t>{4, 2, 0, 5, 1, 3} : std::vector<std::size_t>{4, 5, 3, 1, 0, 2};
      auto call = random_call(24, 6, 9);
      call.mode = mode;
      auto renamed = call;
      for (std::size_t t = 0; t < 24; ++t)
        for (std::size_t e = 0; e < 6; ++e) renamed.logits[t][e] = call.logits[t][order[e]];
      auto const a = preset->run(call), b = preset->run(renamed);
      for (std::size_t t = 0; t < 24; ++t) {
        auto const of_a = a.of(t), of_b = b.of(t);
        REQUIRE(of_a.size() == of_b.size());
        for (auto const& [e, weight] : of_b) {
          REQUIRE(of_a.contains(int(order[std::size_t(e)])));
          REQUIRE(weight ==
                  Approx(of_a.at(int(order[std::size_t(e)]))).epsilon(1e-13)); // a softmax summed in another order
        }
      }
    }
}

TEST_CASE(
    "every preset: a token depends on later ones exactly where causal_in says so, and like tokens are routed alike") {
  for (auto const& preset : presets(6, 2))
    for (auto const mode : modes) {
      INFO(preset->name << (mode == Mode::training ? " in training" : " in inference"));
      auto call = random_call(16, 6, 10);
      call.mode = mode;
      auto const before = preset->run(call);
      bool depends = false;
      for (unsigned seed = 1; seed <= 20; ++seed) {
        auto changed = call;
        std::mt19937 engine(seed);
        for (double& z : changed.logits.back()) z = std::normal_distribution<double>(0, 3)(engine);
        changed.ids.back() = offset_t(seed % 12);
        auto const after = preset->run(changed);
        for (std::size_t t = 0; t + 1 < 16; ++t) depends = depends || after.chosen[t] != before.chosen[t];
      }
      REQUIRE(depends == !preset->causal_in(mode));
      if (depends || preset->random.contains(mode) || preset->in_order.contains(mode)) continue;
      call.logits[11] = call.logits[3], call.ids[11] = call.ids[3];
      auto const twins = preset->run(call);
      REQUIRE((twins.chosen[11] == twins.chosen[3] && twins.weights[11] == twins.weights[3]));
      auto const alone = preset->run({.logits = {call.logits[3]}, .ids = {call.ids[3]}, .mode = mode});
      REQUIRE((alone.chosen[0] == twins.chosen[3] && alone.weights[0] == twins.weights[3]));
    }
}

TEST_CASE(
    "every preset: equal logits have a fixed choice, logits that are no numbers stay in range and among themselves") {
  double const nan = std::numeric_limits<double>::quiet_NaN(), inf = std::numeric_limits<double>::infinity();
  for (auto const& preset : presets(6, 2)) {
    INFO(preset->name);
    Call const zero{.logits = Rows(5, Row(6, 0.0)), .ids = {0, 1, 2, 3, 4}};
    auto const out = preset->run(zero);
    REQUIRE(preset->run(zero) == out);
    if (!preset->at_zero.empty()) REQUIRE(out.chosen == std::vector<std::vector<int>>(5, preset->at_zero));
    for (auto const mode : modes) {
      auto call = random_call(12, 6, 11);
      call.mode = mode;
      auto const clean = preset->run(call);
      call.logits[1] = Row(6, nan), call.logits[3] = Row(6, -inf), call.logits[5] = Row(6, inf);
      call.logits[7] = {nan, inf, -inf, 0, 1, nan}, call.logits[9] = {-inf, -inf, 2, -inf, -inf, -inf};
      auto const odd = preset->run(call);
      check_valid(odd, 6);
      if (!preset->causal_in(mode) || preset->in_order.contains(mode)) continue;
      for (std::size_t const t : {0, 2, 4, 6, 8, 10, 11})
        REQUIRE((odd.chosen[t] == clean.chosen[t] && odd.weights[t] == clean.weights[t]));
    }
  }
}

TEST_CASE("every preset: training chooses as inference does, unless it is declared not to") {
  for (auto const& preset : presets(6, 2)) {
    INFO(preset->name);
    auto call = random_call(40, 6, 12);
    auto const inference = preset->run(call);
    call.mode = Mode::training;
    REQUIRE((preset->run(call).chosen == inference.chosen) == !preset->training_differs);
  }
}

TEST_CASE("every preset: the gradient of its weights is their slope") {
  Row const worth{0.3, -1, 0.7, 2, -0.4, 1.1};
  for (auto const& preset : presets(6, 2)) {
    INFO(preset->name);
    auto const call = random_call(5, 6, 13); // no two logits within a step of one another
    auto const value = [&](Rows const& logits) {
      auto moved = call;
      moved.logits = logits;
      auto const out = preset->run(moved);
      double sum = 0;
      for (std::size_t t = 0; t < 5; ++t)
        for (auto const& [e, weight] : out.of(t)) sum += worth[std::size_t(e)] * weight;
      return sum;
    };
    auto const d = flat(preset->gradient(call, worth)), expected = flat(logit_differences(call.logits, value));
    REQUIRE(distance(d, expected) <= 1e-8 * (1 + norm(expected))); // h^2 times a third derivative, and rounding over h
  }
}

} // namespace presets_test
