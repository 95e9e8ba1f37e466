// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/llama4.hpp>
#include <kokomo/models/selected_softmax.hpp>

template Outcome run<kokomo::models::GraniteMoeShared>(Block const&);
template Outcome run<kokomo::models::Cohere2MoeSigmoid>(Block const&);
template Outcome run<kokomo::models::Llama4>(Block const&);
