// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <io/check_error.hpp>
#include <support/catch.hpp>

#include <kokomo/error.hpp>

#include <string>

void check_error_of(void (*call)(void* action), void* action, int id, std::initializer_list<std::string_view> parts) {
  try {
    call(action);
  } catch (kokomo::Error const& error) {
    INFO(error.what());
    CHECK(error.id() == id);
    for (auto const part : parts) CHECK_THAT(error.what(), Catch::Matchers::ContainsSubstring(std::string(part)));
    return;
  }
  FAIL_CHECK("no error, expected " << id);
}
