// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/pooled_loss.hpp>
#include <kokomo/balancer/published_losses.hpp>
#include <kokomo/balancer/switch_loss.hpp>

namespace published_losses_test {

using namespace kokomo;
using namespace kokomo::test;

constexpr std::size_t E = 6;

Batch balanced(int k, std::size_t stride = 1) {
  return {.logits = balanced_logits(2 * E, E, std::size_t(k), 1, stride), .k = k};
}
Approx exactly(double value) {
  return Approx(value).epsilon(1e-13);
}

TEST_CASE("published losses: the value at perfect balance") {
  for (int k : {1, 2, 3}) {
    REQUIRE(loss_of(mesh_loss(1), balanced(k)) == exactly(1));
    REQUIRE(loss_of(gshard_paper_loss(1, E), balanced(k)) == Approx(1.0 / (E * E)).epsilon(1e-7)); // float32 setting
    REQUIRE(loss_of(flaxformer_loss(1, k), balanced(k)) == exactly(k));
    REQUIRE(loss_of(transformers_loss(1, k), balanced(k)) == exactly(k));
    REQUIRE(loss_of(megatron_loss(1, k), balanced(k)) == exactly(1));
    REQUIRE(loss_of(megatron_loss<SigmoidScore>(1, k), balanced(k)) == exactly(1));
    REQUIRE(loss_of(deepseek_expert_loss(1, k), balanced(k)) == exactly(1));
    REQUIRE(loss_of(deepseek_device_loss(1, k, 3), balanced(k)) == exactly(1));
    REQUIRE(loss_of(deepseek_v3_sequence_loss(1, k, E), balanced(k)) == exactly(1));
    REQUIRE(loss_of(top_p_loss(1), balanced(k)) == exactly(k));
    REQUIRE(loss_of(deepseek_v4_sequence_loss(1, k, E), balanced(k)) == exactly(1));
    REQUIRE(loss_of(lora_mixer_loss(1, k, E), balanced(k)) == Approx(1.0 / E).epsilon(1e-7));
    if (k == 1) continue; // second choices tie there
    REQUIRE(loss_of(mesh_second_place_loss(1), balanced(k)) == exactly(1));
    REQUIRE(loss_of(mesh_top_2_loss(1), balanced(k)) == exactly(1.5));
  }
  // picks two apart fall on as many of the three devices
  REQUIRE(loss_of(deepseek_communication_loss(1, 3, 2), balanced(2, 2)) == exactly(1));
  REQUIRE(loss_of(deepseek_communication_loss(1, 3, 3), balanced(3, 2)) == exactly(1));
  // neighbours share a device for every other token: 3/2 of the 2 devices allowed
  REQUIRE(loss_of(deepseek_communication_loss(1, 3, 2), balanced(2)) == exactly(0.75));
}

TEST_CASE("LongCat's device loss: 1 by picks where the budget is met, below with the indicator") {
  // 4 experts with weights on 2 devices, 2 without; each token picks 3: all pairs of neighbours among six, so that 2 of
  // 3 picks have weights on average
  Batch batch{.logits = balanced_logits(12, 6, 3), .k = 3};
  batch.weighted = 4;
  REQUIRE(loss_of(longcat_device_loss(1, 2, 2, 1, false), batch) == exactly(1));
  REQUIRE(loss_of(longcat_device_loss(1, 2, 2, 1, true), batch) < 0.95);
  check_loss_gradient(longcat_device_loss(1, 2, 2, 1, true), {.logits = random_logits(9, 6), .k = 3, .weighted = 4});
}

TEST_CASE("MoE++'s loss is least where experts without weights get 1 / tau as many tokens") {
  // one-hot rows, so that f and P are the same shares; 4 experts with weights, 2 without, tau = 1/2: 1, 1, 1, 1, 2, 2
  auto const shares = [](std::vector<int> const& counts) {
    Batch batch;
    batch.weighted = 4;
    for (std::size_t e = 0; e < counts.size(); ++e)
      for (int n = 0; n < counts[e]; ++n) {
        batch.logits.emplace_back(counts.size(), 0.0);
        batch.logits.back()[e] = 60;
      }
    return batch;
  };
  auto const loss = [&](std::vector<int> const& counts) {
    return loss_of(moe_plus_plus_loss(1, 0.5f, 6), shares(counts));
  };
  double const least = 0.5 / (0.5 * 4 + 2); // k tau / (tau N + Z), by Lagrange: P inverse to eta
  REQUIRE(loss({1, 1, 1, 1, 2, 2}) == Approx(least).epsilon(1e-7)); // the coefficient is a float32
  for (auto const& other :
       {std::vector<int>{1, 1, 1, 1, 1, 1}, {1, 1, 1, 1, 3, 3}, {2, 1, 1, 1, 2, 2}, {1, 1, 1, 1, 3, 2}})
    REQUIRE(loss(other) > 1.001 * least);
  // with tau = 1 it is f P without the factor E
  REQUIRE(loss_of(moe_plus_plus_loss(1, 1, 6), shares({1, 1, 1, 1, 1, 1})) == Approx(1.0 / 6).epsilon(1e-7));
}

TEST_CASE("collapse, by batch and by sequence") {
  Rows const collapsed(6, Row{0, 0, 60, 0, 0, 0});
  REQUIRE(loss_of(mesh_loss(1), {.logits = collapsed}) == exactly(E));
  Rows halves(4, Row{60, 0});
  halves[2] = halves[3] = {0, 60};
  REQUIRE(loss_of(mesh_loss(1, 2), {.logits = halves}) == exactly(2));
  REQUIRE(loss_of(mesh_loss(1), {.logits = halves}) == exactly(1));
  // sigmoids of 60 and 0 over their sum are 2/3 and 1/3
  REQUIRE(loss_of(deepseek_v3_sequence_loss(1, 1, 2), {.logits = halves}) == exactly(4.0 / 3));
  REQUIRE(loss_of(deepseek_v3_sequence_loss(1, 1, 4), {.logits = halves}) == exactly(1));
}

/// f P by a loop: picks of a token, share of what they are divided by, mass.
double reference(Rows const& logits, std::function<std::vector<std::size_t>(std::size_t)> const& picks,
                 std::function<Row(Row const&)> const& mass, double divide_by, std::size_t sequence,
                 std::vector<index_t> const& mask) {
  double total = 0;
  std::size_t sequences = 0;
  for (std::size_t begin = 0; begin < logits.size(); begin += sequence, ++sequences) {
    Row f(E, 0.0), p(E, 0.0);
    double n = 0;
    for (std::size_t t = begin; t < std::min(begin + sequence, logits.size()); ++t) {
      if (!mask.empty() && mask[t] == 0) continue;
      ++n;
      for (auto const e : picks(t)) f[e] += 1 / divide_by;
      for (std::size_t e = 0; e < E; ++e) p[e] += mass(logits[t])[e];
    }
    for (std::size_t e = 0; e < E && n > 0; ++e) total += double(E) * f[e] / n * p[e] / n;
  }
  return total / double(sequences);
}

Row normalized_sigmoid(Row z) {
  double sum = 0;
  for (auto& value : z) sum += value = 1 / (1 + std::exp(-value));
  for (auto& value : z) value /= sum;
  return z;
}

TEST_CASE("published losses equal loops over the formula, over blocks, sequences and masks") {
  auto const logits = random_logits(75, E, 7);
  std::vector<index_t> mask(75, 1);
  mask[0] = mask[33] = mask[74] = 0;
  Row const bias{1, 0, -1, 0, 0.5, 0};
  for (bool const masked : {false, true}) {
    Batch const batch{.logits = logits, .k = 2, .mask = masked ? mask : std::vector<index_t>{}, .bias = bias};
    auto const own = [&](int k) { return [&, k](std::size_t t) { return best(logits[t], k); }; };
    auto const chosen = [&](std::size_t t) {
      Row rank = logits[t];
      for (std::size_t e = 0; e < E; ++e) rank[e] += bias[e];
      return best(rank, 2);
    };
    auto const all = logits.size();
    auto const same = [&](auto const& loss, double expected) {
      REQUIRE(loss_of(loss, batch) == Approx(expected).epsilon(1e-12));
    };
    same(mesh_second_place_loss(1, 40), reference(
                                            logits, [&](std::size_t t) { return std::vector{best(logits[t], 2)[1]}; },
                                            [](Row z) {
                                              z[best(z, 1)[0]] = -1000;
                                              return softmax(z);
                                            },
                                            1, 40, batch.mask));
    same(mesh_loss(1, 40), reference(logits, own(1), softmax, 1, 40, batch.mask));
    same(transformers_loss(1, 2), reference(logits, own(2), softmax, 1, all, batch.mask));
    same(megatron_loss<SigmoidScore>(1, 3), reference(logits, own(3), normalized_sigmoid, 3, all, batch.mask));
    same(deepseek_expert_loss(1, 2), reference(logits, chosen, softmax, 2, all, batch.mask));
    same(deepseek_v3_sequence_loss(1, 2, 10), reference(logits, own(2), normalized_sigmoid, 2, 10, batch.mask));
  }
}

TEST_CASE("the device loss is that of the mean f and the sum of P of a device, blind to swaps within one") {
  auto logits = random_logits(20, E, 3);
  double expected = 0;
  for (std::size_t d = 0; d < 3; ++d) {
    double f = 0, p = 0;
    for (std::size_t t = 0; t < 20; ++t) {
      for (auto const e : best(logits[t], 2)) f += e / 2 == d ? double(E) / (2 * 20) : 0.0;
      for (std::size_t e = 2 * d; e < 2 * d + 2; ++e) p += softmax(logits[t])[e] / 20;
    }
    expected += f / 2 * p;
  }
  REQUIRE(loss_of(deepseek_device_loss(1, 2, 3), {.logits = logits, .k = 2}) == Approx(expected).epsilon(1e-12));
  for (auto& row : logits) std::swap(row[2], row[3]);
  REQUIRE(loss_of(deepseek_device_loss(1, 2, 3), {.logits = logits, .k = 2}) == Approx(expected).epsilon(1e-12));
}

TEST_CASE("published losses: gradients equal central differences") {
  Batch batch{.logits = random_logits(9, E, 11), .k = 2, .mask = {1, 1, 0, 1, 1, 1, 1, 1, 1}};
  check_loss_gradient(mesh_loss(1, 4), batch);
  check_loss_gradient(megatron_loss<SigmoidScore>(0.5f, 2), batch);
  check_loss_gradient(deepseek_v3_sequence_loss(1, 2, 4), batch);
  check_loss_gradient(deepseek_device_loss(1, 2, 3), batch);
  check_loss_gradient(deepseek_communication_loss(1, 3, 2), batch);
  check_loss_gradient(top_p_loss(1), batch);
  check_loss_gradient(mesh_second_place_loss(1, 4), batch);
  check_loss_gradient(mesh_top_2_loss(1), batch);
  batch.weighted = 4;
  check_loss_gradient(moe_plus_plus_loss(1, 0.25f, E), batch);
}

/// What the other process counted.
struct AddCounts {
  OwnedMatrix<offset_t, Exec> other;
  struct Add {
    offset_t const* from;
    offset_t* to;
    KOKKOS_FUNCTION void operator()(offset_t i) const { to[i] += from[i]; }
  };
  template <class E> void operator()(E const& exec, Matrix<offset_t, E> const& counts) const {
    detail::for_each(exec, "AddCounts", offset_t(counts.size()), Add{other.data(), counts.data()});
  }
};

TEST_CASE("global-batch loss: counts of all processes, probabilities of one") {
  // this process sends all to expert 0, the other all to expert 1
  Batch const batch{.logits = Rows(4, Row{60, 0})};
  AddCounts reduce{OwnedMatrix<offset_t, Exec>("other", 1, 3)};
  REQUIRE(loss_of(global_batch_loss(1, 1, reduce), batch) == exactly(2)); // nothing to add: the micro-batch's own
  to_device(std::vector<offset_t>{0, 4, 4}, reduce.other);
  REQUIRE(loss_of(global_batch_loss(1, 1, reduce), batch) == exactly(1));
  REQUIRE(loss_of(megatron_loss(1, 1), batch) == exactly(2));

  to_device(std::vector<offset_t>{1, 5, 6}, reduce.other);
  check_loss_gradient(global_batch_loss(1, 1, reduce), {.logits = random_logits(5, 2)}); // through the local P alone
}

TEST_CASE("pooled over layers: the loss of all layers' tokens as one batch, where one layer offsets another") {
  int const k = 2;
  Batch const first{.logits = random_logits(5, E, 1), .k = 1, .mask = {1, 0, 1, 1, 1}};
  Batch const second{.logits = random_logits(40, E, 2), .k = 1};
  Batch both = first;
  both.logits.insert(both.logits.end(), second.logits.begin(), second.logits.end());
  both.mask.resize(45, 1);

  Exec const exec;
  PooledLoss<Exec> const loss{.coefficient = 0.5f, .top_k = k, .pool = LossPool<Exec>(exec, E)};
  SwitchLoss<> const plain{.coefficient = 0.5f, .top_k = k};
  OwnedVector<double, Exec> value("value", 1);
  for (int pass = 0; pass < 2; ++pass) { // the second shows that reset resets
    loss.pool.reset(exec);
    auto f = fixture_of(first), g = fixture_of(second);
    auto const f_saved = f.saved_of(loss), g_saved = g.saved_of(loss);
    REQUIRE(f.observe(loss, {}, f_saved) == 0);
    REQUIRE(g.observe(loss, {}, g_saved) == 0);
    loss.value(exec, value);
    exec.fence();
    REQUIRE(to_host(value)[0] == Approx(loss_of(plain, both)).epsilon(1e-12));
    auto gradient = f.loss_gradient(loss, f_saved);
    auto const rest = g.loss_gradient(loss, g_saved);
    gradient.insert(gradient.end(), rest.begin(), rest.end());
    REQUIRE(relative_error(flat(gradient), flat(gradient_of(plain, both))) <= 1e-12);
  }
}

TEST_CASE("pooled over layers: two layers that collapse on different experts look balanced") {
  Exec const exec;
  PooledLoss<Exec> const loss{.coefficient = 1, .top_k = 1, .pool = LossPool<Exec>(exec, 2)};
  OwnedVector<double, Exec> value("value", 1);
  Batch const first{.logits = Rows(4, Row{60, 0})}, second{.logits = Rows(4, Row{0, 60})};
  REQUIRE(loss_of(transformers_loss(1, 1), first) == exactly(2));
  loss.pool.reset(exec);
  auto f = fixture_of(first), g = fixture_of(second);
  f.observe(loss, {}, f.saved_of(loss));
  loss.value(exec, value);
  exec.fence();
  REQUIRE(to_host(value)[0] == exactly(2));
  g.observe(loss, {}, g.saved_of(loss));
  loss.value(exec, value);
  exec.fence();
  REQUIRE(to_host(value)[0] == exactly(1));
}

TEST_CASE("no tokens, masked tokens alone, one expert") {
  Batch const none{.logits = random_logits(3, E), .mask = {0, 0, 0}};
  REQUIRE(loss_of(mesh_loss(1), none) == 0);
  REQUIRE(norm(flat(gradient_of(mesh_loss(1), none))) == 0);
  REQUIRE(loss_of(mesh_loss(1), {.logits = {{3}}}) == exactly(1));
  RoutingFixture<> empty({}, 0, 4);
  empty.select<IdentityScore>(TopK<>{.k = 1});
  auto const loss = mesh_loss(1);
  REQUIRE(empty.observe(loss, {}, empty.saved_of(loss)) == 0);
}

TEST_CASE("published losses: settings out of range") {
  Sizes sizes;
  sizes.experts = sizes.weighted = 6;
  auto const refuses = [&](auto const& loss, int id) {
    try {
      loss.check(sizes);
    } catch (Error const& error) {
      return error.id() == id;
    }
    return false;
  };
  REQUIRE(refuses(deepseek_device_loss(1, 1, 4), 103));
  REQUIRE(refuses(longcat_device_loss(1, 3, 2, 1), 106)); // no expert without weights
  REQUIRE(refuses(transformers_loss(1, 7), 102));
  REQUIRE(refuses(PooledLoss<Exec>{}, 106));
  REQUIRE(refuses(mesh_loss(1, -1), 106));
  REQUIRE(refuses(moe_plus_plus_loss(1, 0, 6), 106));
  REQUIRE(refuses(SwitchLoss<Chosen>{.groups = {.count = 2, .unweighted = 0.5f}}, 106));
  sizes.experts = sizes.weighted = 1;
  REQUIRE(refuses(mesh_second_place_loss(1), 102));
}

} // namespace published_losses_test
