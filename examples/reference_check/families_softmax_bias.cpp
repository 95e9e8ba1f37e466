// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/deepseek_v2.hpp>
#include <kokomo/models/ernie4_5_moe.hpp>
#include <kokomo/models/longcat_flash.hpp>

template void check<kokomo::models::Ernie45Moe>(Reference const&, Comparison&);
template void check<kokomo::models::Ernie45MoeWithoutShared>(Reference const&, Comparison&);
template void check<kokomo::models::LongcatFlash>(Reference const&, Comparison&);
template void check<kokomo::models::DeepseekV2>(Reference const&, Comparison&);
