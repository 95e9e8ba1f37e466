// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_DEEPSEEK_V2_HPP
#define KOKOMO_MODELS_DEEPSEEK_V2_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Softmax scores, top-k among the best groups, ungated shared experts. deepseek_v2: a group counts by its best expert,
/// weights scale * s, never normalised (`norm_topk_prob` is ignored there); greedy selection is one group. mistral4 and
/// mistral_large4: by the sum of its two best, weights s / (sum + 1e-20). Experts outside rank 0.0. Source:
/// transformers.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV2 =
    Layer<Router<LinearScorer, GroupLimitedTopK<>>, SoftmaxGate, NoBalancer, WithShared<AnyGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Mistral4 = DeepseekV2<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using MistralLarge4 = DeepseekV2<T, Exec>;

} // namespace kokomo::inline v0::models

#endif
