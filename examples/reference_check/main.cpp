// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// reference_check FILE...
//
// Checks this library against reference vectors that others computed: each file holds one MoE block's weights, input,
// output, routing, gradients and auxiliary losses, and metadata that names the family and its settings. The family's
// composition is built, run forward and backward, and compared; chosen experts must be equal as sets.
#include "reference.hpp"

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

#include <cstdio>
#include <exception>

namespace models = kokomo::models;

namespace {

struct Entry {
  std::string_view family;
  void (*check)(Reference const&, Comparison&);
};

constexpr Entry families[] = {
    {"mixtral", &check<models::Mixtral>},
    {"mixtral_4x", &check<models::Mixtral>},
    {"minimax", &check<models::Mixtral>},
    {"qwen3_moe", &check<models::Mixtral>},
    {"olmoe", &check<models::Mixtral>},
    {"flex_olmo", &check<models::Mixtral>},
    {"qwen3_vl_moe", &check<models::Mixtral>},
    {"jamba", &check<models::Mixtral>},
    {"dbrx", &check<models::Mixtral>},
    {"qwen2_moe", &check<models::Qwen2Moe>},
    {"qwen2_moe_4x", &check<models::Qwen2Moe>},
    {"qwen3_next", &check<models::Qwen2Moe>},
    {"qwen3_5_moe", &check<models::Qwen2Moe>},
    {"hunyuan_v1_moe", &check<models::HunyuanMoe>},
    {"gemma4", &check<models::Gemma4>},
    {"longcat_flash", &check<models::LongcatFlash>},
    {"deepseek_v2", &check<models::DeepseekV2>},
    {"mistral4", &check<models::DeepseekV2>},
    {"mistral_large4", &check<models::DeepseekV2>},
    {"deepseek_v3", &check<models::DeepseekV3>},
    {"deepseek_v3_4x", &check<models::DeepseekV3>},
    {"dots1", &check<models::DeepseekV3>},
    {"glm4_moe", &check<models::DeepseekV3>},
    {"solar_open", &check<models::DeepseekV3>},
    {"bailing_hybrid", &check<models::DeepseekV3>},
    {"kimi_linear", &check<models::DeepseekV3>},
    {"exaone_moe", &check<models::DeepseekV3>},
    {"dots3_note", &check<models::DeepseekV3>},
    {"axk2", &check<models::DeepseekV3>},
    {"mimo_v2_flash", &check<models::DeepseekV3WithoutShared>},
    {"beam", &check<models::DeepseekV3WithoutShared>},
    {"axk1", &check<models::Axk1>},
    {"glm5_next", &check<models::Glm5Next>},
    {"hy_v4", &check<models::Glm5Next>},
    {"afmoe", &check<models::Afmoe>},
    {"laguna", &check<models::Afmoe>},
    {"hy_v3", &check<models::Afmoe>},
    {"minimax_m2", &check<models::MiniMaxM2>},
    {"dots3_note_vision", &check<models::MiniMaxM2>},
    {"flint", &check<models::Flint>},
    {"kolibri1", &check<models::Kolibri1>},
    {"minimax_m3_vl", &check<models::MiniMaxM3>},
    {"step3p7", &check<models::MiniMaxM3>},
    {"inkling2", &check<models::Inkling2>},
    {"muse_spark", &check<models::MuseSpark>},
    {"inkling", &check<models::Inkling>},
    {"deepseek_v4", &check<models::DeepseekV4>},
    {"deepseek_v4_hash", &check<models::DeepseekV4Hash>},
    {"gpt_oss", &check<models::GptOss>},
    {"openai_privacy_filter", &check<models::GptOss>},
    {"granitemoe", &check<models::GraniteMoe>},
    {"jetmoe", &check<models::GraniteMoe>},
    {"jetmoe_moa", &check<models::JetMoeAttention>},
    {"granitemoeshared", &check<models::GraniteMoeShared>},
    {"aria", &check<models::GraniteMoeShared>},
    {"llama4", &check<models::Llama4>},
    {"phimoe", &check<models::PhiMoe>},
    {"phimoe_train", &check<models::PhiMoeReplay>},
    {"switch_transformers", &check<models::SwitchTransformers>},
    {"nllb_moe", &check<models::NllbMoe>},
    {"zaya", &check<models::Zaya>},
    {"doge", &check<models::Doge>},
    {"ernie4_5_vl_moe", &check_two_modalities},
    {"aux_load_balancing", &check_pooled_loss},
    {"extra_expert_choice", &check_expert_choice},
    {"extra_sinkhorn", &check_sinkhorn},
    {"extra_peer", &check_peer},
    {"extra_onnxruntime_moe", &check_operator},
    {"extra_grouped_mm", &check_grouped_product},
    {"extra_balanced_assignment", &check_balanced_assignment},
    {"extra_capacity_lp", &check_capacity_lp},
    {"extra_deepspeed_gating", &check_deepspeed_gating},
    {"extra_soft_moe", &check_soft_moe},
};

/// Families whose composition depends on their settings.
void (*composition(Reference const& reference))(Reference const&, Comparison&) {
  auto const& config = reference.config();
  std::string const& family = reference.family();
  if (family == "ernie4_5_moe")
    return config.at("num_shared_experts") == 0 ? &check<models::Ernie45MoeWithoutShared> : &check<models::Ernie45Moe>;
  if (family == "nemotron_h")
    return config.at("latent_size").is_null() ? &check<models::NemotronH> : &check<models::NemotronHLatent>;
  if (family == "lfm2_moe")
    return config.at("selection_bias") == true ? &check<models::MiniMaxM2> : &check<models::Lfm2MoeWithoutBias>;
  if (family == "cohere2_moe")
    return config.at("score_function") == "sigmoid" ? &check<models::Cohere2MoeSigmoid>
                                                    : &check<models::GraniteMoeShared>;
  for (auto const& entry : families)
    if (entry.family == family) return entry.check;
  return nullptr;
}

bool check_file(char const* path) {
  std::string const name(path);
  std::string const file = name.substr(name.find_last_of('/') + 1);
  std::string line;
  bool passed = false;
  try {
    Reference const reference(path);
    Comparison comparison(reference.is_bfloat16());
    if (auto const run = composition(reference)) {
      run(reference, comparison);
      if (run != &check_pooled_loss) check_losses(reference, comparison);
      comparison.finish();
    } else {
      comparison.fail("unknown family " + reference.family());
    }
    line = comparison.summary();
    passed = comparison.passed();
  } catch (std::exception const& error) {
    line = std::string("FAIL ") + error.what();
  }
  std::printf("%-64s %s\n", file.c_str(), line.c_str());
  std::fflush(stdout);
  return passed;
}

} // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: reference_check FILE...\n"
                         "FILE: safetensors files of reference vectors (docs/guide/load_a_checkpoint.md)\n");
    return 2;
  }
  Kokkos::ScopeGuard const kokkos(argc, argv);
  int passed = 0, failed = 0;
  for (int i = 1; i < argc; ++i) ++(check_file(argv[i]) ? passed : failed);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed == 0 ? 0 : 1;
}
