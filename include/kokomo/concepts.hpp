// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CONCEPTS_HPP
#define KOKOMO_CONCEPTS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/host/memory.hpp>
#include <kokomo/routing.hpp>

#include <string>
#include <string_view>

namespace kokomo::inline v0 {

/// Gives parameters and state their memory, zeroed; or, to a layer that only wants to know sizes, Views of the right
/// extents without any.
template <class Exec> class Allocator {
public:
  Allocator() = default;
  explicit Allocator(Exec const& exec) : m_exec(&exec) {}

  /// `view` becomes a View of these extents, asynchronously on the execution space instance.
  template <class View, class... Extents>
  void operator()(View& view, std::string const& label, Extents... extents) const {
    if (m_exec == nullptr) {
      view = View(typename View::pointer_type(nullptr), static_cast<std::size_t>(extents)...);
    } else if constexpr (detail::runs_on_host_v<Exec>) {
      view =
          View(Kokkos::view_alloc(*m_exec, Kokkos::WithoutInitializing, label), static_cast<std::size_t>(extents)...);
      std::size_t const bytes = view.size() * sizeof(typename View::value_type);
      detail::host::advise_large_pages(view.data(), bytes);
      detail::host::zero(*m_exec, view.data(), bytes);
    } else {
      view = View(Kokkos::view_alloc(*m_exec, label), static_cast<std::size_t>(extents)...);
    }
  }

private:
  Exec const* m_exec = nullptr;
};

/// Name of a parameter or of state, in pieces: "experts." and "gate_up", and between them "1." where a policy has several
/// parts. It becomes a string where one is asked for, so that visiting Views by name costs a call nothing.
struct Name {
  std::string_view prefix, leaf;
  std::string_view part = {}; ///< stands behind the prefix

  operator std::string() const { return std::string(prefix).append(part).append(leaf); }
};

/// What a policy has that needs none: no parameters, no state, no scratch.
struct Nothing {
  template <class F> void for_each(F&&, std::string_view = {}) const {}
};

/// A policy is a regular aggregate of settings whose const member functions enqueue work. What it needs beside them it
/// declares as nested `template <class T, class Exec> struct`s, each optional:
///
///     Parameters       learnable weights     constructed from (Allocator<Exec> const&, policy, Sizes const&)
///     State            what has no gradient  the same; both have for_each(f, prefix), which calls f(Name{prefix, "..."}, view)
///     Inputs           what a call brings beside x: Arguments, by default not given
///     Saved            from forward to backward, in the tape   constructed from (Arena&, policy, Sizes const&)
///     Scratch          within forward, in the workspace        the same
///     BackwardScratch  within backward, in the workspace       the same
///
/// and `void check(Sizes const&) const`, which throws kokomo::Error 1xx for settings that make no sense.
namespace detail {

#define KOKOMO_NESTED(Name)                                                                                            \
  template <class Policy, class T, class Exec> struct Nested##Name { using type = Nothing; };                          \
  template <class Policy, class T, class Exec>                                                                         \
  requires requires {                                                                                                  \
    typename Policy::template Name<T, Exec>;                                                                           \
  }                                                                                                                    \
  struct Nested##Name<Policy, T, Exec> {                                                                               \
    using type = typename Policy::template Name<T, Exec>;                                                              \
  }

KOKOMO_NESTED(Parameters);
KOKOMO_NESTED(State);
KOKOMO_NESTED(Inputs);
KOKOMO_NESTED(Saved);
KOKOMO_NESTED(Scratch);
KOKOMO_NESTED(BackwardScratch);
#undef KOKOMO_NESTED

} // namespace detail

template <class Policy, class T, class Exec>
using parameters_t = typename detail::NestedParameters<Policy, T, Exec>::type;
template <class Policy, class T, class Exec> using state_t = typename detail::NestedState<Policy, T, Exec>::type;
template <class Policy, class T, class Exec> using inputs_t = typename detail::NestedInputs<Policy, T, Exec>::type;
template <class Policy, class T, class Exec> using saved_t = typename detail::NestedSaved<Policy, T, Exec>::type;
template <class Policy, class T, class Exec> using scratch_t = typename detail::NestedScratch<Policy, T, Exec>::type;
template <class Policy, class T, class Exec>
using backward_scratch_t = typename detail::NestedBackwardScratch<Policy, T, Exec>::type;

namespace detail {

/// Makes a nested object of a policy, or Nothing.
template <class Object, class First, class Policy>
Object make(First&& first, Policy const& policy, Sizes const& sizes) {
  if constexpr (std::is_same_v<Object, Nothing>)
    return {};
  else
    return Object(first, policy, sizes);
}

// What a policy offers beyond what its slot demands. At namespace scope, where all compilers evaluate them alike: nvcc 13
// takes the same expressions inside of member functions for errors.

template <class Balancer, class T, class Exec>
concept BiasesSelection = requires(Balancer const& b, state_t<Balancer, T, Exec> const& state) {
  b.template bias<T, Exec>(state);
};

template <class Balancer, class GateScore, class T, class Exec>
concept PreparesSelection = requires(Balancer const& b, Exec const& exec, Routing<T, Exec> const& routing,
                                     state_t<Balancer, T, Exec> const& state, saved_t<Balancer, T, Exec> const& saved) {
  b.template prepare<GateScore, T>(exec, routing, state, saved);
};

/// A loss of the layer's parameters, not of what was routed.
template <class Balancer, class LayerParameters, class T, class Exec>
concept ObservesParameters = requires(Balancer const& b, Exec const& exec, LayerParameters const& parameters,
                                      Routing<T, Exec> const& routing, saved_t<Balancer, T, Exec> const& saved,
                                      Vector<compute_t<T>, Exec> const& loss) {
  b.template observe_parameters<T>(exec, parameters, routing, saved, loss);
  b.template backward_parameters<T>(exec, parameters, routing, saved, parameters);
};

template <class Balancer, class T, class Exec>
concept ObservesRouting = requires(Balancer const& b, Exec const& exec, Routing<T, Exec> const& routing,
                                   Assignment<T, Exec> const& a, state_t<Balancer, T, Exec> const& state,
                                   saved_t<Balancer, T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) {
  b.template observe<T>(exec, routing, a, state, saved, loss);
};

template <class Balancer, class T, class Exec>
concept HasLossGradient = requires(Balancer const& b, Exec const& exec, Routing<T, Exec> const& routing,
                                   Assignment<T, Exec> const& a, saved_t<Balancer, T, Exec> const& saved,
                                   Matrix<compute_t<T>, Exec> const& d_logits) {
  b.template backward<T>(exec, routing, a, saved, d_logits);
};

template <class Balancer, class T, class Exec>
concept Steps = requires(Balancer const& b, Exec const& exec, state_t<Balancer, T, Exec> const& state) {
  b.template step<T>(exec, state);
};

/// An adjustment that changes the gradient on its way back to the scorer, or takes one of its own from it.
template <class Adjust, class T, class Exec>
concept AdjustsGradient = requires(Adjust const& p, Exec const& exec, parameters_t<Adjust, T, Exec> const& parameters,
                                   Routing<T, Exec> const& routing, state_t<Adjust, T, Exec> const& state,
                                   inputs_t<Adjust, T, Exec> const& inputs, saved_t<Adjust, T, Exec> const& saved,
                                   Matrix<compute_t<T>, Exec> const& d_logits) {
  p.template adjust_backward<T>(exec, parameters, routing, state, inputs, saved, d_logits, parameters, Write::add);
};

/// An adjustment that leaves experts out of selection.
template <class Adjust, class T, class Exec>
concept MasksExperts = requires(Adjust const& p, state_t<Adjust, T, Exec> const& state,
                                saved_t<Adjust, T, Exec> const& saved) {
  p.template expert_mask<T, Exec>(state, saved);
};

/// A selector that bounds the entries of a batch more closely than tokens times the most of one token.
template <class Selector>
concept BoundsBatch = requires(Selector const& p, Sizes const& sizes) {
  offset_t(p.entries(sizes));
};

/// A scorer that remembers something between calls. It is given its State, and which tokens take part, behind its
/// parameters. Decorators of scorers do not hand these on.
template <class Scorer, class T, class Exec>
inline constexpr bool keeps_state_v = !std::is_same_v<state_t<Scorer, T, Exec>, Nothing>;

/// A scorer whose logits are not one a routed expert.
template <class Scorer>
concept CountsColumns = requires(Scorer const& p, Sizes const& sizes) {
  index_t(p.columns(sizes));
};

/// Whether a policy lets no token's result depend on later tokens of the batch.
template <class Policy> constexpr bool is_causal() {
  if constexpr (requires { Policy::causal; })
    return Policy::causal;
  else
    return true;
}

/// The same in one mode and under a policy's settings, for those that have `bool causal_in(Mode) const`.
template <class Policy> bool is_causal_in(Policy const& policy, Mode mode) {
  if constexpr (requires { policy.causal_in(mode); })
    return policy.causal_in(mode);
  else
    return is_causal<Policy>();
}

/// A selector that ranks experts that it leaves out at zero: a negative rank of another one falls behind them.
template <class Selector> bool leaves_out_at_zero(Selector const& policy) {
  if constexpr (requires { policy.leaves_out_at_zero(); })
    return policy.leaves_out_at_zero();
  else if constexpr (requires { policy.inner; })
    return leaves_out_at_zero(policy.inner);
  else
    return false;
}
/// A balancer whose selection biases move, to either side of zero.
template <class Balancer> bool moves_bias(Balancer const& policy) {
  if constexpr (requires { policy.moves_bias(); })
    return policy.moves_bias();
  else
    return false;
}

/// A Space whose experts' sum is mapped back: its Saved holds `combined`.
template <class Space, class T, class Exec>
concept MapsBack = requires(saved_t<Space, T, Exec> const& saved) {
  saved.combined;
};

/// A scorer that adds something of its own to what the experts return: what its Saved holds as `complement`.
template <class Scorer, class T, class Exec>
concept Complements = requires(saved_t<Scorer, T, Exec> const& saved,
                               backward_scratch_t<Scorer, T, Exec> const& scratch) {
  saved.complement;
  scratch.d_complement;
};

template <class Policy, class T, class Exec>
concept ChecksInputs = requires(Policy const& p, inputs_t<Policy, T, Exec> const& inputs, Sizes const& sizes) {
  p.template check_inputs<T, Exec>(inputs, sizes);
};

template <class Scorer, class T, class Exec>
concept ChecksInputGradients = requires(Scorer const& p, typename Scorer::template InputGradients<T, Exec> const& d,
                                        Sizes const& sizes) {
  p.template check_input_gradients<T, Exec>(d, sizes);
};

/// A nested object of a decorator that is just its inner policy's.
template <class Base> struct OfInner : Base {
  OfInner() = default;
  template <class First, class Decorator>
  OfInner(First& first, Decorator const& policy, Sizes const& sizes) : Base(make<Base>(first, policy.inner, sizes)) {}
};

template <class Policy> void check_settings(Policy const& policy, Sizes const& sizes) {
  if constexpr (requires { policy.check(sizes); }) policy.check(sizes);
}

} // namespace detail
} // namespace kokomo::inline v0

#endif
