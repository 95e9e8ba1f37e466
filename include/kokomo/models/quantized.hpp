// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_MODELS_QUANTIZED_HPP
#define KOKOMO_MODELS_QUANTIZED_HPP

#include <kokomo/experts/quantized.hpp>
#include <kokomo/models/deepseek_v3.hpp>
#include <kokomo/models/selected_softmax.hpp>

namespace kokomo::inline v0::models {

/// What GptOss is, with experts as its files hold them: MXFP4.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using GptOssMxfp4 = Layer<Router<LinearScorer, TopK<dynamic, RankByLogits>>, SelectedSoftmaxGate, NoBalancer,
                          QuantizedExperts<ClampedSwiGlu, Mxfp4>, T, Exec>;

/// What DeepseekV3 is, with routed and shared experts as its files hold them: float8 in blocks.
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace>
using DeepseekV3Fp8 = Layer<Router<LinearScorer, GroupLimitedTopK<>>, SigmoidGate, SelectionBias,
                            WithShared<QuantizedExperts<Glu<AnyActivation>, Fp8Blocks>>, T, Exec>;

/// Weights are out_in always.
template <class Activation, class Format>
void configure(QuantizedExperts<Activation, Format>& p, Description const& d) {
  p.intermediate = d.intermediate;
  p.bias = d.expert_bias;
  p.gate_up = d.gate_up;
  detail::set(p.activation, d.activation, d.clamped, d.softcapped);
}
template <class Routed, class Share, class Activation, class Format>
void configure(WithShared<Routed, Share, QuantizedExperts<Activation, Format>>& p, Description const& d) {
  configure(p.routed, d);
  p.count = d.shared;
  p.shared.intermediate = d.shared_intermediate;
  detail::set(p.shared.activation, d.shared_activation, d.shared_clamped, d.softcapped);
}

} // namespace kokomo::inline v0::models

#endif
