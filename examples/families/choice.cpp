// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "composed.hpp"

#include <kokomo/models/llama4.hpp>
#include <kokomo/models/phimoe.hpp>
#include <kokomo/models/selected_softmax.hpp>
#include <kokomo/models/sigmoid_top_k.hpp>

// Gated experts, chosen by logits, by SparseMixer, or the choosers themselves.

namespace families {

template MakeLayer make<kokomo::models::GraniteMoe>;
template MakeLayer make<kokomo::models::GraniteMoeShared>;
template MakeLayer make<kokomo::models::Cohere2MoeSigmoid>;
template MakeLayer make<kokomo::models::Llama4>;
template MakeLayer make<kokomo::models::Kolibri1>;
template MakeLayer make<kokomo::models::PhiMoe>;
template MakeLayer make<kokomo::models::PhiMoeReplay>;
template MakeLayer make<ExpertChoice>;
template MakeLayer make<ExpertChoiceSigmoid>;

} // namespace families
