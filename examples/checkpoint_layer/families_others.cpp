// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/nllb_moe.hpp>
#include <kokomo/models/phimoe.hpp>
#include <kokomo/models/switch_transformers.hpp>

template Outcome run<kokomo::models::PhiMoe>(Block const&);
template Outcome run<kokomo::models::SwitchTransformers>(Block const&);
template Outcome run<kokomo::models::NllbMoe>(Block const&);
