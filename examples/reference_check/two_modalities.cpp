// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

// ERNIE 4.5 VL: a token's type decides between text experts and vision experts, each with a router of its own. As two
// layers with opposite token masks, of which one carries the shared experts, that every token visits.
void check_two_modalities(Reference const& reference, Comparison& comparison) {
  auto const types = kokomo::io::read<std::int64_t>(reference.at("token_type"));
  auto const dy = kokomo::io::read<float>(reference.at("grad_output"));
  std::vector<bool> is_text, is_vision;
  families::Inputs text_inputs, vision_inputs;
  text_inputs.x = vision_inputs.x = kokomo::io::read<float>(reference.at("input"));
  for (auto const type : types) {
    is_text.push_back(type == 0), is_vision.push_back(type != 0);
    text_inputs.token_mask.push_back(type == 0 ? 1 : 0);
    vision_inputs.token_mask.push_back(type == 0 ? 0 : 1);
  }

  auto description = reference.describe();
  auto const& sizes = reference.config().at("expert_intermediate_size");
  description.intermediate = sizes.at(0);
  auto const text = families::composition("Ernie45Moe")(description, reference.tokens(), false);
  description.intermediate = sizes.at(1);
  auto const vision = families::composition("Ernie45MoeWithoutShared")(description, reference.tokens(), false);
  load(*text, reference, "text_");
  load(*vision, reference, "vision_");
  text->forward(text_inputs);
  text->backward(dy);
  vision->forward(vision_inputs);
  vision->backward(dy);

  auto const sum = [](std::vector<float> const& a, std::vector<float> const& b) {
    Values sum = doubles(a);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += b[i];
    return sum;
  };
  comparison.output("output", sum(text->y(), vision->y()), values_of(reference, "output"));
  compare_routing(*text, reference, comparison, " (text)", is_text);
  compare_routing(*vision, reference, comparison, " (vision)", is_vision);
  comparison.gradient("grad_input", sum(text->dx(), vision->dx()), values_of(reference, "grad_input"));
  compare_gradients(*text, reference, comparison, "text_");
  compare_gradients(*vision, reference, comparison, "vision_");
}
