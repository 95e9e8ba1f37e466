// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// What Kokkos itself costs: subtracted from every other file.
#include <Kokkos_Core.hpp>
