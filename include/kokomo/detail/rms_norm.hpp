// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_RMS_NORM_HPP
#define KOKOMO_DETAIL_RMS_NORM_HPP

#include <kokomo/detail/launch.hpp>
#include <kokomo/types.hpp>

namespace kokomo::inline v0::detail {

/// y = x * (mean(x^2) + epsilon)^(-1/2) * (offset + weight) * factor, row by row; a null weight counts as one.
template <class C> struct RmsNormSettings {
  C epsilon = 0;
  C offset = 0; // added to the weight
  C factor = 1;
  C const* weight = nullptr;

  KOKKOS_FUNCTION C gain(offset_t column) const {
    return (weight != nullptr ? offset + weight[column] : C(1)) * factor;
  }
};

template <class C, class X> KOKKOS_FUNCTION C inverse_rms(X const* x, offset_t width, C epsilon) {
  C sum = 0;
  for (offset_t h = 0; h < width; ++h) sum += C(x[h]) * C(x[h]);
  return C(1) / Kokkos::sqrt(sum / C(width) + epsilon);
}

template <class C, class X, class Y> struct RmsNormForward {
  X const* x;
  Y* y;
  offset_t width;
  RmsNormSettings<C> settings;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    X const* const in = x + row * width;
    C const inverse = inverse_rms(in, width, settings.epsilon);
    for (offset_t h = 0; h < width; ++h) y[row * width + h] = Y(C(in[h]) * inverse * settings.gain(h));
  }
};

/// dx += of one row; keeps the inverse root mean square for the weight's gradient.
template <class C, class X> struct RmsNormBackward {
  X const* x;
  C const* dy;
  C* dx;
  C* inverse_of_row;
  offset_t width;
  RmsNormSettings<C> settings;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    X const* const in = x + row * width;
    C const* const g = dy + row * width;
    C const inverse = inverse_rms(in, width, settings.epsilon);
    C along = 0; // sum_h dy_h gain_h x_h
    for (offset_t h = 0; h < width; ++h) along += g[h] * settings.gain(h) * C(in[h]);
    C const pull = along * inverse * inverse / C(width);
    for (offset_t h = 0; h < width; ++h) dx[row * width + h] += inverse * (g[h] * settings.gain(h) - C(in[h]) * pull);
    inverse_of_row[row] = inverse;
  }
};

template <class C, class X> struct RmsNormWeightGradient {
  X const* x;
  C const* dy;
  C const* inverse_of_row;
  offset_t rows, width;
  C factor;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t h) const {
    C sum = 0;
    for (offset_t row = 0; row < rows; ++row)
      sum += dy[row * width + h] * C(x[row * width + h]) * inverse_of_row[row] * factor;
    grad[h] = write == Write::add ? grad[h] + sum : sum;
  }
};

template <class Exec, class C, class X, class Y>
void rms_norm(Exec const& exec, char const* label, X const* x, Y* y, offset_t rows, offset_t width,
              RmsNormSettings<C> const& settings) {
  for_each(exec, label, rows, RmsNormForward<C, X, Y>{x, y, width, settings});
}

/// Adds to dx [rows, width]; writes or adds to grad [width] where the norm has a weight. `inverse` is scratch [rows].
template <class Exec, class C, class X>
void rms_norm_backward(Exec const& exec, char const* label, X const* x, C const* dy, C* dx, C* inverse, offset_t rows,
                       offset_t width, RmsNormSettings<C> const& settings, C* grad, Write write) {
  for_each(exec, label, rows, RmsNormBackward<C, X>{x, dy, dx, inverse, width, settings});
  if (grad != nullptr)
    for_each(exec, label, width,
             RmsNormWeightGradient<C, X>{x, dy, inverse, rows, width, settings.factor, grad, write});
}

} // namespace kokomo::inline v0::detail

#endif
