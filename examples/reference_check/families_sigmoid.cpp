// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/sigmoid_top_k.hpp>

template void check<kokomo::models::Afmoe>(Reference const&, Comparison&);
template void check<kokomo::models::MiniMaxM2>(Reference const&, Comparison&);
template void check<kokomo::models::Lfm2MoeWithoutBias>(Reference const&, Comparison&);
template void check<kokomo::models::Flint>(Reference const&, Comparison&);
template void check<kokomo::models::Kolibri1>(Reference const&, Comparison&);
