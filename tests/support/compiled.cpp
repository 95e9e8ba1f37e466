// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/compiled.hpp>

namespace kokomo::inline v0::detail {

KOKOMO_TESTS_COMPILED(, double)
KOKOMO_TESTS_COMPILED(, float)
KOKOMO_TESTS_COMPILED_EXPERTS(, double, Glu<Silu>)
KOKOMO_TESTS_COMPILED_EXPERTS(, float, Glu<Silu>)
KOKOMO_TESTS_COMPILED_EXPERTS(, double, Plain<Relu>)
KOKOMO_TESTS_COMPILED_EXPERTS(, float, Plain<Relu>)

} // namespace kokomo::inline v0::detail
