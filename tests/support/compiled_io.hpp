// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_COMPILED_IO_HPP
#define KOKOMO_TESTS_SUPPORT_COMPILED_IO_HPP

#include <kokomo/io/checkpoint.hpp>

/// What the readers and writers of files use of the JSON library, compiled once.
#define KOKOMO_TESTS_COMPILED_JSON(EXTERN)                                                                             \
  EXTERN template nlohmann::json nlohmann::json::parse(std::string&&, nlohmann::json::parser_callback_t const, bool,   \
                                                       bool);                                                          \
  EXTERN template bool nlohmann::json::sax_parse(std::string_view::const_iterator, std::string_view::const_iterator,   \
                                                 kokomo::detail::SafetensorsHeaderReader*,                             \
                                                 nlohmann::json::input_format_t const, bool const, bool const);        \
  EXTERN template std::string nlohmann::json::dump(int, char, bool, nlohmann::json::error_handler_t) const;            \
  EXTERN template std::string nlohmann::ordered_json::dump(int, char, bool, nlohmann::ordered_json::error_handler_t)   \
      const;

KOKOMO_TESTS_COMPILED_JSON(extern)

#endif
