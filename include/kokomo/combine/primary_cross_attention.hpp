// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_COMBINE_PRIMARY_CROSS_ATTENTION_HPP
#define KOKOMO_COMBINE_PRIMARY_CROSS_ATTENTION_HPP

#include <kokomo/combine/weighted_sum.hpp>
#include <kokomo/detail/cross_attention.hpp>
#include <kokomo/detail/product.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// No sum: a token's first expert, the primary one, attends over the outputs of all its experts, itself among them.
/// With h_e the output of expert e, p the primary one and S the token's executed experts:
///
///     u_e = down_e h_e              q = query_p h_p      k_e = key u_e      v_e = value u_e          e in S
///     c   = sum over S of softmax over S of (q . k_e / sqrt(width / heads)) v_e       head by head
///     routed = h_p + back_p c       y = routed + shared
///
/// With `back` zero, as all new parameters are, y is the primary expert's output alone; so it is (c = 0) for a token that
/// has no other expert. The primary one is the first that is executed: selectors that rank have the best first. Weights of the gate do not enter, and so the layer's output says
/// nothing to the router; with `.weighted` log(w_e) is added to the logits of the attention, an expert of weight zero is
/// masked, and the router learns from what the others are worth.
/// Parameters: `down`, `query` [E, width, hidden], `back` [E, hidden, width]; `key`, `value` [width, width], all experts'.
/// Source: Mixture of Thoughts (arXiv 2509.21164), reconstructed; docs/policies/combine/primary_cross_attention.md.
/// \throws kokomo::Error 101 unless width >= 1, and heads >= 1 divides it
struct PrimaryCrossAttention {
  using slot = slots::combine;

  offset_t width = 0; ///< of the space that experts share, >= 1
  int heads = 1;      ///< >= 1, divides width
  bool weighted = false;

  template <class T, class Exec> struct Parameters {
    OwnedTensor<T, Exec> down, query, back;
    OwnedMatrix<T, Exec> key, value;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, PrimaryCrossAttention const& policy, Sizes const& sizes) {
      std::string const name = "kokomo::PrimaryCrossAttention::";
      allocate(down, name + "down", sizes.experts, policy.width, sizes.hidden);
      allocate(query, name + "query", sizes.experts, policy.width, sizes.hidden);
      allocate(back, name + "back", sizes.experts, sizes.hidden, policy.width);
      allocate(key, name + "key", policy.width, policy.width);
      allocate(value, name + "value", policy.width, policy.width);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "down"}, down), f(Name{prefix, "query"}, query), f(Name{prefix, "back"}, back);
      f(Name{prefix, "key"}, key), f(Name{prefix, "value"}, value);
    }
  };
  template <class T, class Exec> struct Saved {
    using C = compute_t<T>;
    Matrix<C, Exec> rows;             ///< [entries, hidden] the experts' outputs
    Matrix<C, Exec> down, key, value; ///< [entries, width] u, k, v
    Matrix<C, Exec> share;            ///< [entries, heads] of a row in its token's attention
    Matrix<C, Exec> query, attended;  ///< [tokens, width] by primary
    detail::Primaries<Exec> primaries;

    Saved(detail::Arena& arena, PrimaryCrossAttention const& policy, Sizes const& sizes)
        : rows(arena.matrix<C, Exec>(sizes.entries, sizes.hidden)),
          down(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          key(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          value(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          share(arena.matrix<C, Exec>(sizes.entries, policy.heads)),
          query(arena.matrix<C, Exec>(sizes.tokens, policy.width)),
          attended(arena.matrix<C, Exec>(sizes.tokens, policy.width)), primaries(arena, sizes) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<compute_t<T>, Exec> change; // [tokens, hidden] by primary

    Scratch(detail::Arena& arena, PrimaryCrossAttention const&, Sizes const& sizes)
        : change(arena.matrix<compute_t<T>, Exec>(sizes.tokens, sizes.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    using C = compute_t<T>;
    Matrix<C, Exec> d_rows;                 ///< [entries, hidden] for the experts
    Matrix<C, Exec> d_down, d_key, d_value; // [entries, width]
    Matrix<C, Exec> d_attended, d_query;    // [tokens, width] by primary
    Matrix<C, Exec> change;                 // [tokens, hidden] by primary

    BackwardScratch(detail::Arena& arena, PrimaryCrossAttention const& policy, Sizes const& sizes)
        : d_rows(arena.matrix<C, Exec>(sizes.entries, sizes.hidden)),
          d_down(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          d_key(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          d_value(arena.matrix<C, Exec>(sizes.entries, policy.width)),
          d_attended(arena.matrix<C, Exec>(sizes.tokens, policy.width)),
          d_query(arena.matrix<C, Exec>(sizes.tokens, policy.width)),
          change(arena.matrix<C, Exec>(sizes.tokens, sizes.hidden)) {}
  };

  void check(Sizes const&) const {
    detail::require(width >= 1 && heads >= 1 && width % heads == 0, 101, "PrimaryCrossAttention width = ", width,
                    ", heads = ", heads, ", expected width >= 1 and heads >= 1, a divisor of it");
  }

  /// \param[out] routed [tokens, hidden]; a token without an executed expert has zero
  template <class T, class Exec>
  void reduce(Exec const& exec, Parameters<T, Exec> const& w, Assignment<T, Exec> const& a,
              Matrix<compute_t<T>, Exec> const& routed, Saved<T, Exec> const& saved, Scratch<T, Exec> const& scratch,
              detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const hidden = offset_t(routed.extent(1));
    auto const& primaries = saved.primaries;
    auto const all = primaries.all_rows(a.entries());
    detail::find_primaries(exec, a, primaries);
    auto const product = [&](char const* label, detail::GroupedRows const& groups, detail::RowSource<C, C> const& from,
                             offset_t depth, auto const& weight, Matrix<C, Exec> const& to) {
      auto const columns = offset_t(to.extent(1));
      detail::grouped_product(exec, label, groups, from, depth, matrices<T>(weight, columns, depth),
                              detail::BiasRef<T const>{}, columns, detail::RowTarget<C>{to.data(), columns},
                              Write::overwrite, workers);
    };
    detail::RowSource<C, C> const rows{saved.rows.data(), hidden}, down{saved.down.data(), width};
    product("kokomo::PrimaryCrossAttention::down", a.grouped(a.experts), rows, hidden, w.down, saved.down);
    product("kokomo::PrimaryCrossAttention::key", all, down, width, w.key, saved.key);
    product("kokomo::PrimaryCrossAttention::value", all, down, width, w.value, saved.value);
    product("kokomo::PrimaryCrossAttention::query", primaries.groups(), primary_rows<C>(saved, hidden), hidden, w.query,
            saved.query);
    detail::for_each(exec, "kokomo::PrimaryCrossAttention::attend", a.tokens,
                     detail::Attend<T, Exec>{attention(a, saved), saved.attended.data()});
    product("kokomo::PrimaryCrossAttention::back", primaries.groups(), {saved.attended.data(), width}, width, w.back,
            scratch.change);
    detail::fill(exec, "kokomo::PrimaryCrossAttention::reset", routed.data(), offset_t(routed.size()), 0);
    detail::for_each(
        exec, "kokomo::PrimaryCrossAttention::add", a.tokens,
        detail::AddToPrimary<T, Exec>{primaries, saved.rows.data(), scratch.change.data(), routed.data(), hidden});
  }

  /// \param[in] d_routed [tokens, hidden]
  /// \param[out] d_weight [entries] gradient of each row's weight; scratch.d_rows that of the rows
  template <class T, class Exec>
  void reduce_backward(Exec const& exec, Parameters<T, Exec> const& w, Assignment<T, Exec> const& a,
                       Matrix<compute_t<T>, Exec> const& d_routed, Vector<compute_t<T>, Exec> const& d_weight,
                       Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const& saved,
                       BackwardScratch<T, Exec> const& scratch, detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    using Source = detail::RowSource<C, C>;
    auto const hidden = offset_t(d_routed.extent(1));
    auto const& primaries = saved.primaries;
    auto const by_primary = primaries.groups(), all = primaries.all_rows(a.entries()), by_expert = a.grouped(a.experts);
    auto const gradient = [&](char const* label, detail::GroupedRows const& groups, Source const& d, offset_t columns,
                              Source const& from, offset_t depth, auto const& weight) {
      detail::grouped_outer_product(exec, label, groups, d, columns, from, depth,
                                    detail::WeightRef<T>{weight.data(), columns * depth, depth, 1}, write, workers);
    };
    auto const back_to = [&](char const* label, detail::GroupedRows const& groups, Source const& d, offset_t columns,
                             auto const& weight, Matrix<C, Exec> const& to, Write to_write) {
      auto const depth = offset_t(to.extent(1));
      detail::grouped_product(exec, label, groups, d, columns, matrices<T>(weight, columns, depth).transposed(),
                              detail::BiasRef<T const>{}, depth, detail::RowTarget<C>{to.data(), depth}, to_write,
                              workers);
    };
    Source const d_change{d_routed.data(), hidden, primaries.token_of.data()};
    gradient("kokomo::PrimaryCrossAttention::back_gradient", by_primary, d_change, hidden,
             {saved.attended.data(), width}, width, grads.back);
    back_to("kokomo::PrimaryCrossAttention::d_attended", by_primary, d_change, hidden, w.back, scratch.d_attended,
            Write::overwrite);
    detail::for_each(exec, "kokomo::PrimaryCrossAttention::attend_backward", a.tokens,
                     detail::AttendBackward<T, Exec>{attention(a, saved), scratch.d_attended.data(),
                                                     scratch.d_query.data(), scratch.d_key.data(),
                                                     scratch.d_value.data(), d_weight.data()});

    Source const d_query{scratch.d_query.data(), width}, d_key{scratch.d_key.data(), width},
        d_value{scratch.d_value.data(), width}, d_down{scratch.d_down.data(), width}, down{saved.down.data(), width};
    gradient("kokomo::PrimaryCrossAttention::query_gradient", by_primary, d_query, width,
             primary_rows<C>(saved, hidden), hidden, grads.query);
    gradient("kokomo::PrimaryCrossAttention::key_gradient", all, d_key, width, down, width, grads.key);
    gradient("kokomo::PrimaryCrossAttention::value_gradient", all, d_value, width, down, width, grads.value);
    back_to("kokomo::PrimaryCrossAttention::d_down", all, d_key, width, w.key, scratch.d_down, Write::overwrite);
    back_to("kokomo::PrimaryCrossAttention::d_down", all, d_value, width, w.value, scratch.d_down, Write::add);
    gradient("kokomo::PrimaryCrossAttention::down_gradient", by_expert, d_down, width, {saved.rows.data(), hidden},
             hidden, grads.down);
    back_to("kokomo::PrimaryCrossAttention::d_rows", by_expert, d_down, width, w.down, scratch.d_rows,
            Write::overwrite);
    back_to("kokomo::PrimaryCrossAttention::d_primary", by_primary, d_query, width, w.query, scratch.change,
            Write::overwrite);
    detail::for_each(exec, "kokomo::PrimaryCrossAttention::add_backward", a.tokens,
                     detail::AddToPrimaryBackward<T, Exec>{primaries, d_routed.data(), scratch.change.data(),
                                                           scratch.d_rows.data(), hidden});
  }

  /// y = routed + shared; as WeightedSum.
  template <class T, class Exec>
  void finish(Exec const& exec, Parameters<T, Exec> const&, compute_t<T> const* routed, compute_t<T> const* shared,
              Matrix<T, Exec> const& y, Saved<T, Exec> const&) const {
    WeightedSum{}.template finish<T, Exec>(exec, {}, routed, shared, y, {});
  }
  template <class T, class Exec>
  void finish_backward(Exec const& exec, Parameters<T, Exec> const&, Matrix<T const, Exec> const& dy,
                       compute_t<T>* d_routed, compute_t<T>* d_shared, Parameters<T, Exec> const&, Write write,
                       Saved<T, Exec> const&, BackwardScratch<T, Exec> const&) const {
    WeightedSum{}.template finish_backward<T, Exec>(exec, {}, dy, d_routed, d_shared, {}, write, {}, {});
  }

private:
  /// Weights [groups, columns, depth], or of one group, [columns, depth].
  template <class T, class V>
  static detail::WeightRef<T const> matrices(V const& weight, offset_t columns, offset_t depth) {
    return {weight.data(), columns * depth, depth, 1};
  }
  template <class C, class S> static detail::RowSource<C, C> primary_rows(S const& saved, offset_t hidden) {
    return {saved.rows.data(), hidden, saved.primaries.row_of.data()};
  }
  template <class T, class Exec>
  detail::PrimaryAttention<T, Exec> attention(Assignment<T, Exec> const& a, Saved<T, Exec> const& saved) const {
    return {a,     saved.primaries, saved.query.data(), saved.key.data(), saved.value.data(), saved.share.data(), width,
            heads, weighted};
  }
};

} // namespace kokomo::inline v0

#endif
