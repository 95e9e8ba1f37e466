// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/models/doge.hpp>
#include <kokomo/models/zaya.hpp>

template void check<kokomo::models::Zaya>(Reference const&, Comparison&);
template void check<kokomo::models::Doge>(Reference const&, Comparison&);
