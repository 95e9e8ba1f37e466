// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/selected_softmax.hpp>

template Outcome run<kokomo::models::GptOss>(Block const&);
template Outcome run<kokomo::models::GraniteMoe>(Block const&);
template Outcome run<kokomo::models::JetMoeAttention>(Block const&);
