// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed.hpp"

#include <kokomo/models/deepseek_v3.hpp>
#include <kokomo/models/deepseek_v4.hpp>
#include <kokomo/models/selected_softmax.hpp>
#include <kokomo/models/sigmoid_top_k.hpp>

// Gated experts whose activation has limits.

namespace families {

template MakeLayer make<kokomo::models::DeepseekV4>;
template MakeLayer make<kokomo::models::DeepseekV4Hash>;
template MakeLayer make<kokomo::models::Glm5Next>;
template MakeLayer make<kokomo::models::GptOss>;
template MakeLayer make<kokomo::models::MiniMaxM3>;
template MakeLayer make<kokomo::models::Inkling2>;

} // namespace families
