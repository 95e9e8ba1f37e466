// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed.hpp"

#include <kokomo/models/doge.hpp>
#include <kokomo/models/nemotron_h.hpp>
#include <kokomo/models/nllb_moe.hpp>
#include <kokomo/models/selected_softmax.hpp>
#include <kokomo/models/switch_transformers.hpp>

// Experts without a gate.

namespace families {

template MakeLayer make<kokomo::models::NemotronH>;
template MakeLayer make<kokomo::models::NemotronHLatent>;
template MakeLayer make<kokomo::models::JetMoeAttention>;
template MakeLayer make<kokomo::models::SwitchTransformers>;
template MakeLayer make<kokomo::models::NllbMoe>;
template MakeLayer make<kokomo::models::Doge>;

} // namespace families
