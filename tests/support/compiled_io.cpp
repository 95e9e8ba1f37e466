// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#if __has_include(<nlohmann/json.hpp>)
#include <support/compiled_io.hpp>

KOKOMO_TESTS_COMPILED_JSON()
#endif
