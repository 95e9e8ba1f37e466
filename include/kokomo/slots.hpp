// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SLOTS_HPP
#define KOKOMO_SLOTS_HPP

#include <type_traits>

namespace kokomo::inline v0 {

/// Slots with defaults that most layers never name. A policy says which one it fills by `using slot = ...;`, so that a
/// layer lists those it wants in any order behind the execution space.
namespace slots {
struct adjust {};    ///< what happens to logits between scorer and selector
struct capacity {};  ///< how many tokens an expert takes
struct space {};     ///< how a token enters and leaves the experts' space
struct combine {};   ///< how the experts' outputs become the layer's
struct placement {}; ///< where the weights of the router's experts lie
} // namespace slots

/// What the columns of a layer's logits mean. A scorer whose logits are not one an expert says `using Logits = ...;`, and so
/// do the policies that can read them.
namespace logits {
struct experts {};   ///< one column a routed expert, further ones behind
struct key_pairs {}; ///< the keys of a grid of experts: detail/key_pairs.hpp
} // namespace logits

namespace detail {

template <class Tag, class Default, class... Policies> struct FindSlot { using type = Default; };
template <class Tag, class Default, class First, class... Rest> struct FindSlot<Tag, Default, First, Rest...> {
  using type = typename FindSlot<Tag, Default, Rest...>::type;
};
template <class Tag, class Default, class First, class... Rest>
requires std::is_same_v<typename First::slot, Tag>
struct FindSlot<Tag, Default, First, Rest...> {
  using type = First;
};

} // namespace detail

/// The policy among Policies that fills the slot, or Default.
template <class Tag, class Default, class... Policies>
using slot_t = typename detail::FindSlot<Tag, Default, Policies...>::type;

} // namespace kokomo::inline v0

#endif
