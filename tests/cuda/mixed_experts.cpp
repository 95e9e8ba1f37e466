// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/duo_llm.hpp>

namespace {

template <class Exec> using DuoLlm = kokomo::models::DuoLlm<float, Exec>;

} // namespace

int mixed_experts() {
  kokomo::Shape const shape{.tokens = 37, .hidden = 24, .experts = 2};
  return !Run<DuoLlm>::agrees(
      "DuoLlm", [](auto& p) { kokomo::models::configure_duo_llm(p, 32, 8, true); }, shape);
}
