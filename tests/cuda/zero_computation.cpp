// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/moe_plus_plus.hpp>

namespace {

template <class Exec> using MoePlusPlus = kokomo::models::MoePlusPlus<float, Exec>;

} // namespace

int zero_computation() {
  return !Run<MoePlusPlus>::agrees("MoePlusPlus", [](auto& p) {
    kokomo::models::configure_moe_plus_plus(p, 2, 16, false);
    p.experts.inner.inner.intermediate = 16;
  });
}
