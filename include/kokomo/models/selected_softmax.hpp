// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_SELECTED_SOFTMAX_HPP
#define KOKOMO_MODELS_SELECTED_SOFTMAX_HPP

#include <kokomo/models/description.hpp>

namespace kokomo::inline v0::models {

/// Top-k of the logits, softmax over the chosen; experts with biases, clamped SwiGLU with alpha and up + 1,
/// interleaved. openai_privacy_filter: concatenated halves, weights / k and output * k. Source: transformers gpt_oss.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GptOss = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                     ClampedSwiGluExperts, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using OpenaiPrivacyFilter = GptOss<T, Exec>;

/// Top-k of the logits, softmax over the chosen. jetmoe adds a bias once to every token. Source: transformers
/// granitemoe, jetmoe.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GraniteMoe =
    Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer, AnyGluExperts, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using JetMoe = GraniteMoe<T, Exec>;

/// jetmoe's mixture of attention heads without the attention: two linear maps an expert, activation identity.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using JetMoeAttention =
    Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer, AnyPlainExperts, T, Exec>;

/// With an ungated shared expert: granitemoeshared, aria (weights stored in_out), cohere2_moe (average or sum).
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GraniteMoeShared = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                               WithShared<AnyGluExperts>, T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Aria = GraniteMoeShared<T, Exec>;

template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> using Cohere2Moe = GraniteMoeShared<T, Exec>;

/// cohere2_moe with sigmoid weights, normalised or not.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using Cohere2MoeSigmoid = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SigmoidGate, NoBalancer,
                                WithShared<AnyGluExperts>, T, Exec>;

} // namespace kokomo::inline v0::models

#endif
