// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo: the element type of this View must be the layer's storage type}}
#include "use.hpp"

using Exec = Kokkos::DefaultExecutionSpace;
using Good = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;
#if defined(KOKOMO_CORRECTED)
using Bad = Good;
#else
using Bad = Kokkos::View<double**, Kokkos::LayoutRight, Exec>;
#endif

template void use_forward<kokomo::Layer<>>(Bad const&, Good const&);
