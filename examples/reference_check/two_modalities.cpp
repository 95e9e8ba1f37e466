// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/ernie4_5_moe.hpp>

// ERNIE 4.5 VL: a token's type decides between text experts and vision experts, each with a router of its own. As two
// layers with opposite token masks, of which one carries the shared experts, that every token visits.
void check_two_modalities(Reference const& reference, Comparison& comparison) {
  using kokomo::index_t;
  auto const tokens = std::size_t(reference.tokens());
  auto const types = kokomo::io::read<std::int64_t>(reference.at("token_type"));
  kokomo::OwnedVector<index_t, Exec> text_mask("text", tokens), vision_mask("vision", tokens);
  std::vector<bool> is_text(tokens), is_vision(tokens);
  auto const text_host = Kokkos::create_mirror_view(text_mask), vision_host = Kokkos::create_mirror_view(vision_mask);
  for (std::size_t t = 0; t < tokens; ++t) {
    is_text[t] = types[t] == 0, is_vision[t] = types[t] != 0;
    text_host(t) = is_text[t] ? 1 : 0, vision_host(t) = is_vision[t] ? 1 : 0;
  }
  Kokkos::deep_copy(text_mask, text_host);
  Kokkos::deep_copy(vision_mask, vision_host);

  using Text = kokomo::models::Ernie45Moe<float, Exec>;
  using Vision = kokomo::models::Ernie45MoeWithoutShared<float, Exec>;
  auto description = reference.describe();
  auto const& sizes = reference.config().at("expert_intermediate_size");
  description.intermediate = sizes.at(0);
  Block<Text> text(reference, description, "text_");
  description.intermediate = sizes.at(1);
  Block<Vision> vision(reference, description, "vision_");

  Text::Inputs text_inputs;
  text_inputs.token_mask = text_mask;
  text.run(text_inputs);
  Vision::Inputs vision_inputs;
  vision_inputs.token_mask = vision_mask;
  vision.run(vision_inputs);

  auto const sum = [](std::vector<double> a, std::vector<double> const& b) {
    for (std::size_t i = 0; i < a.size(); ++i) a[i] += b[i];
    return a;
  };
  comparison.output("output", sum(to_doubles(text.y), to_doubles(vision.y)),
                    kokomo::io::read<double>(reference.at("output")));
  text.compare_routing(reference, comparison, " (text)", is_text);
  vision.compare_routing(reference, comparison, " (vision)", is_vision);
  comparison.gradient("grad_input", sum(to_doubles(text.dx), to_doubles(vision.dx)),
                      kokomo::io::read<double>(reference.at("grad_input")));
  text.compare_gradients(reference, comparison, "text_");
  vision.compare_gradients(reference, comparison, "vision_");
}
