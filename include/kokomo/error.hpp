// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ERROR_HPP
#define KOKOMO_ERROR_HPP

#include <sstream>
#include <stdexcept>
#include <string>

namespace kokomo::inline v0 {

/// Every error that the library throws. `docs/errors.md` has one entry an id.
///
/// Ids: 1xx settings, 2xx shapes, workspace and aliasing, 3xx layout and memory space, 4xx files, 5xx vendor calls.
/// The text names what was wrong, with its value, and what was expected. When it is thrown nothing has been changed.
class Error : public std::invalid_argument {
public:
  Error(int id, std::string const& what)
      : std::invalid_argument("[kokomo.error." + std::to_string(id) + "] " + what), m_id(id) {}

  int id() const noexcept { return m_id; }

private:
  int m_id;
};

namespace detail {

/// Throws Error `id` with the parts streamed one after the other as its text.
template <class... Parts> [[noreturn]] void fail(int id, Parts const&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw Error(id, text.str());
}

/// `fail` unless `condition` holds.
template <class... Parts> void require(bool condition, int id, Parts const&... parts) {
  if (!condition) fail(id, parts...);
}

} // namespace detail
} // namespace kokomo::inline v0

#endif
