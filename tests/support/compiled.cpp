// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/compiled.hpp>

namespace kokomo::inline v0 {

namespace detail {
KOKOMO_TESTS_KERNELS(, double)
KOKOMO_TESTS_KERNELS(, float)
} // namespace detail

KOKOMO_TESTS_LAYERS()

} // namespace kokomo::inline v0
