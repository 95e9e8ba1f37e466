# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
# Rules about the files themselves: formatting, and that every policy has its page and its test.
find_program(KOKOMO_CLANG_FORMAT NAMES clang-format-14 clang-format)
mark_as_advanced(KOKOMO_CLANG_FORMAT)
if(KOKOMO_CLANG_FORMAT)
  add_test(NAME style.format COMMAND ${CMAKE_COMMAND} -DCLANG_FORMAT=${KOKOMO_CLANG_FORMAT}
    -P ${PROJECT_SOURCE_DIR}/cmake/check_format.cmake)
  set_tests_properties(style.format PROPERTIES LABELS style SKIP_REGULAR_EXPRESSION "^skipped")
endif()
find_package(Python3 QUIET COMPONENTS Interpreter)
if(Python3_FOUND)
  add_test(NAME style.tree COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/cmake/check_tree.py)
  set_tests_properties(style.tree PROPERTIES LABELS style)
  add_test(NAME style.snippets COMMAND Python3::Interpreter ${PROJECT_SOURCE_DIR}/docs/check_snippets.py)
  set_tests_properties(style.snippets PROPERTIES LABELS style)
endif()
