// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_GATE_ON_INPUT_HPP
#define KOKOMO_GATE_ON_INPUT_HPP

namespace kokomo::inline v0 {

/// The same gate, its weight multiplying the expert's input instead of its output: expert(w x) (Llama 4). The experts'
/// nonlinearity sees the weight, so the two differ.
template <class Gate> struct OnInput : Gate { static constexpr bool weighs_input = true; };

namespace detail {
template <class Gate> constexpr bool weighs_input() {
  if constexpr (requires { Gate::weighs_input; })
    return Gate::weighs_input;
  else
    return false;
}
} // namespace detail

} // namespace kokomo::inline v0

#endif
