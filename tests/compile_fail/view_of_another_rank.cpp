// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo: this argument must be a Kokkos::View of the rank that the docs name}}
#include "use.hpp"

using Exec = Kokkos::DefaultExecutionSpace;
using Good = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;
#if defined(KOKOMO_CORRECTED)
using Bad = Good;
#else
using Bad = Kokkos::View<float*, Kokkos::LayoutRight, Exec>;
#endif

template void use_forward<kokomo::Layer<>>(Bad const&, Good const&);
