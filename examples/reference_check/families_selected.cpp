// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/llama4.hpp>
#include <kokomo/models/selected_softmax.hpp>

template void check<kokomo::models::GptOss>(Reference const&, Comparison&);
template void check<kokomo::models::GraniteMoe>(Reference const&, Comparison&);
template void check<kokomo::models::JetMoeAttention>(Reference const&, Comparison&);
template void check<kokomo::models::GraniteMoeShared>(Reference const&, Comparison&);
template void check<kokomo::models::Cohere2MoeSigmoid>(Reference const&, Comparison&);
template void check<kokomo::models::Llama4>(Reference const&, Comparison&);
