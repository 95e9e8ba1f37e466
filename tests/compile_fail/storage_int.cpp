// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo::Layer: the storage type must be float, double, kokomo::bfloat16 or kokomo::float16}}
#include "use.hpp"

#if defined(KOKOMO_CORRECTED)
using Storage = kokomo::float16;
#else
using Storage = int;
#endif

template void use<kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                                kokomo::NoBalancer, kokomo::SwiGluExperts, Storage>>();
