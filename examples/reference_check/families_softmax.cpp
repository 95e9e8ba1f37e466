// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/gemma4.hpp>
#include <kokomo/models/hunyuan_moe.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/qwen2_moe.hpp>

template void check<kokomo::models::Mixtral>(Reference const&, Comparison&);
template void check<kokomo::models::Qwen2Moe>(Reference const&, Comparison&);
template void check<kokomo::models::HunyuanMoe>(Reference const&, Comparison&);
template void check<kokomo::models::Gemma4>(Reference const&, Comparison&);
