// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CONCEPTS_HPP
#define KOKOMO_CONCEPTS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/arena.hpp>
#include <kokomo/routing.hpp>

#include <string>

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
    if (m_exec != nullptr)
      view = View(Kokkos::view_alloc(*m_exec, label), static_cast<std::size_t>(extents)...);
    else
      view = View(typename View::pointer_type(nullptr), static_cast<std::size_t>(extents)...);
  }

private:
  Exec const* m_exec = nullptr;
};

/// What a policy has that needs none: no parameters, no state, no scratch.
struct Nothing {
  template <class F> void for_each(F&&, std::string const& = {}) const {}
};

/// A policy is a regular aggregate of settings whose const member functions enqueue work. What it needs beside them it
/// declares as nested templates, each optional:
///
///     template <class T, class Exec> struct Parameters;  // learnable:    (Allocator<Exec> const&, policy, Sizes),
///     for_each(f, prefix) template <class T, class Exec> struct State;       // no gradient:  (Allocator<Exec> const&,
///     policy, Sizes), for_each(f, prefix) template <class T, class Exec> struct Inputs;      // what a call brings
///     beside x: Arguments, all optional template <class T, class Exec> struct Saved;       // from forward to
///     backward: (Arena&, policy, Sizes) template <class T, class Exec> struct Scratch;         // within forward:
///     (Arena&, policy, Sizes) template <class T, class Exec> struct BackwardScratch; // within backward:      (Arena&,
///     policy, Sizes)
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
