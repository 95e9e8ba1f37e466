// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo: this View is written to, so its elements must not be const}}
#include "use.hpp"

using Exec = Kokkos::DefaultExecutionSpace;
using Good = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;
#if defined(KOKOMO_CORRECTED)
using Bad = Good;
#else
using Bad = Kokkos::View<float const**, Kokkos::LayoutRight, Exec>;
#endif

template void use_forward<kokomo::Layer<>>(Good const&, Bad const&);
