// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// reference_check FILE...
//
// Checks this library against reference vectors that others computed: each file holds one MoE block's weights, input,
// output, routing, gradients and auxiliary losses, and metadata that names the family and its settings. The family's
// composition is built, run forward and backward, and compared; chosen experts must be equal as sets.
#include "reference.hpp"

#include <algorithm>
#include <cstdio>
#include <exception>

namespace {

/// A family and what kokomo::models calls its composition.
struct Entry {
  std::string_view family, composition;
};

constexpr Entry families_of_files[] = {
    {"mixtral", "Mixtral"},
    {"mixtral_4x", "Mixtral"},
    {"minimax", "Mixtral"},
    {"qwen3_moe", "Mixtral"},
    {"olmoe", "Mixtral"},
    {"flex_olmo", "Mixtral"},
    {"qwen3_vl_moe", "Mixtral"},
    {"jamba", "Mixtral"},
    {"dbrx", "Mixtral"},
    {"qwen2_moe", "Qwen2Moe"},
    {"qwen2_moe_4x", "Qwen2Moe"},
    {"qwen3_next", "Qwen2Moe"},
    {"qwen3_5_moe", "Qwen2Moe"},
    {"hunyuan_v1_moe", "HunyuanMoe"},
    {"gemma4", "Gemma4"},
    {"longcat_flash", "LongcatFlash"},
    {"deepseek_v2", "DeepseekV2"},
    {"mistral4", "DeepseekV2"},
    {"mistral_large4", "DeepseekV2"},
    {"deepseek_v3", "DeepseekV3"},
    {"deepseek_v3_4x", "DeepseekV3"},
    {"dots1", "DeepseekV3"},
    {"glm4_moe", "DeepseekV3"},
    {"solar_open", "DeepseekV3"},
    {"bailing_hybrid", "DeepseekV3"},
    {"kimi_linear", "DeepseekV3"},
    {"exaone_moe", "DeepseekV3"},
    {"dots3_note", "DeepseekV3"},
    {"axk2", "DeepseekV3"},
    {"mimo_v2_flash", "DeepseekV3WithoutShared"},
    {"beam", "DeepseekV3WithoutShared"},
    {"axk1", "Axk1"},
    {"glm5_next", "Glm5Next"},
    {"hy_v4", "Glm5Next"},
    {"afmoe", "Afmoe"},
    {"laguna", "Afmoe"},
    {"hy_v3", "Afmoe"},
    {"minimax_m2", "MiniMaxM2"},
    {"dots3_note_vision", "MiniMaxM2"},
    {"flint", "Flint"},
    {"kolibri1", "Kolibri1"},
    {"minimax_m3_vl", "MiniMaxM3"},
    {"step3p7", "MiniMaxM3"},
    {"inkling2", "Inkling2"},
    {"muse_spark", "MuseSpark"},
    {"inkling", "Inkling"},
    {"deepseek_v4", "DeepseekV4"},
    {"deepseek_v4_hash", "DeepseekV4Hash"},
    {"gpt_oss", "GptOss"},
    {"openai_privacy_filter", "GptOss"},
    {"granitemoe", "GraniteMoe"},
    {"jetmoe", "GraniteMoe"},
    {"jetmoe_moa", "JetMoeAttention"},
    {"granitemoeshared", "GraniteMoeShared"},
    {"aria", "GraniteMoeShared"},
    {"llama4", "Llama4"},
    {"phimoe", "PhiMoe"},
    {"phimoe_train", "PhiMoeReplay"},
    {"switch_transformers", "SwitchTransformers"},
    {"nllb_moe", "NllbMoe"},
    {"zaya", "Zaya"},
    {"doge", "Doge"},
};

/// Files that are no block of one composition.
struct Special {
  std::string_view family;
  void (*check)(Reference const&, Comparison&);
};

constexpr Special specials[] = {
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

/// Of some families it depends on their settings. Empty for one that is unknown.
std::string_view composition(Reference const& reference) {
  auto const& config = reference.config();
  std::string const& family = reference.family();
  if (family == "ernie4_5_moe") return config.at("num_shared_experts") == 0 ? "Ernie45MoeWithoutShared" : "Ernie45Moe";
  if (family == "nemotron_h") return config.at("latent_size").is_null() ? "NemotronH" : "NemotronHLatent";
  if (family == "lfm2_moe") return config.at("selection_bias") == true ? "MiniMaxM2" : "Lfm2MoeWithoutBias";
  if (family == "cohere2_moe")
    return config.at("score_function") == "sigmoid" ? "Cohere2MoeSigmoid" : "GraniteMoeShared";
  for (auto const& entry : families_of_files)
    if (entry.family == family) return entry.composition;
  return {};
}

void check(Reference const& reference, Comparison& comparison) {
  auto const* const special = std::find_if(std::begin(specials), std::end(specials),
                                           [&](Special const& each) { return each.family == reference.family(); });
  auto const name = composition(reference);
  if (special != std::end(specials))
    special->check(reference, comparison);
  else if (!name.empty())
    check_family(name, reference, comparison);
  else
    return comparison.fail("unknown family " + reference.family());
  if (reference.family() != "aux_load_balancing") check_losses(reference, comparison); // which is nothing else
  comparison.finish();
}

bool check_file(char const* path) {
  std::string const name(path);
  std::string const file = name.substr(name.find_last_of('/') + 1);
  std::string line;
  bool passed = false;
  try {
    Reference const reference(path);
    Comparison comparison(reference.is_bfloat16());
    check(reference, comparison);
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
