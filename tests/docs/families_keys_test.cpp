// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <docs/example.hpp>

#include <kokomo/models/product_keys.hpp>

TEST_CASE("peer") {
  // [snippet:peer]
  using Layer = kokomo::models::Peer<>;
  Example<Layer> run({.tokens = 2, .hidden = 2, .experts = 2 * 2},
                     {.router = {.scorer = {.key_size = 1}, .selector = {.k = 2}},
                      .experts = {.act = {.kind = kokomo::ActivationKind::identity}}});
  auto const router = run.parameters.router;
  auto const experts = run.parameters.experts;
  kokomo::test::to_device(std::vector<double>{1, 0, 0, 1}, router.queries); // q = x
  kokomo::test::to_device(std::vector<double>{0, 0, 1, 1}, router.keys);    // logit of expert 2 i + j: x_0 i + x_1 j
  kokomo::test::to_device(std::vector<double>{1, 0, 1, 0, 1, 0, 1, 0}, experts.up);
  kokomo::test::to_device(std::vector<double>{0, 0, 1, 0, 2, 0, 3, 0}, experts.down); // expert e gives (e x_0, 0)
  run.set_x({{2, 1}, {-1, 2}});
  run.forward();
  REQUIRE(run.chosen() == Table<kokomo::index_t>{{3, 2}, {1, 3}}); // logits 0, 1, 2, 3 and 0, 2, -1, 1
  double const first = example::sigmoid(1), second = example::sigmoid(-1);
  REQUIRE(close(run.weights(), {{first, second}, {first, second}}));
  REQUIRE(close(run.output(), {{2 * (3 * first + 2 * second), 0}, {-(first + 3 * second), 0}}));
  // [/snippet]
}

TEST_CASE("omni_moe") {
  // [snippet:omni_moe]
  using Layer = kokomo::models::OmniMoe<>;
  auto const weights_by = [](kokomo::PairWeight weight) {
    Example<Layer> run({.tokens = 1, .hidden = 5, .experts = 2 * 3},
                       {.router = {.scorer = {.rows = 2}, .selector = {.k = 3, .rows = 2}},
                        .gate = {.weight = weight, .rows = 2},
                        .experts = {.shared = {.intermediate = 4}}});
    // rows 3/4 and 1/4, columns 4/7, 2/7 and 1/7: experts 12, 6, 3 and 4, 2, 1 of 28
    run.set_logits({{std::log(3), 0, std::log(4), std::log(2), 0}});
    run.forward();
    REQUIRE(run.chosen() == Table<kokomo::index_t>{{0, 1, 3}});
    return run.weights();
  };
  REQUIRE(close(weights_by(kokomo::PairWeight::selected_softmax), {{12.0 / 22, 6.0 / 22, 4.0 / 22}}));  // the paper
  REQUIRE(close(weights_by(kokomo::PairWeight::joint_probability), {{12.0 / 28, 6.0 / 28, 4.0 / 28}})); // its code
  // [/snippet]
}
