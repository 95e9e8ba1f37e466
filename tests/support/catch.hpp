// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_CATCH_HPP
#define KOKOMO_TESTS_SUPPORT_CATCH_HPP

/// Catch2 2.13 and 3 under one name, in the spelling of 3.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
#else
#include <catch2/catch.hpp>
namespace Catch::Matchers {
inline auto ContainsSubstring(std::string const& text) {
  return Contains(text);
}
} // namespace Catch::Matchers
#endif

#endif
