// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "make.hpp"

#include <kokomo/models/deepseek_v2.hpp>
#include <kokomo/models/deepseek_v3.hpp>
#include <kokomo/models/deepseek_v4.hpp>
#include <kokomo/models/doge.hpp>
#include <kokomo/models/ernie4_5_moe.hpp>
#include <kokomo/models/gemma4.hpp>
#include <kokomo/models/hunyuan_moe.hpp>
#include <kokomo/models/llama4.hpp>
#include <kokomo/models/longcat_flash.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/nemotron_h.hpp>
#include <kokomo/models/nllb_moe.hpp>
#include <kokomo/models/phimoe.hpp>
#include <kokomo/models/qwen2_moe.hpp>
#include <kokomo/models/selected_softmax.hpp>
#include <kokomo/models/sigmoid_top_k.hpp>
#include <kokomo/models/switch_transformers.hpp>
#include <kokomo/models/zaya.hpp>

#include <algorithm>
#include <stdexcept>

namespace families {

namespace {

namespace models = kokomo::models;

struct Composition {
  std::string_view name;
  MakeLayer* make;
};

constexpr Composition compositions[] = {
    {"Afmoe", &make<models::Afmoe>},
    {"Axk1", &make<models::Axk1>},
    {"Cohere2MoeSigmoid", &make<models::Cohere2MoeSigmoid>},
    {"DeepseekV2", &make<models::DeepseekV2>},
    {"DeepseekV3", &make<models::DeepseekV3>},
    {"DeepseekV3WithoutShared", &make<models::DeepseekV3WithoutShared>},
    {"DeepseekV4", &make<models::DeepseekV4>},
    {"DeepseekV4Hash", &make<models::DeepseekV4Hash>},
    {"Doge", &make<models::Doge>},
    {"Ernie45Moe", &make<models::Ernie45Moe>},
    {"Ernie45MoeWithoutShared", &make<models::Ernie45MoeWithoutShared>},
    {"ExpertChoice", &make<ExpertChoice>},
    {"ExpertChoiceSigmoid", &make<ExpertChoiceSigmoid>},
    {"Flint", &make<models::Flint>},
    {"Gemma4", &make<models::Gemma4>},
    {"Glm5Next", &make<models::Glm5Next>},
    {"GptOss", &make<models::GptOss>},
    {"GraniteMoe", &make<models::GraniteMoe>},
    {"GraniteMoeShared", &make<models::GraniteMoeShared>},
    {"HunyuanMoe", &make<models::HunyuanMoe>},
    {"Inkling", &make<models::Inkling>},
    {"Inkling2", &make<models::Inkling2>},
    {"JetMoeAttention", &make<models::JetMoeAttention>},
    {"Kolibri1", &make<models::Kolibri1>},
    {"Lfm2MoeWithoutBias", &make<models::Lfm2MoeWithoutBias>},
    {"Llama4", &make<models::Llama4>},
    {"LongcatFlash", &make<models::LongcatFlash>},
    {"MiniMaxM2", &make<models::MiniMaxM2>},
    {"MiniMaxM3", &make<models::MiniMaxM3>},
    {"Mixtral", &make<models::Mixtral>},
    {"MuseSpark", &make<models::MuseSpark>},
    {"NemotronH", &make<models::NemotronH>},
    {"NemotronHLatent", &make<models::NemotronHLatent>},
    {"NllbMoe", &make<models::NllbMoe>},
    {"PhiMoe", &make<models::PhiMoe>},
    {"PhiMoeReplay", &make<models::PhiMoeReplay>},
    {"Qwen2Moe", &make<models::Qwen2Moe>},
    {"SwitchTransformers", &make<models::SwitchTransformers>},
    {"Zaya", &make<models::Zaya>},
};

} // namespace

MakeLayer& composition(std::string_view name) {
  auto const* const found = std::find_if(std::begin(compositions), std::end(compositions),
                                         [&](Composition const& each) { return each.name == name; });
  if (found == std::end(compositions))
    throw std::runtime_error("this program was not compiled with the composition " + std::string(name));
  return *found->make;
}

} // namespace families
