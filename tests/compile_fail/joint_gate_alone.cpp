// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer: a gate that weighs shared experts \(JointSigmoidGate\) and WithShared<..., JointShare> need each other}}
#include "use.hpp"

#include <kokomo/gate/joint.hpp>

#if defined(KOKOMO_CORRECTED)
using Share = kokomo::JointShare;
#else
using Share = kokomo::Ungated; // nobody asks the gate for the shared experts' weights
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::JointSigmoidGate,
                                kokomo::NoBalancer, kokomo::WithShared<kokomo::SwiGluExperts, Share>>>();
