// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CROSS_ATTENTION_HPP
#define KOKOMO_DETAIL_CROSS_ATTENTION_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/detail/launch.hpp>

/// What PrimaryCrossAttention computes beside matrix products: which rows are primary, and the attention of each of them
/// over its token's rows.

namespace kokomo::inline v0::detail {

/// The first executed row of each token, grouped by expert as the rows are: primary p of expert e is one of
/// offsets[e] .. offsets[e + 1].
template <class Exec> struct Primaries {
  Vector<offset_t, Exec> offsets;  ///< [experts + 1]
  Vector<index_t, Exec> expert_of; ///< [tokens]
  Vector<index_t, Exec> token_of;  ///< [tokens]
  Vector<index_t, Exec> row_of;    ///< [tokens]
  Vector<offset_t, Exec> used;     ///< [2] first row, and behind the last: all rows as one group

  Primaries(Arena& arena, Sizes const& sizes)
      : offsets(arena.vector<offset_t, Exec>(sizes.experts + 1)), expert_of(arena.vector<index_t, Exec>(sizes.tokens)),
        token_of(arena.vector<index_t, Exec>(sizes.tokens)), row_of(arena.vector<index_t, Exec>(sizes.tokens)),
        used(arena.vector<offset_t, Exec>(2)) {}

  KOKKOS_FUNCTION offset_t count() const { return offsets[offsets.extent(0) - 1]; }
  GroupedRows groups() const {
    return {offsets.data(), expert_of.data(), index_t(offsets.extent(0)) - 1, offset_t(token_of.extent(0))};
  }
  GroupedRows all_rows(offset_t rows) const { return {used.data(), nullptr, 1, rows}; }
};

/// Counts (`place` false) or places the primaries among the rows of one expert.
template <class T, class Exec> struct FindPrimaries {
  Assignment<T, Exec> a;
  Primaries<Exec> primaries;
  bool place;

  KOKKOS_FUNCTION bool is_primary(offset_t row) const {
    offset_t first = a.token_offsets[a.token_of_row[row]];
    while (a.row[first] == none) ++first; // the row itself is an executed entry of its token
    return a.row[first] == row;
  }
  KOKKOS_FUNCTION void operator()(offset_t e) const {
    offset_t p = place ? primaries.offsets[e] : 0;
    for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1]; ++row) {
      if (!is_primary(row)) continue;
      if (place) {
        primaries.expert_of[p] = index_t(e);
        primaries.token_of[p] = a.token_of_row[row];
        primaries.row_of[p] = index_t(row);
      }
      ++p;
    }
    if (!place) primaries.offsets[e + 1] = p;
  }
};

template <class T, class Exec> struct ScanPrimaries {
  Assignment<T, Exec> a;
  Primaries<Exec> primaries;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    primaries.offsets[0] = primaries.used[0] = 0;
    for (index_t e = 0; e < a.experts; ++e) primaries.offsets[e + 1] += primaries.offsets[e];
    primaries.used[1] = a.expert_offsets[a.experts];
  }
};

template <class T, class Exec>
void find_primaries(Exec const& exec, Assignment<T, Exec> const& a, Primaries<Exec> const& primaries) {
  char const* const label = "kokomo::PrimaryCrossAttention::primaries";
  for_each(exec, label, a.experts, FindPrimaries<T, Exec>{a, primaries, false});
  for_each(exec, label, 1, ScanPrimaries<T, Exec>{a, primaries});
  for_each(exec, label, a.experts, FindPrimaries<T, Exec>{a, primaries, true});
}

/// Attention of a token's primary over the token's rows, head by head.
template <class T, class Exec> struct PrimaryAttention {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  Primaries<Exec> primaries;
  C const *query, *key, *value; // [primaries, width], [rows, width]
  C* share;                     // [rows, heads] of a row in its token's attention
  offset_t width;
  int heads;
  bool weighted;

  KOKKOS_FUNCTION C const* of(C const* rows, index_t row, int head) const {
    return rows + offset_t(row) * width + head * (width / heads);
  }
  KOKKOS_FUNCTION C scale() const { return C(1) / Kokkos::sqrt(C(width / heads)); }
  KOKKOS_FUNCTION C dot(C const* x, C const* y) const {
    C sum = 0;
    for (offset_t i = 0; i < width / heads; ++i) sum += x[i] * y[i];
    return sum;
  }
  /// -infinity for a row without weight, if weights count.
  KOKKOS_FUNCTION C logit(offset_t p, offset_t entry, int head) const {
    C const along = scale() * dot(of(query, index_t(p), head), of(key, a.row[entry], head));
    if (!weighted) return along;
    C const weight = a.weight[entry];
    return weight > C(0) ? along + Kokkos::log(weight) : -Kokkos::Experimental::infinity_v<C>;
  }
};

/// attended[p] = sum over the token's rows of softmax(logits) value, each head in its columns; zero for a primary without
/// peers that it could attend to.
template <class T, class Exec> struct Attend {
  using C = compute_t<T>;
  PrimaryAttention<T, Exec> attention;
  C* attended; // [primaries, width]

  KOKKOS_FUNCTION void operator()(offset_t p) const {
    auto const& a = attention.a;
    if (p >= attention.primaries.count()) return;
    offset_t const token = attention.primaries.token_of[p], columns = attention.width / attention.heads;
    offset_t const first = a.token_offsets[token], last = a.token_offsets[token + 1];
    for (int head = 0; head < attention.heads; ++head) {
      C max = -Kokkos::Experimental::infinity_v<C>, sum = 0;
      bool alone = true;
      auto const share = [&](offset_t i) -> C& { return attention.share[offset_t(a.row[i]) * attention.heads + head]; };
      for (offset_t i = first; i < last; ++i)
        if (a.row[i] != none) max = Kokkos::max(max, share(i) = attention.logit(p, i, head));
      for (offset_t i = first; i < last; ++i)
        if (a.row[i] != none) {
          C const z = share(i);
          bool const seen = z > -Kokkos::Experimental::infinity_v<C>;
          share(i) = seen ? Kokkos::exp(z - max) : C(0);
          sum += share(i);
          alone = alone && !(seen && a.row[i] != attention.primaries.row_of[p]);
        }
      C* const out = attended + p * attention.width + head * columns;
      for (offset_t c = 0; c < columns; ++c) out[c] = 0;
      for (offset_t i = first; i < last; ++i) {
        if (a.row[i] == none) continue;
        share(i) = alone ? C(0) : share(i) / sum;
        C const* const v = attention.of(attention.value, a.row[i], head);
        for (offset_t c = 0; c < columns; ++c) out[c] += share(i) * v[c];
      }
    }
  }
};

/// The gradients of query, key, value and weights from that of `attended`. Every executed row has a primary.
template <class T, class Exec> struct AttendBackward {
  using C = compute_t<T>;
  PrimaryAttention<T, Exec> attention;
  C const* d_attended;          // [primaries, width]
  C *d_query, *d_key, *d_value; // [primaries, width], [rows, width]
  C* d_weight;                  // [rows]

  KOKKOS_FUNCTION void operator()(offset_t p) const {
    auto const& a = attention.a;
    if (p >= attention.primaries.count()) return;
    offset_t const token = attention.primaries.token_of[p], columns = attention.width / attention.heads;
    offset_t const first = a.token_offsets[token], last = a.token_offsets[token + 1];
    for (offset_t i = first; i < last; ++i)
      if (a.row[i] != none) d_weight[a.row[i]] = 0;
    for (int head = 0; head < attention.heads; ++head) {
      offset_t const at = p * attention.width + head * columns;
      C const *const d = d_attended + at, *const q = attention.query + at;
      C* const dq = d_query + at;
      auto const share = [&](offset_t i) { return attention.share[offset_t(a.row[i]) * attention.heads + head]; };
      C mean = 0; // of the shares' gradients <d, value>, weighted by the shares
      for (offset_t i = first; i < last; ++i)
        if (a.row[i] != none) mean += share(i) * attention.dot(d, attention.of(attention.value, a.row[i], head));
      for (offset_t c = 0; c < columns; ++c) dq[c] = 0;
      for (offset_t i = first; i < last; ++i) {
        if (a.row[i] == none) continue;
        C const s = share(i);
        C const d_logit = s * (attention.dot(d, attention.of(attention.value, a.row[i], head)) - mean);
        C const* const k = attention.of(attention.key, a.row[i], head);
        offset_t const in_row = offset_t(a.row[i]) * attention.width + head * columns;
        for (offset_t c = 0; c < columns; ++c) {
          dq[c] += attention.scale() * d_logit * k[c];
          d_key[in_row + c] = attention.scale() * d_logit * q[c];
          d_value[in_row + c] = s * d[c];
        }
        if (attention.weighted && a.weight[i] > C(0)) d_weight[a.row[i]] += d_logit / a.weight[i];
      }
    }
  }
};

/// routed[token of p] = row of p + change[p]
template <class T, class Exec> struct AddToPrimary {
  using C = compute_t<T>;
  Primaries<Exec> primaries;
  C const *rows, *change; // [rows, width], [primaries, width]
  C* routed;              // [tokens, width]
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t p) const {
    if (p >= primaries.count()) return;
    C const* const row = rows + offset_t(primaries.row_of[p]) * width;
    C* const out = routed + offset_t(primaries.token_of[p]) * width;
    for (offset_t h = 0; h < width; ++h) out[h] = row[h] + change[p * width + h];
  }
};

/// d_rows[row of p] += d_routed[token of p] + change[p]
template <class T, class Exec> struct AddToPrimaryBackward {
  using C = compute_t<T>;
  Primaries<Exec> primaries;
  C const *d_routed, *change; // [tokens, width], [primaries, width]
  C* d_rows;                  // [rows, width]
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t p) const {
    if (p >= primaries.count()) return;
    C const* const d = d_routed + offset_t(primaries.token_of[p]) * width;
    C* const out = d_rows + offset_t(primaries.row_of[p]) * width;
    for (offset_t h = 0; h < width; ++h) out[h] += d[h] + change[p * width + h];
  }
};

} // namespace kokomo::inline v0::detail

#endif
