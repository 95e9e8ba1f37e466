// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/deepseek_v3.hpp>

template void check<kokomo::models::DeepseekV3>(Reference const&, Comparison&);
template void check<kokomo::models::DeepseekV3WithoutShared>(Reference const&, Comparison&);
template void check<kokomo::models::Axk1>(Reference const&, Comparison&);
template void check<kokomo::models::Glm5Next>(Reference const&, Comparison&);
