// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <errors/expect.hpp>
#include <support/catch.hpp>

#include <kokomo/error.hpp>

namespace errors {

void expect_error_of(int id, void (*call)(void const* f), void const* f, std::initializer_list<std::string> parts) {
  try {
    call(f);
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
