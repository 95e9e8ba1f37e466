// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/deepseek_v4.hpp>
#include <kokomo/models/nemotron_h.hpp>

template void check<kokomo::models::NemotronH>(Reference const&, Comparison&);
template void check<kokomo::models::NemotronHLatent>(Reference const&, Comparison&);
template void check<kokomo::models::DeepseekV4>(Reference const&, Comparison&);
template void check<kokomo::models::DeepseekV4Hash>(Reference const&, Comparison&);
