// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_ERRORS_EXPECT_HPP
#define KOKOMO_TESTS_ERRORS_EXPECT_HPP

#include <support/catch.hpp>

#include <kokomo/error.hpp>

#include <initializer_list>
#include <string>

namespace errors {

/// f throws kokomo::Error `id`. Its text begins with the id and holds every part: what was wrong, with its value, and
/// what was expected.
template <class F> void expect_error(int id, F const& f, std::initializer_list<std::string> parts) {
  try {
    f();
  } catch (kokomo::Error const& error) {
    std::string const text = error.what();
    INFO(text);
    REQUIRE(error.id() == id);
    REQUIRE(text.starts_with("[kokomo.error." + std::to_string(id) + "] "));
    for (std::string const& part : parts) {
      INFO(part);
      REQUIRE(text.find(part) != std::string::npos);
    }
    return;
  }
  FAIL("expected kokomo::Error " << id);
}

} // namespace errors

#endif
