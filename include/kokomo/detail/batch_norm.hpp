// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_BATCH_NORM_HPP
#define KOKOMO_DETAIL_BATCH_NORM_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// Which tokens a batch's moments are over, and whether they count.
template <class Exec> struct BatchTokens {
  Vector<index_t const, Exec> mask; // null: all
  offset_t count;
  Mode mode;

  KOKKOS_FUNCTION bool masked(offset_t token) const { return mask.data() != nullptr && mask[token] == 0; }
};

/// Mean and inverse deviation of one column: of the batch, whose moments move the running ones, or the running ones.
template <class T, class Exec> struct ColumnMoments {
  using C = compute_t<T>;
  BatchTokens<Exec> tokens;
  Matrix<C const, Exec> values; // [tokens, columns]
  Vector<C, Exec> running_mean, running_variance, mean, inverse;
  C epsilon, momentum;

  KOKKOS_FUNCTION void operator()(offset_t column) const {
    C m = running_mean[column], variance = running_variance[column];
    if (tokens.mode == Mode::training) {
      offset_t n = 0;
      m = variance = 0;
      for (offset_t t = 0; t < tokens.count; ++t)
        if (!tokens.masked(t)) m += values(t, column), ++n;
      m /= C(n > 0 ? n : 1);
      for (offset_t t = 0; t < tokens.count; ++t)
        if (!tokens.masked(t)) variance += (values(t, column) - m) * (values(t, column) - m);
      C const unbiased = variance / C(n > 1 ? n - 1 : 1);
      variance /= C(n > 0 ? n : 1);
      if (n > 0) {
        running_mean[column] += momentum * (m - running_mean[column]);
        running_variance[column] += momentum * (unbiased - running_variance[column]);
      }
    }
    mean[column] = m;
    inverse[column] = C(1) / Kokkos::sqrt(variance + epsilon);
  }
};

/// Moments of the batch depend on all of its values, running ones on none.
template <class T, class Exec> struct ColumnMomentsBackward {
  using C = compute_t<T>;
  BatchTokens<Exec> tokens;
  Vector<C, Exec> inverse;
  Matrix<C, Exec> normed, d;

  KOKKOS_FUNCTION void operator()(offset_t column) const {
    C mean = 0, along = 0;
    offset_t n = 0;
    for (offset_t t = 0; t < tokens.count && tokens.mode == Mode::training; ++t)
      if (!tokens.masked(t)) mean += d(t, column), along += d(t, column) * normed(t, column), ++n;
    mean /= C(n > 0 ? n : 1), along /= C(n > 0 ? n : 1);
    for (offset_t t = 0; t < tokens.count; ++t)
      d(t, column) = tokens.masked(t) ? C(0) : inverse[column] * (d(t, column) - mean - normed(t, column) * along);
  }
};

} // namespace kokomo::inline v0::detail

#endif
