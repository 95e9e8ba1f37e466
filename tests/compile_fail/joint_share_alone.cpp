// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer: a gate that weighs shared experts \(JointSigmoidGate\) and WithShared<..., JointShare> need each other}}
#include "use.hpp"

#include <kokomo/gate/joint.hpp>

#if defined(KOKOMO_CORRECTED)
using Gate = kokomo::JointSigmoidGate;
#else
using Gate = kokomo::SoftmaxGate; // it has no weights for shared experts
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, Gate, kokomo::NoBalancer,
                                kokomo::WithShared<kokomo::SwiGluExperts, kokomo::JointShare>>>();
