// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_KEY_PAIRS_HPP
#define KOKOMO_DETAIL_KEY_PAIRS_HPP

#include <kokomo/error.hpp>
#include <kokomo/routing.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0::detail {

/// Experts as the pairs of a grid: expert i C + j of R C has the logit first(i) + second(j), and a token's logits are
/// [heads, R + C]. What is written out grows with the square root of the number of experts.
struct KeyPairs {
  int heads = 1;
  index_t rows = 1, columns = 1;

  KOKKOS_FUNCTION index_t width() const { return rows + columns; }
  KOKKOS_FUNCTION offset_t first(int head, index_t i) const { return offset_t(head) * width() + i; }
  KOKKOS_FUNCTION offset_t second(int head, index_t j) const { return offset_t(head) * width() + rows + j; }
  template <class C> KOKKOS_FUNCTION C logit(C const* z, int head, index_t expert) const {
    return z[first(head, expert / columns)] + z[second(head, expert % columns)];
  }

  /// \param[in] rows_setting 0: as many as columns
  static KeyPairs of(int heads, index_t rows_setting, index_t experts) {
    if (rows_setting > 0) return {heads, rows_setting, experts / rows_setting};
    index_t root = 1;
    while (offset_t(root + 1) * (root + 1) <= experts) ++root;
    return {heads, root, root};
  }
  /// \throws kokomo::Error 101
  void check(char const* policy, Sizes const& sizes) const {
    require(heads >= 1, 101, policy, " heads = ", heads, ", expected at least 1");
    require(offset_t(rows) * columns == sizes.experts, 101, policy, " for ", sizes.experts, " experts in ", rows,
            " rows, expected a number of rows that divides them (0: a square)");
    require(offset_t(heads) * width() == sizes.columns, 101, policy, " reads ", heads, " heads of ", width(),
            " logits, expected those of the scorer: ", sizes.columns, " columns");
  }
};

} // namespace kokomo::inline v0::detail

#endif
