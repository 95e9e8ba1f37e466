// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_IO_CHECK_ERROR_HPP
#define KOKOMO_TESTS_IO_CHECK_ERROR_HPP

#include <initializer_list>
#include <string_view>

void check_error_of(void (*call)(void* action), void* action, int id, std::initializer_list<std::string_view> parts);
/// Checks that `action` throws kokomo::Error `id` and that its text holds all of `parts`.
template <class Action> void check_error(Action action, int id, std::initializer_list<std::string_view> parts) {
  check_error_of([](void* erased) { (*static_cast<Action*>(erased))(); }, &action, id, parts);
}

#endif
