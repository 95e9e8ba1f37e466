// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_ERRORS_EXPECT_HPP
#define KOKOMO_TESTS_ERRORS_EXPECT_HPP

#include <initializer_list>
#include <string>

namespace errors {

/// f throws kokomo::Error `id`. Its text begins with the id and holds every part: what was wrong, with its value, and
/// what was expected.
void expect_error_of(int id, void (*call)(void const* f), void const* f, std::initializer_list<std::string> parts);
template <class F> void expect_error(int id, F const& f, std::initializer_list<std::string> parts) {
  expect_error_of(
      id, [](void const* erased) { (*static_cast<F const*>(erased))(); }, &f, parts);
}

} // namespace errors

#endif
