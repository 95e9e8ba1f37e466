// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/deepseek_v2.hpp>
#include <kokomo/models/ernie4_5_moe.hpp>
#include <kokomo/models/longcat_flash.hpp>

template Outcome run<kokomo::models::Ernie45Moe>(Block const&);
template Outcome run<kokomo::models::Ernie45MoeWithoutShared>(Block const&);
template Outcome run<kokomo::models::LongcatFlash>(Block const&);
template Outcome run<kokomo::models::DeepseekV2>(Block const&);
