// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/deepseek_v4.hpp>
#include <kokomo/models/nemotron_h.hpp>

template Outcome run<kokomo::models::NemotronH>(Block const&);
template Outcome run<kokomo::models::NemotronHLatent>(Block const&);
template Outcome run<kokomo::models::DeepseekV4>(Block const&);
template Outcome run<kokomo::models::DeepseekV4Hash>(Block const&);
