// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_ACTIVATION_HPP
#define KOKOMO_EXPERTS_ACTIVATION_HPP

#include <kokomo/error.hpp>
#include <kokomo/score.hpp>
#include <kokomo/types.hpp>

namespace kokomo::inline v0 {

/// Functions of one number, with their derivatives.
struct Silu { ///< x sigmoid(x)
  template <class C> KOKKOS_FUNCTION C value(C x) const { return x * detail::sigmoid(x); }
  template <class C> KOKKOS_FUNCTION C slope(C x) const {
    C const s = detail::sigmoid(x);
    return s * (C(1) + x * (C(1) - s));
  }
};
struct Gelu { ///< x Phi(x), the exact (erf) form
  template <class C> KOKKOS_FUNCTION C value(C x) const { return x * phi(x); }
  template <class C> KOKKOS_FUNCTION C slope(C x) const {
    return phi(x) + x * C(0.39894228040143267794) * Kokkos::exp(C(-0.5) * x * x);
  }
  template <class C> KOKKOS_FUNCTION static C phi(C x) {
    return C(0.5) * (C(1) + Kokkos::erf(x * C(0.70710678118654752440)));
  }
};
struct GeluTanh { ///< x/2 (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3)))
  template <class C> KOKKOS_FUNCTION C value(C x) const {
    return C(0.5) * x * (C(1) + Kokkos::tanh(C(0.79788456080286535588) * (x + C(0.044715) * x * x * x)));
  }
  template <class C> KOKKOS_FUNCTION C slope(C x) const {
    C const t = Kokkos::tanh(C(0.79788456080286535588) * (x + C(0.044715) * x * x * x));
    C const inner = C(0.79788456080286535588) * (C(1) + C(3 * 0.044715) * x * x);
    return C(0.5) * (C(1) + t) + C(0.5) * x * (C(1) - t * t) * inner;
  }
};
struct Relu { ///< max(x, 0)
  template <class C> KOKKOS_FUNCTION C value(C x) const { return x > C(0) ? x : C(0); }
  template <class C> KOKKOS_FUNCTION C slope(C x) const { return x > C(0) ? C(1) : C(0); }
};
struct SquaredRelu { ///< max(x, 0)^2
  template <class C> KOKKOS_FUNCTION C value(C x) const { return x > C(0) ? x * x : C(0); }
  template <class C> KOKKOS_FUNCTION C slope(C x) const { return x > C(0) ? C(2) * x : C(0); }
};
struct Tanh { ///< tanh x
  template <class C> KOKKOS_FUNCTION C value(C x) const { return Kokkos::tanh(x); }
  template <class C> KOKKOS_FUNCTION C slope(C x) const {
    C const t = Kokkos::tanh(x);
    return C(1) - t * t;
  }
};
struct Identity { ///< x
  template <class C> KOKKOS_FUNCTION C value(C x) const { return x; }
  template <class C> KOKKOS_FUNCTION C slope(C) const { return C(1); }
};

enum class ActivationKind { silu, gelu, gelu_tanh, relu, squared_relu, identity };

/// One of the functions above, chosen at run time (`hidden_act` of a configuration file).
struct AnyActivation {
  ActivationKind kind = ActivationKind::silu;

  template <class C> KOKKOS_FUNCTION C value(C x) const {
    switch (kind) {
    case ActivationKind::silu:
      return Silu{}.value(x);
    case ActivationKind::gelu:
      return Gelu{}.value(x);
    case ActivationKind::gelu_tanh:
      return GeluTanh{}.value(x);
    case ActivationKind::relu:
      return Relu{}.value(x);
    case ActivationKind::squared_relu:
      return SquaredRelu{}.value(x);
    default:
      return x;
    }
  }
  template <class C> KOKKOS_FUNCTION C slope(C x) const {
    switch (kind) {
    case ActivationKind::silu:
      return Silu{}.slope(x);
    case ActivationKind::gelu:
      return Gelu{}.slope(x);
    case ActivationKind::gelu_tanh:
      return GeluTanh{}.slope(x);
    case ActivationKind::relu:
      return Relu{}.slope(x);
    case ActivationKind::squared_relu:
      return SquaredRelu{}.slope(x);
    default:
      return C(1);
    }
  }
};

/// The hidden layer of an expert is `value<Rounding>(gate, up)` of two projections (`gated`), or of one (`up` alone).
/// Every step is rounded to the storage type Rounding, as published code that computes in it does; for float and double
/// that changes nothing.

/// act(up)
template <class Act> struct Plain {
  static constexpr bool gated = false;
  Act act{};

  template <class Rounding, class C> KOKKOS_FUNCTION C value(C, C up) const {
    return rounded_to<Rounding>(act.value(up));
  }
  template <class C> KOKKOS_FUNCTION void gradient(C, C up, C da, C&, C& d_up) const { d_up = da * act.slope(up); }
};

/// act(gate) * up
template <class Act> struct Glu {
  static constexpr bool gated = true;
  Act act{};

  template <class Rounding, class C> KOKKOS_FUNCTION C value(C gate, C up) const {
    return rounded_to<Rounding>(rounded_to<Rounding>(act.value(gate)) * up);
  }
  template <class C> KOKKOS_FUNCTION void gradient(C gate, C up, C da, C& d_gate, C& d_up) const {
    d_gate = da * up * act.slope(gate);
    d_up = da * act.value(gate);
  }
};
using SwiGlu = Glu<Silu>;
using GeGlu = Glu<Gelu>;
using GeGluTanh = Glu<GeluTanh>;
using ReGlu = Glu<Relu>;

/// Where the clamp of a ClampedSwiGlu stands.
enum class Clamp { before_activation, after_activation };

/// SwiGLU between bounds. With g = min(gate, gate_max) and u = clip(up, -up_limit, up_limit):
///
///     before_activation:  g sigmoid(alpha g) (u + up_offset)
///     after_activation:   min(gate sigmoid(alpha gate), gate_max) (u + up_offset)
///
/// A clamp passes the gradient strictly within its bounds, as torch 2.15 does; the gate has no lower bound.
/// Source: GPT-OSS (alpha 1.702, offset 1), DeepSeek-V4, Step-3.7 (after), as transformers has them.
struct ClampedSwiGlu {
  static constexpr bool gated = true;
  float alpha = 1;
  float gate_max = Kokkos::Experimental::infinity_v<float>;
  float up_limit = Kokkos::Experimental::infinity_v<float>; ///< >= 0
  float up_offset = 0;
  Clamp clamp = Clamp::before_activation;

  void check(Sizes const&) const {
    detail::require(up_limit >= 0, 106, "ClampedSwiGlu up_limit = ", up_limit, ", expected >= 0");
  }

  template <class Rounding, class C> KOKKOS_FUNCTION C value(C gate, C up) const {
    C const u = rounded_to<Rounding>(Kokkos::clamp(up, C(-up_limit), C(up_limit)) + C(up_offset));
    bool const before = clamp == Clamp::before_activation;
    C const g = before ? Kokkos::min(gate, C(gate_max)) : gate;
    C const s =
        alpha == 1
            ? rounded_to<Rounding>(swish(g)) // silu is one operation, g sigmoid(alpha g) three
            : rounded_to<Rounding>(g * rounded_to<Rounding>(detail::sigmoid(rounded_to<Rounding>(g * C(alpha)))));
    return rounded_to<Rounding>((before ? s : Kokkos::min(s, C(gate_max))) * u);
  }
  template <class C> KOKKOS_FUNCTION void gradient(C gate, C up, C da, C& d_gate, C& d_up) const {
    C const u = Kokkos::clamp(up, C(-up_limit), C(up_limit)) + C(up_offset);
    C const inner = clamp == Clamp::before_activation ? Kokkos::min(gate, C(gate_max)) : gate;
    C const act = clamp == Clamp::before_activation ? swish(inner) : Kokkos::min(swish(inner), C(gate_max));
    bool const gate_passes = clamp == Clamp::before_activation ? gate < C(gate_max) : swish(gate) < C(gate_max);
    bool const up_passes = up > C(-up_limit) && up < C(up_limit);
    C const s = detail::sigmoid(C(alpha) * inner);
    d_gate = gate_passes ? da * u * s * (C(1) + C(alpha) * inner * (C(1) - s)) : C(0);
    d_up = up_passes ? da * act : C(0);
  }

private:
  template <class C> KOKKOS_FUNCTION C swish(C g) const { return g * detail::sigmoid(C(alpha) * g); }
};

/// SwiGLU with soft bounds: cap(gate, gate_cap) sigmoid(gate) cap(up, up_cap), cap(v, c) = c tanh(v / c). The sigmoid
/// sees the raw gate. Source: transformers inkling2.
struct SoftcappedSwiGlu {
  static constexpr bool gated = true;
  float gate_cap = 1; ///< > 0
  float up_cap = 1;   ///< > 0

  void check(Sizes const&) const {
    detail::require(gate_cap > 0 && up_cap > 0, 106, "SoftcappedSwiGlu gate_cap = ", gate_cap, ", up_cap = ", up_cap,
                    ", expected > 0");
  }

  /// In the compute type throughout, as published, and rounded once.
  template <class Rounding, class C> KOKKOS_FUNCTION C value(C gate, C up) const {
    return rounded_to<Rounding>(cap(gate, C(gate_cap)) * detail::sigmoid(gate) * cap(up, C(up_cap)));
  }
  template <class C> KOKKOS_FUNCTION void gradient(C gate, C up, C da, C& d_gate, C& d_up) const {
    C const tanh_gate = Kokkos::tanh(gate / C(gate_cap)), tanh_up = Kokkos::tanh(up / C(up_cap));
    C const s = detail::sigmoid(gate);
    C const g = C(gate_cap) * tanh_gate, u = C(up_cap) * tanh_up;
    d_gate = da * u * s * ((C(1) - tanh_gate * tanh_gate) + g * (C(1) - s));
    d_up = da * g * s * (C(1) - tanh_up * tanh_up);
  }

private:
  template <class C> KOKKOS_FUNCTION static C cap(C v, C c) { return c * Kokkos::tanh(v / c); }
};

} // namespace kokomo::inline v0

#endif
