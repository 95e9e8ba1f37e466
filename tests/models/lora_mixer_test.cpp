// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "preset.hpp"

#include <kokomo/models/adaptive_routing.hpp>
#include <kokomo/router/given.hpp>

/// LoRA-Mixer's stages: a task's own adapter, all of them while the router learns, the three best.

namespace lora_mixer_test {

using namespace kokomo;
using namespace kokomo::test;
using Mixer = models::LoraMixer<double, Exec>;

Mixer::Policies policies(int k, index_t experts, float product, float entropy) {
  Mixer::Policies p{.router = {.selector = {.k = k}}, .experts = {.intermediate = 2}};
  Sizes sizes;
  sizes.hidden = 4, sizes.weighted = experts;
  using Anchor = parameters_t<models::AdapterExperts, double, Exec>;
  p.balancer = models::lora_mixer_balance<double, Exec>(product, entropy, k, experts, /*preserve*/ 0,
                                                        Anchor(Allocator<Exec>(Exec{}), p.experts, sizes));
  return p;
}

TEST_CASE("LoRA-Mixer: adapters weighed by the softmax over all, the loss by its formula in either sign") {
  Shape const shape{.tokens = 6, .hidden = 4, .experts = 3};
  for (float const sign : {1.0f, -1.0f}) { // what the text says, and what is printed
    Fixture<Mixer> f(shape, policies(3, 3, 0.5f, sign * 0.25f), 3);
    f.mode = Mode::training;
    f.forward();
    auto const out = f.result();
    auto const x = matrix_of(f.x), z = products(x, matrix_of(f.parameters.router.weight));
    auto const up = in_rows(in_double(to_host(f.parameters.experts.up)), 3 * 2),
               down = in_rows(in_double(to_host(f.parameters.experts.down)), 3 * 4);
    Rows y(6, Row(4, 0.0));
    Row mean(3, 0.0);
    double entropy = 0;
    for (std::size_t t = 0; t < 6; ++t) {
      auto const p = softmax(z[t]);
      for (std::size_t e = 0; e < 3; ++e) {
        mean[e] += p[e] / 6, entropy -= p[e] * std::log(p[e]) / 6;
        for (std::size_t r = 0; r < 2; ++r) {
          double const u = products({x[t]}, {up[2 * e + r]})[0][0];
          for (std::size_t h = 0; h < 4; ++h) y[t][h] += p[e] * u * down[4 * e + h][r];
        }
      }
    }
    CHECK(relative_error(flat(out.y), flat(y)) < 1e-13);
    // every expert is among the three best of every token: f_i = 1/3 each
    double const product = 0.5 * (mean[0] + mean[1] + mean[2]) / 3;
    CHECK(out.loss == Approx(product + double(sign) * 0.25 * entropy).epsilon(1e-7)); // coefficients are floats
  }

  // three of three are all of them, and adapters of zeros leave the projection as it is
  Fixture<Mixer> dense(shape, policies(3, 3, 0, 0), 3), best(shape, policies(3, 3, 0, 0), 3);
  dense.mode = Mode::training;
  dense.forward(), best.forward();
  REQUIRE(best.result().y == dense.result().y);
  to_device(Row(best.parameters.experts.down.size(), 0.0), best.parameters.experts.down);
  best.forward();
  REQUIRE(norm(flat(best.result().y)) == 0);
}

TEST_CASE("LoRA-Mixer's product: a / E at even use, where it is least for shares that follow the probabilities") {
  double const a = 0.5;
  SwitchLoss<Chosen> const product{
      .coefficient = float(a / 4), .top_k = 1, .divide_by_k = true}; // as lora_mixer_balance
  REQUIRE(loss_of(product, {.logits = balanced_logits(8, 4, 1, 3)}) == Approx(a / 4).epsilon(1e-12));
  Rows tilted = balanced_logits(8, 4, 1, 3);
  for (std::size_t t = 0; t < 8; t += 4) tilted[t + 1] = tilted[t]; // a quarter of the tokens goes elsewhere
  REQUIRE(loss_of(product, {.logits = tilted}) > a / 4 + 0.01);
}

TEST_CASE("LoRA-Mixer's hard stage: a sample trains the adapter of its own task alone") {
  using Hard = Layer<Router<LinearScorer, Given>, ConstantGate, NoBalancer, models::AdapterExperts, double, Exec>;
  Fixture<Hard> f({.tokens = 6, .hidden = 4, .experts = 3},
                  {.router = {.selector = {.k = 1}}, .experts = {.intermediate = 2}}, 5);
  f.set_choice({2, 2, 0, 2, 0, 0}, 1);
  f.forward(), f.backward();
  auto const up = in_rows(in_double(to_host(f.gradients.experts.up)), 3);
  auto const down = in_rows(in_double(to_host(f.gradients.experts.down)), 3);
  REQUIRE((norm(up[1]) == 0 && norm(down[1]) == 0)); // no sample of that task
  REQUIRE((norm(up[0]) > 0 && norm(down[0]) > 0 && norm(up[2]) > 0 && norm(down[2]) > 0));
  f.set_choice({2, 2, 2, 2, 2, 2}, 1);
  f.forward(), f.backward();
  REQUIRE(norm(in_rows(in_double(to_host(f.gradients.experts.up)), 3)[0]) == 0);
  REQUIRE(norm(in_double(to_host(f.gradients.router.weight))) == 0); // labels route, not the router
}

} // namespace lora_mixer_test
