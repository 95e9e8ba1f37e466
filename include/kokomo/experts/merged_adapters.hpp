// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_MERGED_ADAPTERS_HPP
#define KOKOMO_EXPERTS_MERGED_ADAPTERS_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Adapters in splits: expert e belongs to split e / skills and has in [width, rank], out [rank, width] of that split's
/// columns.
template <class T> struct AdapterTables {
  using C = compute_t<T>;
  T const *in, *out; // [experts, width, rank], [experts, rank, width]
  index_t skills;    // of a split
  offset_t width;    // columns of a split
  offset_t rank, hidden;
  C scale;

  KOKKOS_FUNCTION offset_t first(index_t e) const { return e / skills * width; } // column of the split
  KOKKOS_FUNCTION T const* in_row(index_t e, offset_t h) const { return in + (e * width + h) * rank; }
  KOKKOS_FUNCTION T const* out_row(index_t e, offset_t r) const { return out + (e * rank + r) * width; }
};

template <class T, class Exec> struct MergeAdapters {
  using C = compute_t<T>;
  AdapterTables<T> p;
  Assignment<T, Exec> a;
  T const* x;
  Matrix<C, Exec> inner; // [tokens, rank] x times the merged in
  C* y;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C* const u = &inner(token, 0);
    for (offset_t r = 0; r < p.rank; ++r) u[r] = 0;
    for (offset_t h = 0; h < p.hidden; ++h) y[token * p.hidden + h] = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      index_t const e = a.expert[i];
      for (offset_t h = 0; h < p.width; ++h) {
        C const value = a.weight[i] * C(x[token * p.hidden + p.first(e) + h]);
        T const* const row = p.in_row(e, h);
        for (offset_t r = 0; r < p.rank; ++r) u[r] += value * C(row[r]);
      }
    }
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      index_t const e = a.expert[i];
      C* const to = y + token * p.hidden + p.first(e);
      for (offset_t r = 0; r < p.rank; ++r) {
        C const value = p.scale * a.weight[i] * u[r];
        T const* const row = p.out_row(e, r);
        for (offset_t h = 0; h < p.width; ++h) to[h] += value * C(row[h]);
      }
    }
  }
};

template <class T, class Exec> struct MergeAdaptersBackward {
  using C = compute_t<T>;
  AdapterTables<T> p;
  Assignment<T, Exec> a;
  T const* x;
  C const* d_out;
  Matrix<C, Exec> inner, d_inner; // [tokens, rank]
  C *dx, *d_weight_of_row;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C const* const u = &inner(token, 0);
    C* const d_u = &d_inner(token, 0);
    for (offset_t r = 0; r < p.rank; ++r) d_u[r] = 0;
    for (offset_t h = 0; h < p.hidden; ++h) dx[token * p.hidden + h] = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      index_t const e = a.expert[i];
      C const* const d = d_out + token * p.hidden + p.first(e);
      C of_weight = 0;
      for (offset_t r = 0; r < p.rank; ++r) {
        T const* const row = p.out_row(e, r);
        C along = 0;
        for (offset_t h = 0; h < p.width; ++h) along += d[h] * C(row[h]);
        d_u[r] += p.scale * a.weight[i] * along;
        of_weight += p.scale * u[r] * along;
      }
      d_weight_of_row[a.row[i]] = of_weight;
    }
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      index_t const e = a.expert[i];
      offset_t const at = token * p.hidden + p.first(e);
      C of_weight = 0;
      for (offset_t h = 0; h < p.width; ++h) {
        T const* const row = p.in_row(e, h);
        C along = 0;
        for (offset_t r = 0; r < p.rank; ++r) along += C(row[r]) * d_u[r];
        dx[at + h] += a.weight[i] * along;
        of_weight += C(x[at + h]) * along;
      }
      d_weight_of_row[a.row[i]] += of_weight;
    }
  }
};

/// One column of one expert's two matrices, over its rows in order.
template <class T, class Exec> struct AdapterGradient {
  using C = compute_t<T>;
  AdapterTables<T> p;
  Assignment<T, Exec> a;
  T const* x;
  C const* d_out;
  Matrix<C, Exec> inner, d_inner;
  T *d_in, *d_to; // as in and out
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const e = index_t(i / p.width);
    offset_t const h = i % p.width;
    for (offset_t r = 0; r < p.rank; ++r) {
      T &in = d_in[i * p.rank + r], &out = d_to[(e * p.rank + r) * p.width + h];
      C of_in = write == Write::add ? C(in) : C(0), of_out = write == Write::add ? C(out) : C(0);
      for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1]; ++row) {
        offset_t const token = a.token_of_row[row], at = token * p.hidden + p.first(e) + h;
        of_in += a.weight_of_row[row] * C(x[at]) * d_inner(token, r);
        of_out += p.scale * a.weight_of_row[row] * inner(token, r) * d_out[at];
      }
      in = T(of_in), out = T(of_out);
    }
  }
};

} // namespace detail

/// Low-rank adapters whose parameters are averaged before they are applied, instead of their outputs:
///
///     y = scale * x A B,   A = rows of the splits sum_k w_sk A_sk,   B = columns of the splits sum_k w_sk B_sk
///
/// The hidden columns fall into `splits` equal parts; expert s K + k is skill k of split s, and a token's entries say which
/// skills it averages, with which weights. Averaged matrices bring the products of one skill's A with another's B; the sum
/// of outputs has none of them. Nothing of the averaged matrices is formed: x A is a weighted sum of x_s A_sk, and so on.
/// Parameters: `in` [experts, hidden / splits, rank], `out` [experts, rank, hidden / splits]. All is in the compute type.
/// Source: Polytropon (one split) and multi-head routing, microsoft/mttl (docs/policies/experts/merged_adapters.md).
/// \throws kokomo::Error 101 unless rank >= 1 and splits divide the experts and the hidden columns
struct MergedAdapters {
  offset_t rank = 0;  ///< >= 1
  index_t splits = 1; ///< S >= 1
  float scale = 1;    ///< alpha / rank in the source

  template <class T, class Exec> struct Parameters {
    OwnedTensor<T, Exec> in, out;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, MergedAdapters const& policy, Sizes const& sizes) {
      offset_t const width = sizes.hidden / policy.splits;
      allocate(in, "kokomo::MergedAdapters::in", sizes.weighted, width, policy.rank);
      allocate(out, "kokomo::MergedAdapters::out", sizes.weighted, policy.rank, width);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "in"}, in);
      f(Name{prefix, "out"}, out);
    }
  };
  template <class T, class Exec> struct Saved {
    Matrix<compute_t<T>, Exec> inner; ///< [tokens, rank] x A

    Saved(detail::Arena& arena, MergedAdapters const& policy, Sizes const& sizes)
        : inner(arena.matrix<compute_t<T>, Exec>(sizes.tokens, policy.rank)) {}
  };
  template <class T, class Exec> struct BackwardScratch : Saved<T, Exec> {
    using Saved<T, Exec>::Saved; // the gradient of x A
  };

  void check(Sizes const& sizes) const {
    detail::require(rank >= 1, 101, "MergedAdapters rank = ", rank, ", expected >= 1");
    detail::require(splits >= 1 && sizes.weighted % splits == 0 && sizes.hidden % splits == 0, 101,
                    "MergedAdapters splits = ", splits, ", expected a divisor of ", sizes.weighted, " experts and ",
                    sizes.hidden, " columns");
  }
  index_t routed(index_t weighted) const { return weighted; }

  /// \param[in] x [tokens, width]
  /// \param[out] out [tokens, width]
  template <class T, class Exec>
  void forward_by_token(Exec const& exec, Parameters<T, Exec> const& parameters, T const* x,
                        Assignment<T, Exec> const& a, compute_t<T>* out, offset_t width, Saved<T, Exec> const& saved,
                        Nothing const&) const {
    detail::for_each(exec, "kokomo::MergedAdapters::forward", a.tokens,
                     detail::MergeAdapters<T, Exec>{tables<T>(parameters, width), a, x, saved.inner, out});
  }

  /// \param[in] d_out [tokens, width] gradient of out
  /// \param[out] dx [tokens, width]
  /// \param[out] d_weight [rows] gradient of each executed entry's weight, by its row
  template <class T, class Exec>
  void backward_by_token(Exec const& exec, Parameters<T, Exec> const& parameters, T const* x,
                         Assignment<T, Exec> const& a, compute_t<T> const* d_out, offset_t width, compute_t<T>* dx,
                         compute_t<T>* d_weight, Parameters<T, Exec> const& grads, Write write,
                         Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    auto const p = tables<T>(parameters, width);
    detail::for_each(exec, "kokomo::MergedAdapters::backward", a.tokens,
                     detail::MergeAdaptersBackward<T, Exec>{p, a, x, d_out, saved.inner, scratch.inner, dx, d_weight});
    detail::for_each(exec, "kokomo::MergedAdapters::gradient", a.experts * p.width,
                     detail::AdapterGradient<T, Exec>{p, a, x, d_out, saved.inner, scratch.inner, grads.in.data(),
                                                      grads.out.data(), write});
  }

private:
  template <class T, class P> detail::AdapterTables<T> tables(P const& parameters, offset_t width) const {
    return {parameters.in.data(),
            parameters.out.data(),
            index_t(parameters.in.extent(0)) / splits,
            width / splits,
            rank,
            width,
            compute_t<T>(scale)};
  }
};

} // namespace kokomo::inline v0

#endif
