// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ACTIVATE_HPP
#define KOKOMO_DETAIL_ACTIVATE_HPP

#include <kokomo/detail/operands.hpp>

namespace kokomo::inline v0::detail {

/// Adds the biases to the pre-activations and computes the hidden layer. The bias is a step of its own: in a 16-bit
/// storage type the product is rounded before it, as published, which decides on which side of a clamp a value falls.
template <class T, class Activation> struct Activate {
  using C = compute_t<T>;
  GroupedRows rows;
  T* pre;    // [rows, (gate) up]
  T* hidden; // [rows, width]
  offset_t width;
  BiasRef<T const> gate_bias, up_bias;
  Activation activation;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    T* const gate = pre + row * (Activation::gated ? 2 : 1) * width;
    T* const up = Activation::gated ? gate + width : gate;
    if (up_bias.data != nullptr) {
      add(up, up_bias, rows.group_of(row));
      if constexpr (Activation::gated) add(gate, gate_bias, rows.group_of(row));
    }
    for (offset_t i = 0; i < width; ++i)
      hidden[row * width + i] = T(activation.template value<T>(C(gate[i]), C(up[i])));
  }
  KOKKOS_FUNCTION void add(T* values, BiasRef<T const> const& bias, index_t group) const {
    T const* const b = bias.data + group * bias.group_stride;
    for (offset_t i = 0; i < width; ++i) values[i] = T(C(values[i]) + C(b[i * bias.n_stride]));
  }
};

} // namespace kokomo::inline v0::detail

#endif
