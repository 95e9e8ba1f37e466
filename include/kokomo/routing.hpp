// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTING_HPP
#define KOKOMO_ROUTING_HPP

#include <kokomo/types.hpp>

namespace kokomo::inline v0 {

/// What a call found in its data, counted on the device and read back by Layer::status.
struct Status {
  offset_t non_finite_logits = 0;     ///< NaN or infinite; they rank last
  offset_t invalid_ids = 0;           ///< token or expert ids outside their table
  offset_t dropped = 0;               ///< entries chosen but not executed
  offset_t tokens_without_expert = 0; ///< tokens none of whose entries is executed, padding included
  offset_t rerouted = 0;              ///< entries that took another expert because theirs was masked
  offset_t escalated = 0;             ///< tokens that found no expert left
};

/// What the routing policies of one call see.
template <class T, class Exec> struct Routing {
  using compute_type = compute_t<T>;

  Matrix<compute_type const, Exec> logits; ///< [tokens, columns], the first `experts` columns are the routed experts
  Vector<compute_type const, Exec> bias;   ///< [experts] added to what selection ranks; null: there is none
  Vector<index_t const, Exec> token_mask;  ///< [tokens] 0: not routed (padding); null: all are
  Vector<index_t const, Exec> expert_mask; ///< [experts] 0: not to be selected; null: all may be
  Status* status = nullptr;                ///< on the device
  Sizes sizes;                             ///< of this call
  Mode mode = Mode::inference;
  std::uint64_t step = 0; ///< keys random choices, with the policy's seed

  KOKKOS_FUNCTION bool masked(offset_t token) const { return token_mask.data() != nullptr && token_mask[token] == 0; }
  KOKKOS_FUNCTION bool selectable(index_t expert) const {
    return expert_mask.data() == nullptr || expert_mask[expert] != 0;
  }
  KOKKOS_FUNCTION compute_type const* row(offset_t token) const { return &logits(token, 0); }
};

} // namespace kokomo::inline v0

#endif
