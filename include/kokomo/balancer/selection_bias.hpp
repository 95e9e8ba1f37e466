// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_SELECTION_BIAS_HPP
#define KOKOMO_BALANCER_SELECTION_BIAS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// phi in the update b_e += rate * phi(L - c_e), with c_e the entries that chose expert e and L their mean.
enum class BiasUpdate {
  sign,        ///< sign(L - c): DeepSeek-V3, Megatron. Drifts: the sum of b is not conserved
  proportional ///< (L - c) / L: conserves the sum of b
};

namespace detail {

template <class T, class Exec> struct CountChoices {
  Assignment<T, Exec> a;
  Vector<offset_t, Exec> counts;
  KOKKOS_FUNCTION void operator()(offset_t e) const { counts[e] += a.expert_offsets[e + 1] - a.expert_offsets[e]; }
};

template <class C, class Exec> struct UpdateBias {
  Vector<C, Exec> bias;
  Vector<offset_t, Exec> counts;
  BiasUpdate update;
  C rate;

  /// One thread: the mean must be known before any count is reset, and experts are few.
  KOKKOS_FUNCTION void operator()(offset_t) const {
    offset_t total = 0;
    for (std::size_t e = 0; e < counts.extent(0); ++e) total += counts[e];
    C const mean = C(total) / C(counts.extent(0));
    for (std::size_t e = 0; e < counts.extent(0); ++e) {
      C const missing = mean - C(counts[e]);
      if (update == BiasUpdate::sign)
        bias[e] += rate * C((missing > C(0)) - (missing < C(0)));
      else if (mean > C(0))
        bias[e] += rate * missing / mean;
      counts[e] = 0;
    }
  }
};

} // namespace detail

/// Loss-free balancing: a bias an expert that is added to what selection ranks and never to a weight.
///
/// In training every forward adds its counts (of the biased selection, before capacity drops), and Layer::step, called
/// once an optimiser step, moves the biases: b_e += rate * phi(mean - count_e). In inference the biases are just used.
/// State: `bias` [experts] in float32 (float64 for a double layer), `counts` [experts] since the last step.
/// Source: DeepSeek-V3 (sign, rate 1e-3); papers on loss-free balancing for the proportional rule.
struct SelectionBias {
  float rate = 1e-3f; ///< >= 0
  BiasUpdate update = BiasUpdate::sign;

  template <class T, class Exec> struct State {
    OwnedVector<compute_t<T>, Exec> bias;
    OwnedVector<offset_t, Exec> counts;

    State() = default;
    State(Allocator<Exec> const& allocate, SelectionBias const&, Sizes const& sizes) {
      allocate(bias, "kokomo::SelectionBias::bias", sizes.experts);
      allocate(counts, "kokomo::SelectionBias::counts", sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "bias"}, bias);
      f(Name{prefix, "counts"}, counts);
    }
  };

  void check(Sizes const&) const { detail::require(rate >= 0, 106, "SelectionBias rate = ", rate, ", expected >= 0"); }

  template <class T, class Exec> Vector<compute_t<T> const, Exec> bias(State<T, Exec> const& state) const {
    return state.bias;
  }
  template <class T, class Exec, class Saved>
  void observe(Exec const& exec, Routing<T, Exec> const& routing, Assignment<T, Exec> const& a,
               State<T, Exec> const& state, Saved const&, Vector<compute_t<T>, Exec> const&) const {
    if (routing.mode == Mode::training)
      detail::for_each(exec, "kokomo::SelectionBias::observe", a.experts,
                       detail::CountChoices<T, Exec>{a, state.counts});
  }
  template <class T, class Exec> void step(Exec const& exec, State<T, Exec> const& state) const {
    detail::for_each(exec, "kokomo::SelectionBias::step", 1,
                     detail::UpdateBias<compute_t<T>, Exec>{state.bias, state.counts, update, compute_t<T>(rate)});
  }
};

} // namespace kokomo::inline v0

#endif
