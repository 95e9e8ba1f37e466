// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed.hpp"

#include <kokomo/models/deepseek_v3.hpp>
#include <kokomo/models/sigmoid_top_k.hpp>

// Gated experts, weights from sigmoid.

namespace families {

template MakeLayer make<kokomo::models::Afmoe>;
template MakeLayer make<kokomo::models::MiniMaxM2>;
template MakeLayer make<kokomo::models::Lfm2MoeWithoutBias>;
template MakeLayer make<kokomo::models::Flint>;
template MakeLayer make<kokomo::models::Inkling>;
template MakeLayer make<kokomo::models::MuseSpark>;
template MakeLayer make<kokomo::models::DeepseekV3>;
template MakeLayer make<kokomo::models::DeepseekV3WithoutShared>;
template MakeLayer make<kokomo::models::Axk1>;

} // namespace families
