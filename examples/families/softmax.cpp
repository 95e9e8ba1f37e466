// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed.hpp"

#include <kokomo/models/deepseek_v2.hpp>
#include <kokomo/models/ernie4_5_moe.hpp>
#include <kokomo/models/gemma4.hpp>
#include <kokomo/models/hunyuan_moe.hpp>
#include <kokomo/models/longcat_flash.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/qwen2_moe.hpp>
#include <kokomo/models/zaya.hpp>

// Gated experts, weights from softmax over all of them.

namespace families {

template MakeLayer make<kokomo::models::Mixtral>;
template MakeLayer make<kokomo::models::Qwen2Moe>;
template MakeLayer make<kokomo::models::HunyuanMoe>;
template MakeLayer make<kokomo::models::Gemma4>;
template MakeLayer make<kokomo::models::Ernie45Moe>;
template MakeLayer make<kokomo::models::Ernie45MoeWithoutShared>;
template MakeLayer make<kokomo::models::LongcatFlash>;
template MakeLayer make<kokomo::models::Zaya>;
template MakeLayer make<kokomo::models::DeepseekV2>;

} // namespace families
