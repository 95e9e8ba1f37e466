// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_LOW_RANK_PLUS_ROW_SPARSE_HPP
#define KOKOMO_EXPERTS_LOW_RANK_PLUS_ROW_SPARSE_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/feed_forward_backward.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/product.hpp>
#include <kokomo/error.hpp>
#include <kokomo/expert_rows.hpp>
#include <kokomo/experts/activation.hpp>
#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Adds what the kept rows of S give to the columns that they stand for.
template <class S, class C> struct ScatterKeptRows {
  GroupedRows rows;
  C const* sparse;    // [rows, kept]
  index_t const* row; // [groups, kept]
  offset_t kept, columns;
  RowTarget<S> out;

  KOKKOS_FUNCTION void operator()(offset_t r) const {
    if (!rows.contains(r)) return;
    index_t const* const at = row + offset_t(rows.group_of(r)) * kept;
    for (offset_t i = 0; i < kept; ++i) {
      if (at[i] < 0 || at[i] >= columns) continue;
      S& target = out.data[r * out.stride + at[i]];
      target = S(C(target) + sparse[r * kept + i]);
    }
  }
};

/// The gradient of what they gave.
template <class C> struct GatherKeptRows {
  GroupedRows rows;
  RowSource<C, C> d_out;
  index_t const* row; // [groups, kept]
  offset_t kept, columns;
  C* d_sparse; // [rows, kept]

  KOKKOS_FUNCTION void operator()(offset_t r) const {
    if (!rows.contains(r)) return;
    index_t const* const at = row + offset_t(rows.group_of(r)) * kept;
    for (offset_t i = 0; i < kept; ++i) d_sparse[r * kept + i] = at[i] >= 0 && at[i] < columns ? d_out(r, at[i]) : C(0);
  }
};

} // namespace detail

/// One matrix [out, in] an expert as U V + S, where only some rows of S are not zero.
template <class T, class Exec> struct LowRankPlusRows {
  OwnedTensor<T, Exec> u;          ///< [experts, out, rank]
  OwnedTensor<T, Exec> v;          ///< [experts, rank, in]
  OwnedTensor<T, Exec> s;          ///< [experts, kept, in] the rows of S
  OwnedMatrix<index_t, Exec> rows; ///< [experts, kept] which rows they are; outside 0 .. out - 1: none

  void allocate(Allocator<Exec> const& allocate, std::string const& label, index_t experts, offset_t out, offset_t in,
                offset_t rank, offset_t kept) {
    allocate(u, label + "_u", experts, out, rank);
    allocate(v, label + "_v", experts, rank, in);
    allocate(s, label + "_s", experts, kept, in);
    allocate(rows, label + "_rows", experts, kept);
  }
};

/// Experts of two projections and an activation, gated or plain, each of whose matrices is of low rank but for some rows:
///
///     W x = U (V x) + S x,   U [out, rank],  V [rank, in],  S with `kept` rows
///
/// What MC-SMoE leaves of an expert; compress/low_rank.hpp makes them from experts. No biases. The number of kept rows is
/// the same for all experts; one that has fewer marks the rest by row ids outside the matrix. The ids are a table: they
/// stand among the parameters, and have no gradient.
/// Source: UNITES-Lab/MC-SMoE, `models/sparse.py` (docs/policies/experts/low_rank_plus_row_sparse.md).
/// \throws kokomo::Error 101 unless intermediate and rank >= 1, 0 <= kept_hidden <= intermediate and 0 <= kept_out <= width
template <class ActivationT> struct LowRankPlusRowSparse {
  using Activation = ActivationT;
  static constexpr bool gated = Activation::gated;

  offset_t intermediate = 0; ///< I, >= 1
  offset_t rank = 0;         ///< >= 1, of all matrices
  offset_t kept_hidden = 0;  ///< rows of S kept in gate and up, 0 .. I
  offset_t kept_out = 0;     ///< rows of S kept in down, 0 .. H
  Activation activation{};

  template <class T, class Exec> struct Parameters {
    LowRankPlusRows<T, Exec> gate, up, down;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, LowRankPlusRowSparse const& policy, Sizes const& sizes) {
      std::string const name = "kokomo::LowRankPlusRowSparse::";
      offset_t const hidden = sizes.hidden, inner = policy.intermediate;
      if (gated) gate.allocate(allocate, name + "gate", sizes.weighted, inner, hidden, policy.rank, policy.kept_hidden);
      up.allocate(allocate, name + "up", sizes.weighted, inner, hidden, policy.rank, policy.kept_hidden);
      down.allocate(allocate, name + "down", sizes.weighted, hidden, inner, policy.rank, policy.kept_out);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      auto const visit = [&](char const* name, auto const& view) {
        if (view.extent(0) * view.extent(1) * view.extent(2) > 0) f(Name{prefix, name}, view);
      };
      visit("gate_u", gate.u), visit("gate_v", gate.v), visit("gate_s", gate.s), visit("gate_rows", gate.rows);
      visit("up_u", up.u), visit("up_v", up.v), visit("up_s", up.s), visit("up_rows", up.rows);
      visit("down_u", down.u), visit("down_v", down.v), visit("down_s", down.s), visit("down_rows", down.rows);
    }
  };

  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> pre; ///< [rows, 2I or I] pre-activations: gate, then up

    Saved(detail::Arena& arena, LowRankPlusRowSparse const& policy, Sizes const& sizes)
        : pre(arena.matrix<T, Exec>(sizes.entries, parts * policy.intermediate)) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<T, Exec> hidden;            ///< [rows, I]
    Matrix<compute_t<T>, Exec> inner;  ///< [rows, rank]
    Matrix<compute_t<T>, Exec> sparse; ///< [rows, kept]

    Scratch(detail::Arena& arena, LowRankPlusRowSparse const& policy, Sizes const& sizes)
        : hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)),
          inner(arena.matrix<compute_t<T>, Exec>(sizes.entries, policy.rank)),
          sparse(arena.matrix<compute_t<T>, Exec>(sizes.entries, std::max(policy.kept_hidden, policy.kept_out))) {}
  };
  template <class T, class Exec> struct BackwardScratch : Scratch<T, Exec> {
    Matrix<compute_t<T>, Exec> d_inner;  ///< [rows, rank]
    Matrix<compute_t<T>, Exec> d_hidden; ///< [rows, I]
    Matrix<compute_t<T>, Exec> d_pre;    ///< [rows, 2I or I]

    BackwardScratch(detail::Arena& arena, LowRankPlusRowSparse const& policy, Sizes const& sizes)
        : Scratch<T, Exec>(arena, policy, sizes), d_inner(arena.matrix<compute_t<T>, Exec>(sizes.entries, policy.rank)),
          d_hidden(arena.matrix<compute_t<T>, Exec>(sizes.entries, policy.intermediate)),
          d_pre(arena.matrix<compute_t<T>, Exec>(sizes.entries, parts * policy.intermediate)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(intermediate >= 1 && rank >= 1, 101, "LowRankPlusRowSparse intermediate = ", intermediate,
                    ", rank = ", rank, ", expected >= 1");
    detail::require(kept_hidden >= 0 && kept_hidden <= intermediate && kept_out >= 0 && kept_out <= sizes.hidden, 101,
                    "LowRankPlusRowSparse kept_hidden = ", kept_hidden, ", kept_out = ", kept_out, ", expected 0 to ",
                    intermediate, " and 0 to ", sizes.hidden);
    detail::check_settings(activation, sizes);
  }
  index_t routed(index_t weighted) const { return weighted; }

  /// out[r] = expert(x row r), without any weight; rows that belong to no expert are not touched.
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = static_cast<offset_t>(out.extent(1));
    detail::RowTarget<T> pre{saved.pre.data(), parts * intermediate};
    if constexpr (gated) {
      project(exec, parameters.gate, in, in.x, width, intermediate, pre, scratch);
      pre.data += intermediate;
    }
    project(exec, parameters.up, in, in.x, width, intermediate, pre, scratch);
    detail::for_each(exec, "kokomo::LowRankPlusRowSparse::activate", in.rows.rows,
                     detail::Activate<T, Activation>{
                         in.rows, saved.pre.data(), scratch.hidden.data(), intermediate, {}, {}, activation});
    project(exec, parameters.down, in, detail::RowSource<T, C>{scratch.hidden.data(), intermediate}, intermediate,
            width, detail::RowTarget<C>{out.data(), width}, scratch);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = static_cast<offset_t>(d.dx.extent(1));
    offset_t const columns = parts * intermediate;
    // As FeedForwardExperts: without the row's weight down to the hidden layer, which then carries it.
    project_back(exec, parameters.down, in, d.d_out, width, intermediate,
                 detail::RowTarget<C>{scratch.d_hidden.data(), intermediate}, Write::overwrite, scratch);
    detail::for_each(exec, "kokomo::LowRankPlusRowSparse::activate_backward", in.rows.rows,
                     detail::ActivateBackward<T, Activation>{in.rows,
                                                             saved.pre.data(),
                                                             scratch.d_hidden.data(),
                                                             scratch.d_pre.data(),
                                                             scratch.hidden.data(),
                                                             intermediate,
                                                             d.d_out,
                                                             {},
                                                             width,
                                                             d.weight,
                                                             d.d_weight,
                                                             activation});
    weight_gradients(exec, parameters.down, grads.down, in, d.d_out, width,
                     detail::RowSource<T, C>{scratch.hidden.data(), intermediate}, intermediate, write, scratch);
    detail::RowSource<C, C> d_pre{scratch.d_pre.data(), columns};
    auto const back = [&](auto const& weights, auto const& gradients, Write dx_write) {
      project_back(exec, weights, in, d_pre, intermediate, width, detail::RowTarget<C>{d.dx.data(), width}, dx_write,
                   scratch);
      weight_gradients(exec, weights, gradients, in, d_pre, intermediate, in.x, width, write, scratch);
    };
    if constexpr (gated) {
      back(parameters.gate, grads.gate, Write::overwrite);
      d_pre.data += intermediate;
    }
    back(parameters.up, grads.up, gated ? Write::add : Write::overwrite);
  }

private:
  static constexpr int parts = gated ? 2 : 1;

  template <class S, class View> static detail::WeightRef<S> matrix(View const& view) {
    return {view.data(), offset_t(view.extent(1) * view.extent(2)), offset_t(view.extent(2)), 1};
  }
  template <class V> static offset_t kept(V const& weights) { return static_cast<offset_t>(weights.rows.extent(1)); }

  /// out = a (U V + S)^T
  template <class T, class Exec, class S, class C, class O>
  void project(Exec const& exec, LowRankPlusRows<T, Exec> const& w, ExpertRows<T, Exec> const& in,
               detail::RowSource<S, C> const& a, offset_t depth, offset_t columns, detail::RowTarget<O> const& out,
               Scratch<T, Exec> const& scratch) const {
    project_in(exec, w, in, a, depth, scratch);
    detail::grouped_product(exec, "kokomo::LowRankPlusRowSparse::u", in.rows,
                            detail::RowSource<C, C>{scratch.inner.data(), rank}, rank, matrix<T const>(w.u),
                            detail::BiasRef<T const>{}, columns, out, Write::overwrite, in.workers);
    if (kept(w) == 0) return;
    detail::grouped_product(exec, "kokomo::LowRankPlusRowSparse::s", in.rows, a, depth, matrix<T const>(w.s),
                            detail::BiasRef<T const>{}, kept(w), detail::RowTarget<C>{scratch.sparse.data(), kept(w)},
                            Write::overwrite, in.workers);
    detail::for_each(
        exec, "kokomo::LowRankPlusRowSparse::scatter", in.rows.rows,
        detail::ScatterKeptRows<O, C>{in.rows, scratch.sparse.data(), w.rows.data(), kept(w), columns, out});
  }
  /// inner = a V^T
  template <class T, class Exec, class S, class C>
  void project_in(Exec const& exec, LowRankPlusRows<T, Exec> const& w, ExpertRows<T, Exec> const& in,
                  detail::RowSource<S, C> const& a, offset_t depth, Scratch<T, Exec> const& scratch) const {
    detail::grouped_product(exec, "kokomo::LowRankPlusRowSparse::v", in.rows, a, depth, matrix<T const>(w.v),
                            detail::BiasRef<T const>{}, rank, detail::RowTarget<C>{scratch.inner.data(), rank},
                            Write::overwrite, in.workers);
  }

  /// da (=|+=) d (U V + S); leaves d U in d_inner, and the kept columns of d in `sparse`.
  template <class T, class Exec, class C>
  void project_back(Exec const& exec, LowRankPlusRows<T, Exec> const& w, ExpertRows<T, Exec> const& in,
                    detail::RowSource<C, C> const& d, offset_t columns, offset_t depth, detail::RowTarget<C> const& da,
                    Write write, BackwardScratch<T, Exec> const& scratch) const {
    auto const product = [&](char const* label, detail::RowSource<C, C> const& a, offset_t from,
                             detail::WeightRef<T const> const& weight, offset_t to, detail::RowTarget<C> const& out,
                             Write how) {
      detail::grouped_product(exec, label, in.rows, a, from, weight.transposed(), detail::BiasRef<T const>{}, to, out,
                              how, in.workers);
    };
    product("kokomo::LowRankPlusRowSparse::d_inner", d, columns, matrix<T const>(w.u), rank,
            {scratch.d_inner.data(), rank}, Write::overwrite);
    product("kokomo::LowRankPlusRowSparse::dx", {scratch.d_inner.data(), rank}, rank, matrix<T const>(w.v), depth, da,
            write);
    if (kept(w) == 0) return;
    detail::for_each(exec, "kokomo::LowRankPlusRowSparse::gather", in.rows.rows,
                     detail::GatherKeptRows<C>{in.rows, d, w.rows.data(), kept(w), columns, scratch.sparse.data()});
    product("kokomo::LowRankPlusRowSparse::dx", {scratch.sparse.data(), kept(w)}, kept(w), matrix<T const>(w.s), depth,
            da, Write::add);
  }

  /// From what project_back left: dU = d^T (a V^T), dV = (d U)^T a, dS = (kept columns of d)^T a.
  template <class T, class Exec, class S, class C>
  void weight_gradients(Exec const& exec, LowRankPlusRows<T, Exec> const& w, LowRankPlusRows<T, Exec> const& grads,
                        ExpertRows<T, Exec> const& in, detail::RowSource<C, C> const& d, offset_t columns,
                        detail::RowSource<S, C> const& a, offset_t depth, Write write,
                        BackwardScratch<T, Exec> const& scratch) const {
    project_in(exec, w, in, a, depth, scratch);
    auto const outer = [&](detail::RowSource<C, C> const& left, offset_t rows, auto const& right,
                           offset_t right_columns, auto const& gradient) {
      detail::grouped_outer_product(exec, "kokomo::LowRankPlusRowSparse::gradient", in.rows, left, rows, right,
                                    right_columns, matrix<T>(gradient), write, in.workers);
    };
    outer(d, columns, detail::RowSource<C, C>{scratch.inner.data(), rank}, rank, grads.u);
    outer({scratch.d_inner.data(), rank}, rank, a, depth, grads.v);
    outer({scratch.sparse.data(), kept(w)}, kept(w), a, depth, grads.s);
  }
};

} // namespace kokomo::inline v0

#endif
