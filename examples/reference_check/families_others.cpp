// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/nllb_moe.hpp>
#include <kokomo/models/phimoe.hpp>
#include <kokomo/models/switch_transformers.hpp>

template void check<kokomo::models::PhiMoe>(Reference const&, Comparison&);
template void check<kokomo::models::PhiMoeReplay>(Reference const&, Comparison&);
template void check<kokomo::models::SwitchTransformers>(Reference const&, Comparison&);
template void check<kokomo::models::NllbMoe>(Reference const&, Comparison&);
