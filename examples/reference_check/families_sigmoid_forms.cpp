// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/sigmoid_top_k.hpp>

template void check<kokomo::models::MiniMaxM3>(Reference const&, Comparison&);
template void check<kokomo::models::Inkling2>(Reference const&, Comparison&);
template void check<kokomo::models::MuseSpark>(Reference const&, Comparison&);
template void check<kokomo::models::Inkling>(Reference const&, Comparison&);
