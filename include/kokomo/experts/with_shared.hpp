// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_WITH_SHARED_HPP
#define KOKOMO_EXPERTS_WITH_SHARED_HPP

#include <kokomo/detail/linear.hpp>
#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {

/// Shared experts count fully.
struct Ungated {};

/// Shared experts count by sigmoid(gate . x): a learnable vector `gate` [hidden] (Qwen2-MoE). One shared expert.
struct SigmoidShare {
  template <class T, class Exec> struct Parameters {
    OwnedVector<compute_t<T>, Exec> gate;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, SigmoidShare const&, Sizes const& sizes) {
      allocate(gate, "kokomo::SigmoidShare::gate", sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "shared_gate"}, gate); }
  };
};

/// Shared experts count by what the layer's gate gives them (JointSigmoidGate).
struct JointShare {};

namespace detail {

/// Shared experts' rows: expert j computes token t in row j * tokens + t.
template <class Exec> struct SharedRows {
  Vector<offset_t, Exec> offsets;
  Vector<index_t, Exec> expert_of_row;
  Vector<index_t, Exec> token_of_row;
  offset_t tokens;

  /// Enough calls for the offsets as well, which no row may write when there are no tokens.
  offset_t calls() const { return Kokkos::max(offset_t(offsets.extent(0)), offset_t(token_of_row.extent(0))); }
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    if (i < offset_t(offsets.extent(0))) offsets[i] = i * tokens;
    if (i >= offset_t(token_of_row.extent(0))) return;
    expert_of_row[i] = static_cast<index_t>(i / tokens);
    token_of_row[i] = static_cast<index_t>(i % tokens);
  }
};

template <class T> struct SigmoidOfProduct {
  using C = compute_t<T>;
  T const* x;
  C const* gate;
  C* share;
  offset_t hidden;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C z = 0;
    for (offset_t h = 0; h < hidden; ++h) z += C(x[token * hidden + h]) * gate[h];
    share[token] = sigmoid(z);
  }
};

/// d_share becomes the gradient of the logit; dx takes its part.
template <class T> struct SigmoidOfProductBackward {
  using C = compute_t<T>;
  C const* gate;
  C const* share;
  C* d_share;
  C* dx;
  offset_t hidden;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const dz = d_share[token] * share[token] * (C(1) - share[token]);
    d_share[token] = dz;
    for (offset_t h = 0; h < hidden; ++h) dx[token * hidden + h] += dz * gate[h];
  }
};

template <class C, class Exec> struct ShareByRow {
  Matrix<C, Exec> by_token; // [tokens, shared]
  C* by_row;
  bool to_row;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    auto const tokens = offset_t(by_token.extent(0));
    C& token_side = by_token(row % tokens, row / tokens);
    if (to_row)
      by_row[row] = token_side;
    else
      token_side = by_row[row];
  }
};

/// out[t] (+)= sum over shared experts j of share * rows[j * tokens + t]
template <class C> struct SumShared {
  C const* rows;
  C const* share; // null: one
  C* out;
  offset_t tokens, hidden;
  index_t count;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const token = i / hidden;
    C sum = write == Write::add ? out[i] : C(0);
    for (index_t j = 0; j < count; ++j) {
      offset_t const row = j * tokens + token;
      sum += (share != nullptr ? share[row] : C(1)) * rows[row * hidden + i % hidden];
    }
    out[i] = sum;
  }
};

template <class Routed> struct DefaultShared { using type = Routed; };
template <class Routed>
requires requires {
  typename Routed::Inner;
}
struct DefaultShared<Routed> : DefaultShared<typename Routed::Inner> {};

} // namespace detail

/// Routed experts, and beside them shared ones that every token visits: y = routed(x) + sum_j share_j shared_j(x).
///
/// Shared experts read the layer's input and are not subject to routing, masks or capacity. `count` experts of
/// `shared.intermediate` each; published models that store several as one wide expert are count 1.
/// \tparam ShareT Ungated, SigmoidShare (count 1), JointShare (with a gate that weighs shared experts)
/// \throws kokomo::Error 101 unless count >= 1; 107 for SigmoidShare with more than one
template <class RoutedT, class ShareT = Ungated, class SharedT = typename detail::DefaultShared<RoutedT>::type>
struct WithShared {
  using Routed = RoutedT;
  using Share = ShareT;
  using Shared = SharedT;
  static_assert(
      !requires { SharedT::reads_activations; },
      "kokomo::WithShared: experts that continue from a scorer's activations (AutonomousExperts) cannot be shared "
      "ones; name other experts as the third parameter");
  static constexpr bool gated_share = !std::is_same_v<Share, Ungated>;
  template <class T, class Exec> static constexpr bool combines = detail::CombinesRowGradients<Shared, T, Exec>;
  template <class T, class Exec> static constexpr bool sums_rows = detail::CombinesRows<Shared, T, Exec>;

  Routed routed{};
  Shared shared{};
  index_t count = 1; ///< >= 1

  static Sizes shared_sizes(Sizes sizes, index_t count) {
    sizes.experts = sizes.weighted = count;
    sizes.entries = sizes.tokens * count;
    return sizes;
  }

  /// Parameters of the shared part alone; the routed experts' are the layer's `experts`.
  template <class T, class Exec> struct Parameters {
    parameters_t<Shared, T, Exec> experts;
    parameters_t<Share, T, Exec> share;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, WithShared const& policy, Sizes const& sizes)
        : experts(detail::make<decltype(experts)>(allocate, policy.shared, shared_sizes(sizes, policy.count))),
          share(detail::make<parameters_t<Share, T, Exec>>(allocate, Share{}, sizes)) {}
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      experts.for_each(f, prefix);
      share.for_each(f, prefix);
    }
  };
  template <class T, class Exec> struct Saved {
    saved_t<Shared, T, Exec> experts;
    detail::SharedRows<Exec> rows;
    Vector<compute_t<T>, Exec> share; ///< [count * tokens] by row

    Saved(detail::Arena& arena, WithShared const& policy, Sizes const& sizes)
        : experts(detail::make<decltype(experts)>(arena, policy.shared, shared_sizes(sizes, policy.count))),
          rows{arena.vector<offset_t, Exec>(policy.count + 1), arena.vector<index_t, Exec>(policy.count * sizes.tokens),
               arena.vector<index_t, Exec>(policy.count * sizes.tokens), sizes.tokens},
          share(arena.vector<compute_t<T>, Exec>(gated_share ? policy.count * sizes.tokens : 0)) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<Shared, T, Exec> experts;
    Matrix<compute_t<T>, Exec> out; // [count * tokens, hidden], unless the experts sum them up themselves

    Scratch(detail::Arena& arena, WithShared const& policy, Sizes const& sizes)
        : experts(detail::make<decltype(experts)>(arena, policy.shared, shared_sizes(sizes, policy.count))),
          out(arena.matrix<compute_t<T>, Exec>(sums_rows<T, Exec> ? 0 : policy.count * sizes.tokens, sizes.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    detail::experts_backward_scratch_t<Shared, T, Exec> experts;
    Matrix<compute_t<T>, Exec> dx;      // [count * tokens, hidden], unless the experts sum them up themselves
    Vector<compute_t<T>, Exec> d_share; // [count * tokens] by row

    BackwardScratch(detail::Arena& arena, WithShared const& policy, Sizes const& sizes)
        : experts(detail::make<decltype(experts)>(arena, policy.shared, shared_sizes(sizes, policy.count))),
          dx(arena.matrix<compute_t<T>, Exec>(combines<T, Exec> ? 0 : policy.count * sizes.tokens, sizes.hidden)),
          d_share(arena.vector<compute_t<T>, Exec>(gated_share ? policy.count * sizes.tokens : 0)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(count >= 1, 101, "shared experts = ", count, ", expected >= 1");
    detail::require(count == 1 || !(std::is_same_v<Share, SigmoidShare>), 107,
                    "SigmoidShare gates one shared expert, not ", count);
    detail::check_settings(routed, sizes);
    detail::check_settings(shared, shared_sizes(sizes, count));
  }
  index_t routed_experts(index_t weighted) const { return routed.routed(weighted); }

  /// \param[in] joint [tokens, count] weights from the gate, for JointShare
  /// \param[out] out [tokens, hidden]
  template <class T, class Exec>
  void forward_shared(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                      Matrix<compute_t<T>, Exec> const& joint, Matrix<compute_t<T>, Exec> const& out,
                      Saved<T, Exec> const& saved, Scratch<T, Exec> const& scratch,
                      detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(x.extent(0)), hidden = offset_t(x.extent(1));
    detail::for_each(exec, "kokomo::WithShared::rows", saved.rows.calls(), saved.rows);
    if constexpr (std::is_same_v<Share, SigmoidShare>)
      detail::for_each(exec, "kokomo::WithShared::share", tokens,
                       detail::SigmoidOfProduct<T>{x.data(), parameters.share.gate.data(), saved.share.data(), hidden});
    if constexpr (std::is_same_v<Share, JointShare>)
      detail::for_each(exec, "kokomo::WithShared::share", count * tokens,
                       detail::ShareByRow<C, Exec>{joint, saved.share.data(), true});
    if constexpr (sums_rows<T, Exec>) {
      detail::CombinedRows<C> const target{out.data(), tokens, saved.rows.token_of_row.data(), share(saved)};
      shared.template forward_combined<T>(exec, parameters.experts, rows<T>(x, saved, workers), target, hidden,
                                          saved.experts, scratch.experts);
    } else {
      shared.template forward<T>(exec, parameters.experts, rows<T>(x, saved, workers), scratch.out, saved.experts,
                                 scratch.experts);
      detail::for_each(
          exec, "kokomo::WithShared::sum", tokens * hidden,
          detail::SumShared<C>{scratch.out.data(), share(saved), out.data(), tokens, hidden, count, Write::overwrite});
    }
  }

  /// \param[in] d_out [tokens, hidden] gradient of the shared part
  /// \param[in,out] dx [tokens, hidden], added to
  /// \param[out] d_joint [tokens, count], for JointShare
  template <class T, class Exec>
  void backward_shared(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const& x,
                       Matrix<compute_t<T>, Exec> const& d_out, Matrix<compute_t<T>, Exec> const& dx,
                       Matrix<compute_t<T>, Exec> const& d_joint, Parameters<T, Exec> const& grads, Write write,
                       Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch,
                       detail::WorkerScratch const& workers) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(x.extent(0)), hidden = offset_t(x.extent(1));
    detail::RowSource<C, C> const d_rows{d_out.data(), hidden, saved.rows.token_of_row.data()};
    C* const d_share = gated_share ? scratch.d_share.data() : nullptr;
    if constexpr (combines<T, Exec>) {
      CombinedRowGradients<T, Exec> const d{
          d_rows, share(saved), hidden, {dx.data(), tokens, saved.rows.token_of_row.data()}, Write::add, d_share};
      shared.template backward_combined<T>(exec, parameters.experts, rows<T>(x, saved, workers), d, grads.experts,
                                           write, saved.experts, scratch.experts);
    } else {
      ExpertRowGradients<T, Exec> const d{d_rows, share(saved), scratch.dx, d_share};
      shared.template backward<T>(exec, parameters.experts, rows<T>(x, saved, workers), d, grads.experts, write,
                                  saved.experts, scratch.experts);
      detail::for_each(exec, "kokomo::WithShared::dx", tokens * hidden,
                       detail::SumShared<C>{scratch.dx.data(), nullptr, dx.data(), tokens, hidden, count, Write::add});
    }
    if constexpr (std::is_same_v<Share, JointShare>)
      detail::for_each(exec, "kokomo::WithShared::d_share", count * tokens,
                       detail::ShareByRow<C, Exec>{d_joint, scratch.d_share.data(), false});
    if constexpr (std::is_same_v<Share, SigmoidShare>) {
      detail::for_each(exec, "kokomo::WithShared::d_share", tokens,
                       detail::SigmoidOfProductBackward<T>{parameters.share.gate.data(), saved.share.data(),
                                                           scratch.d_share.data(), dx.data(), hidden});
      detail::linear_weight_gradient(exec, "kokomo::WithShared::gate_gradient",
                                     static_cast<C const*>(scratch.d_share.data()), tokens, offset_t(1), x.data(),
                                     hidden, grads.share.gate.data(), write, workers);
    }
  }

private:
  template <class T, class Exec>
  ExpertRows<T, Exec> rows(Matrix<T const, Exec> const& x, Saved<T, Exec> const& saved,
                           detail::WorkerScratch const& workers) const {
    return {{x.data(), offset_t(x.extent(1)), saved.rows.token_of_row.data()},
            {saved.rows.offsets.data(), saved.rows.expert_of_row.data(), count, offset_t(x.extent(0)) * count},
            workers};
  }
  template <class T, class Exec> static compute_t<T> const* share(Saved<T, Exec> const& saved) {
    return gated_share ? saved.share.data() : nullptr;
  }
};

} // namespace kokomo::inline v0

#endif
