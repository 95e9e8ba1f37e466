// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/gemma4.hpp>
#include <kokomo/models/hunyuan_moe.hpp>
#include <kokomo/models/mixtral.hpp>
#include <kokomo/models/qwen2_moe.hpp>

template Outcome run<kokomo::models::Mixtral>(Block const&);
template Outcome run<kokomo::models::Qwen2Moe>(Block const&);
template Outcome run<kokomo::models::HunyuanMoe>(Block const&);
template Outcome run<kokomo::models::Gemma4>(Block const&);
