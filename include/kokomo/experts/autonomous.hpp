// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_AUTONOMOUS_HPP
#define KOKOMO_EXPERTS_AUTONOMOUS_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Which row of [tokens experts, width] belongs to a row of the experts.
template <class T, class Exec> struct CachedRow {
  ExpertRows<T, Exec> in;
  index_t* index;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!in.rows.contains(row)) return;
    index[row] = in.x.index[row] * in.rows.groups + in.rows.group_of(row);
  }
};

/// Gradients of cached rows back to their place; rows of the same token and expert stand side by side.
template <class C> struct ReturnCachedRows {
  GroupedRows rows;
  index_t const* index;
  C const* d_rows;
  offset_t width;
  C* d_cache;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    offset_t const end = rows.end(rows.groups - 1);
    if (row >= end || (row > 0 && index[row - 1] == index[row])) return;
    C* const d = d_cache + index[row] * width;
    for (offset_t same = row; same < end && index[same] == index[row]; ++same)
      for (offset_t c = 0; c < width; ++c) d[c] += d_rows[same * width + c];
  }
};

} // namespace detail

/// Experts that continue from what ActivationNormScorer has computed of them: with A_e = W_e x from its cache,
///
///     E_e(x) = down_e (silu(gate_e A_e) * up_e x)
///
/// the first matrix is of low rank: it is the scorer's. Parameters: `gate` [E, I, cached], `up` [E, I, hidden], `down`
/// [E, hidden, I]. `cached` must be the scorer's width.
/// Source: Autonomy-of-Experts, trestad/Autonomy-of-Experts.
/// \throws kokomo::Error 101 unless both sizes are at least 1, 105 for tokens times experts beyond 2^31 - 1
struct AutonomousExperts {
  static constexpr bool reads_activations = true;

  offset_t intermediate = 0; ///< I
  offset_t cached = 0;       ///< width of the scorer's activations

  template <class T, class Exec> struct Parameters {
    OwnedTensor<T, Exec> gate, up, down;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, AutonomousExperts const& policy, Sizes const& sizes) {
      allocate(gate, "kokomo::AutonomousExperts::gate", sizes.weighted, policy.intermediate, policy.cached);
      allocate(up, "kokomo::AutonomousExperts::up", sizes.weighted, policy.intermediate, sizes.hidden);
      allocate(down, "kokomo::AutonomousExperts::down", sizes.weighted, sizes.hidden, policy.intermediate);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "gate"}, gate), f(Name{prefix, "up"}, up), f(Name{prefix, "down"}, down);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> pre;           ///< [rows, 2 I] pre-activations: gate, then up
    Vector<index_t, Exec> indices; ///< [rows] of the cache

    Saved(detail::Arena& arena, AutonomousExperts const& policy, Sizes const& sizes)
        : pre(arena.matrix<T, Exec>(sizes.entries, 2 * policy.intermediate)),
          indices(arena.vector<index_t, Exec>(sizes.entries)) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<T, Exec> hidden; // [rows, I]

    Scratch(detail::Arena& arena, AutonomousExperts const& policy, Sizes const& sizes)
        : hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<T, Exec> hidden;              // [rows, I]
    Matrix<compute_t<T>, Exec> d_hidden; // [rows, I]
    Matrix<compute_t<T>, Exec> d_pre;    // [rows, 2 I]
    Matrix<compute_t<T>, Exec> d_cached; // [rows, cached]

    BackwardScratch(detail::Arena& arena, AutonomousExperts const& policy, Sizes const& sizes)
        : hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)),
          d_hidden(arena.matrix<compute_t<T>, Exec>(sizes.entries, policy.intermediate)),
          d_pre(arena.matrix<compute_t<T>, Exec>(sizes.entries, 2 * policy.intermediate)),
          d_cached(arena.matrix<compute_t<T>, Exec>(sizes.entries, policy.cached)) {}
  };

  index_t routed(index_t weighted) const { return weighted; }
  void check(Sizes const& sizes) const {
    detail::require(intermediate >= 1 && cached >= 1, 101, "AutonomousExperts intermediate = ", intermediate,
                    ", cached = ", cached, ", expected at least 1");
    detail::require(sizes.tokens * sizes.experts <= 2147483647, 105, "AutonomousExperts cache ", sizes.tokens,
                    " tokens times ", sizes.experts, " experts, expected at most 2^31 - 1");
  }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = offset_t(out.extent(1));
    detail::for_each(exec, "kokomo::AutonomousExperts::indices", in.rows.rows,
                     detail::CachedRow<T, Exec>{in, saved.indices.data()});
    detail::RowTarget<T> pre{saved.pre.data(), 2 * intermediate};
    detail::grouped_product(exec, "kokomo::AutonomousExperts::gate", in.rows, cache<T>(in, saved), cached,
                            weight<T const>(parameters.gate), detail::BiasRef<T const>{}, intermediate, pre,
                            Write::overwrite, in.workers);
    pre.data += intermediate;
    detail::grouped_product(exec, "kokomo::AutonomousExperts::up", in.rows, in.x, width, weight<T const>(parameters.up),
                            detail::BiasRef<T const>{}, intermediate, pre, Write::overwrite, in.workers);
    detail::for_each(exec, "kokomo::AutonomousExperts::activate", in.rows.rows,
                     detail::Activate<T, SwiGlu>{in.rows, saved.pre.data(), scratch.hidden.data(), intermediate,
                                                 detail::BiasRef<T const>{}, detail::BiasRef<T const>{}, SwiGlu{}});
    detail::grouped_product(exec, "kokomo::AutonomousExperts::down", in.rows,
                            detail::RowSource<T, C>{scratch.hidden.data(), intermediate}, intermediate,
                            weight<T const>(parameters.down), detail::BiasRef<T const>{}, width,
                            detail::RowTarget<C>{out.data(), width}, Write::overwrite, in.workers);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = offset_t(d.dx.extent(1));
    detail::BiasRef<T const> const no_bias;
    detail::grouped_product(exec, "kokomo::AutonomousExperts::d_hidden", in.rows, d.d_out, width,
                            weight<T const>(parameters.down).transposed(), no_bias, intermediate,
                            detail::RowTarget<C>{scratch.d_hidden.data(), intermediate}, Write::overwrite, in.workers);
    detail::for_each(exec, "kokomo::AutonomousExperts::activate_backward", in.rows.rows,
                     detail::ActivateBackward<T, SwiGlu>{in.rows, saved.pre.data(), scratch.d_hidden.data(),
                                                         scratch.d_pre.data(), scratch.hidden.data(), intermediate,
                                                         d.d_out, no_bias, width, d.weight, d.d_weight, SwiGlu{}});
    detail::grouped_outer_product(exec, "kokomo::AutonomousExperts::down_gradient", in.rows, d.d_out, width,
                                  detail::RowSource<T, C>{scratch.hidden.data(), intermediate}, intermediate,
                                  weight<T>(grads.down), write, in.workers);
    detail::RowSource<C, C> const d_gate{scratch.d_pre.data(), 2 * intermediate};
    detail::RowSource<C, C> const d_up{scratch.d_pre.data() + intermediate, 2 * intermediate};
    detail::grouped_outer_product(exec, "kokomo::AutonomousExperts::gate_gradient", in.rows, d_gate, intermediate,
                                  cache<T>(in, saved), cached, weight<T>(grads.gate), write, in.workers);
    detail::grouped_outer_product(exec, "kokomo::AutonomousExperts::up_gradient", in.rows, d_up, intermediate, in.x,
                                  width, weight<T>(grads.up), write, in.workers);
    detail::grouped_product(exec, "kokomo::AutonomousExperts::d_cached", in.rows, d_gate, intermediate,
                            weight<T const>(parameters.gate).transposed(), no_bias, cached,
                            detail::RowTarget<C>{scratch.d_cached.data(), cached}, Write::overwrite, in.workers);
    detail::grouped_product(exec, "kokomo::AutonomousExperts::dx", in.rows, d_up, intermediate,
                            weight<T const>(parameters.up).transposed(), no_bias, width,
                            detail::RowTarget<C>{d.dx.data(), width}, Write::overwrite, in.workers);
    detail::for_each(
        exec, "kokomo::AutonomousExperts::return_cached", in.rows.rows,
        detail::ReturnCachedRows<C>{in.rows, saved.indices.data(), scratch.d_cached.data(), cached, d.d_activations});
  }

private:
  /// Matrices [E, out, in] as they lie in memory.
  template <class S, class V> static detail::WeightRef<S> weight(V const& view) {
    auto const out = offset_t(view.extent(1)), in = offset_t(view.extent(2));
    return {view.data(), out * in, in, 1};
  }
  template <class T, class In, class S>
  detail::RowSource<compute_t<T>, compute_t<T>> cache(In const& in, S const& saved) const {
    return {in.activations, cached, saved.indices.data()};
  }
};

} // namespace kokomo::inline v0

#endif
