// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "run.hpp"

#include <kokomo/models/sigmoid_top_k.hpp>

template Outcome run<kokomo::models::MiniMaxM3>(Block const&);
template Outcome run<kokomo::models::Inkling2>(Block const&);
template Outcome run<kokomo::models::MuseSpark>(Block const&);
template Outcome run<kokomo::models::Inkling>(Block const&);
