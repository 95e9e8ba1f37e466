// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_SOFT_MOE_KERNELS_HPP
#define KOKOMO_DETAIL_SOFT_MOE_KERNELS_HPP

#include <kokomo/detail/arena.hpp>
#include <kokomo/detail/exponential.hpp>
#include <kokomo/detail/operands.hpp>
#include <kokomo/detail/sequences.hpp>

namespace kokomo::inline v0::detail {

/// Where tokens, slots and experts' rows stand. Slots are stored by sequence, [sequences, experts, slots an expert];
/// experts' rows by expert: [experts, sequences, slots an expert].
template <class Exec> struct SlotOrder {
  offset_t sequences = 0, slots = 0; // slots of a sequence
  index_t experts = 0;
  Vector<offset_t, Exec> token_offsets;    // [sequences + 1]
  Vector<index_t, Exec> sequence_of_token; // [tokens]
  Vector<offset_t, Exec> expert_offsets;   // [experts + 1]
  Vector<index_t, Exec> expert_of_row;     // [rows]
  Vector<index_t, Exec> slot_of_row;       // [rows]

  SlotOrder(Arena& arena, Sequences const& s, index_t expert_count, offset_t slots_per_sequence)
      : sequences(s.count()), slots(slots_per_sequence), experts(expert_count),
        token_offsets(arena.vector<offset_t, Exec>(s.count() + 1)),
        sequence_of_token(arena.vector<index_t, Exec>(s.tokens)),
        expert_offsets(arena.vector<offset_t, Exec>(expert_count + 1)),
        expert_of_row(arena.vector<index_t, Exec>(rows())), slot_of_row(arena.vector<index_t, Exec>(rows())) {}

  KOKKOS_FUNCTION offset_t rows() const { return sequences * slots; }
  GroupedRows by_sequence(offset_t tokens) const {
    return {token_offsets.data(), sequence_of_token.data(), static_cast<index_t>(sequences), tokens};
  }
  GroupedRows by_expert() const { return {expert_offsets.data(), expert_of_row.data(), experts, rows()}; }
};

template <class Exec> struct OrderSlots {
  SlotOrder<Exec> order;
  Sequences sequences;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const of_expert = order.slots / order.experts, rows = order.sequences * of_expert; // of one expert
    if (i <= order.sequences) order.token_offsets[i] = Kokkos::min(sequences.tokens, sequences.begin(i));
    if (i < sequences.tokens) order.sequence_of_token[i] = static_cast<index_t>(sequences.of(i));
    if (i <= order.experts) order.expert_offsets[i] = i * rows;
    if (i >= order.rows()) return;
    offset_t const e = i / rows, s = i % rows / of_expert, slot = e * of_expert + i % of_expert;
    order.expert_of_row[i] = static_cast<index_t>(e);
    order.slot_of_row[i] = static_cast<index_t>(s * order.slots + slot);
  }
};

/// Rows of a matrix to their slots.
template <class C> struct RowsToSlots {
  C const* rows;
  C* slots;
  index_t const* slot_of_row;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    C* const to = slots + offset_t(slot_of_row[row]) * width;
    for (offset_t h = 0; h < width; ++h) to[h] = rows[row * width + h];
  }
};

/// Rows of a batch with those of padding replaced: it may hold anything, and 0 * NaN is no zero.
template <class T, class Exec> struct ReplacePadding {
  Matrix<T const, Exec> rows;
  Vector<index_t const, Exec> token_mask;
  T padding;
  Matrix<T, Exec> out;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (std::size_t h = 0; h < rows.extent(1); ++h) out(token, h) = token_mask[token] != 0 ? rows(token, h) : padding;
  }
};

inline constexpr offset_t slot_block = 16; // slots that one thread normalises at a time

/// dispatch = softmax over the tokens of a sequence of scale * z, for one block of slots.
template <class C, class Exec> struct DispatchSoftmax {
  Matrix<C, Exec> logits, dispatch;
  Vector<index_t const, Exec> token_mask;
  Sequences sequences;
  C const* scale;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const slots = offset_t(logits.extent(1)), blocks = (slots + slot_block - 1) / slot_block;
    offset_t const s = i / blocks, first = i % blocks * slot_block, rest = slots - first;
    offset_t const n = rest < slot_block ? rest : slot_block;
    C const factor = scale != nullptr ? *scale : C(1);
    C max[slot_block], sum[slot_block];
    for (offset_t j = 0; j < n; ++j) max[j] = -Kokkos::Experimental::infinity_v<C>, sum[j] = 0;
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t) {
      if (masked(t)) continue;
      for (offset_t j = 0; j < n; ++j) max[j] = Kokkos::max(max[j], factor * logits(t, first + j));
    }
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t)
      for (offset_t j = 0; j < n; ++j) {
        C const e = masked(t) ? C(0) : Kokkos::exp(factor * logits(t, first + j) - max[j]);
        dispatch(t, first + j) = e;
        sum[j] += e;
      }
    for (offset_t j = 0; j < n; ++j) sum[j] = sum[j] > C(0) ? C(1) / sum[j] : C(0);
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t)
      for (offset_t j = 0; j < n; ++j) dispatch(t, first + j) *= sum[j];
  }
  KOKKOS_FUNCTION bool masked(offset_t token) const { return token_mask.data() != nullptr && token_mask[token] == 0; }
};

/// combine = softmax over all slots of scale * z, for one token.
template <class C, class Exec> struct CombineSoftmax {
  Matrix<C, Exec> logits, combine;
  Vector<index_t const, Exec> token_mask;
  C const* scale;

  KOKKOS_FUNCTION void operator()(offset_t t) const {
    auto const slots = offset_t(logits.extent(1));
    C const factor = scale != nullptr ? *scale : C(1);
    bool const masked = token_mask.data() != nullptr && token_mask[t] == 0;
    C max = -Kokkos::Experimental::infinity_v<C>, sum = 0;
    for (offset_t s = 0; s < slots; ++s) max = Kokkos::max(max, factor * logits(t, s));
    for (offset_t s = 0; s < slots; ++s) {
      C const e = masked ? C(0) : Kokkos::exp(factor * logits(t, s) - max);
      combine(t, s) = e;
      sum += e;
    }
    C const inverse = sum > C(0) ? C(1) / sum : C(0);
    for (offset_t s = 0; s < slots; ++s) combine(t, s) *= inverse;
  }
};

/// sum over the tokens of a sequence of dispatch * d_dispatch, for every slot.
template <class C, class Exec> struct AlongDispatch {
  Matrix<C, Exec> dispatch, d_dispatch;
  Sequences sequences;
  Matrix<C, Exec> along; // [sequences, slots]

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const slots = offset_t(dispatch.extent(1));
    offset_t const s = i / slots, slot = i % slots;
    C sum = 0;
    for (offset_t t = sequences.begin(s); t < sequences.end(s); ++t) sum += dispatch(t, slot) * d_dispatch(t, slot);
    along(s, slot) = sum;
  }
};

/// Both softmaxes backward: d_logits, of the unscaled logits, in place of d_combine; and the token's share of d_scale.
template <class C, class Exec> struct SlotLogitsGradient {
  Matrix<C, Exec> logits, dispatch, combine, d_dispatch, d_combine, along;
  Sequences sequences;
  C const* scale;
  Vector<C, Exec> d_scale; // [tokens]

  KOKKOS_FUNCTION void operator()(offset_t t) const {
    auto const slots = offset_t(logits.extent(1));
    C const factor = scale != nullptr ? *scale : C(1);
    C of_combine = 0, of_scale = 0;
    for (offset_t s = 0; s < slots; ++s) of_combine += combine(t, s) * d_combine(t, s);
    for (offset_t s = 0; s < slots; ++s) {
      C const d = combine(t, s) * (d_combine(t, s) - of_combine) +
                  dispatch(t, s) * (d_dispatch(t, s) - along(sequences.of(t), s));
      of_scale += d * logits(t, s);
      d_combine(t, s) = d * factor;
    }
    d_scale[t] = of_scale;
  }
};

template <class C, class Exec> struct SumOfScale {
  Vector<C, Exec> d_scale;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    C sum = write == Write::add ? grad[0] : C(0);
    for (std::size_t t = 0; t < d_scale.extent(0); ++t) sum += d_scale[t];
    grad[0] = sum;
  }
};

} // namespace kokomo::inline v0::detail

#endif
