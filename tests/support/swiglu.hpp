// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SWIGLU_HPP
#define KOKOMO_TESTS_SUPPORT_SWIGLU_HPP

#include <support/views.hpp>

#include <cmath>

namespace kokomo::test {

/// down (silu(gate x) * up x) of expert e; gate_up [experts, 2 units, hidden], gate above up, down [experts, hidden, units].
inline Row swiglu(Row const& gate_up, Row const& down, std::size_t units, std::size_t e, Row const& x) {
  std::size_t const hidden = x.size();
  Row y(hidden, 0.0);
  for (std::size_t i = 0; i < units; ++i) {
    double gate = 0, up = 0;
    for (std::size_t h = 0; h < hidden; ++h) {
      gate += gate_up[(e * 2 * units + i) * hidden + h] * x[h];
      up += gate_up[(e * 2 * units + units + i) * hidden + h] * x[h];
    }
    for (std::size_t h = 0; h < hidden; ++h)
      y[h] += down[(e * hidden + h) * units + i] * gate / (1 + std::exp(-gate)) * up;
  }
  return y;
}
/// Of parameters as the library has them.
template <class P> Row swiglu(P const& parameters, std::size_t e, Row const& x) {
  return swiglu(in_double(to_host(parameters.gate_up)), in_double(to_host(parameters.down)), parameters.down.extent(2),
                e, x);
}

} // namespace kokomo::test

#endif
