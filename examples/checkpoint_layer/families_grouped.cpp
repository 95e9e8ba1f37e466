// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/deepseek_v3.hpp>

template Outcome run<kokomo::models::DeepseekV3>(Block const&);
template Outcome run<kokomo::models::DeepseekV3WithoutShared>(Block const&);
template Outcome run<kokomo::models::Axk1>(Block const&);
template Outcome run<kokomo::models::Glm5Next>(Block const&);
