// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_LINEAR_HPP
#define KOKOMO_DETAIL_LINEAR_HPP

#include <kokomo/detail/product.hpp>

namespace kokomo::inline v0::detail {

/// y = x W^T (+ bias) for all rows alike: a grouped product of one group. W is [out, in].
template <class Exec, class X, class W, class Y>
void linear(Exec const& exec, char const* label, X const* x, offset_t rows, offset_t in, W const* weight, W const* bias,
            offset_t out, Y* y, Write write, WorkerScratch const& workers) {
  using C = compute_t<X>;
  grouped_product(exec, label, GroupedRows{nullptr, nullptr, 1, rows}, RowSource<X, C>{x, in}, in,
                  WeightRef<W const>{weight, out * in, in, 1}, BiasRef<W const>{bias, out, 1}, out,
                  RowTarget<Y>{y, out}, write, workers);
}

/// dx (=|+=) dy W
template <class Exec, class C, class W, class DX>
void linear_input_gradient(Exec const& exec, char const* label, C const* dy, offset_t rows, offset_t in,
                           W const* weight, offset_t out, DX* dx, Write write, WorkerScratch const& workers) {
  grouped_product(exec, label, GroupedRows{nullptr, nullptr, 1, rows}, RowSource<C, C>{dy, out}, out,
                  WeightRef<W const>{weight, out * in, 1, in}, BiasRef<W const>{}, in, RowTarget<DX>{dx, in}, write,
                  workers);
}

/// dW (=|+=) dy^T x
template <class Exec, class C, class X, class W>
void linear_weight_gradient(Exec const& exec, char const* label, C const* dy, offset_t rows, offset_t out, X const* x,
                            offset_t in, W* grad, Write write, WorkerScratch const& workers) {
  grouped_outer_product(exec, label, GroupedRows{nullptr, nullptr, 1, rows}, RowSource<C, C>{dy, out}, out,
                        RowSource<X, C>{x, in}, in, WeightRef<W>{grad, out * in, in, 1}, write, workers);
}

/// dbias (=|+=) the sum of the rows of dy
template <class Exec, class C, class W>
void linear_bias_gradient(Exec const& exec, char const* label, C const* dy, offset_t rows, offset_t out, W* grad,
                          Write write) {
  grouped_row_sum(exec, label, GroupedRows{nullptr, nullptr, 1, rows}, RowSource<C, C>{dy, out}, out,
                  BiasRef<W>{grad, out, 1}, write);
}

} // namespace kokomo::inline v0::detail

#endif
