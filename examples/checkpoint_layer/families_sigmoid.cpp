// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/sigmoid_top_k.hpp>

template Outcome run<kokomo::models::Afmoe>(Block const&);
template Outcome run<kokomo::models::MiniMaxM2>(Block const&);
template Outcome run<kokomo::models::Lfm2MoeWithoutBias>(Block const&);
template Outcome run<kokomo::models::Flint>(Block const&);
template Outcome run<kokomo::models::Kolibri1>(Block const&);
