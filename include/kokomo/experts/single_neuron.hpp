// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_SINGLE_NEURON_HPP
#define KOKOMO_EXPERTS_SINGLE_NEURON_HPP

#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// <a, b> in eight partial sums, which a compiler turns into vector code without being allowed to reorder anything.
template <class C, class A, class B> KOKKOS_FUNCTION C lane_dot(A const* a, B const* b, offset_t n) {
  C lanes[8] = {};
  offset_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (int lane = 0; lane < 8; ++lane) lanes[lane] += static_cast<C>(a[i + lane]) * static_cast<C>(b[i + lane]);
  C sum = 0;
  for (int lane = 0; lane < 8; ++lane) sum += lanes[lane];
  for (; i < n; ++i) sum += static_cast<C>(a[i]) * static_cast<C>(b[i]);
  return sum;
}

/// One token: its neurons, in the order of its entries.
template <class T, class Exec, class Act> struct NeuronsOfToken {
  using C = compute_t<T>;
  T const* x;
  Assignment<T, Exec> a;
  T const *up, *down;
  offset_t width;
  C* out;
  C* pre; // [entries]
  Act act;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C* const y = out + token * width;
    for (offset_t h = 0; h < width; ++h) y[h] = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      if (a.row[i] == none) continue;
      offset_t const at = offset_t(a.expert[i]) * width;
      pre[i] = lane_dot<C>(x + token * width, up + at, width);
      C const factor = a.weight[i] * act.value(pre[i]);
      for (offset_t h = 0; h < width; ++h) y[h] += factor * static_cast<C>(down[at + h]);
    }
  }
};

template <class T, class Exec, class Act> struct NeuronsOfTokenBackward {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  T const *up, *down;
  offset_t width;
  C const* d_out;
  C const* pre;
  C *dx, *d_weight_of_row, *d_pre_of_row, *hidden_of_row;
  Act act;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    C* const d = dx + token * width;
    for (offset_t h = 0; h < width; ++h) d[h] = 0;
    for (offset_t i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      index_t const row = a.row[i];
      if (row == none) continue;
      offset_t const at = offset_t(a.expert[i]) * width;
      C const along = lane_dot<C>(d_out + token * width, down + at, width);
      C const value = act.value(pre[i]), d_pre = a.weight[i] * along * act.slope(pre[i]);
      d_weight_of_row[row] = along * value;
      d_pre_of_row[row] = d_pre;
      hidden_of_row[row] = a.weight[i] * value;
      for (offset_t h = 0; h < width; ++h) d[h] += d_pre * static_cast<C>(up[at + h]);
    }
  }
};

/// One expert: its two vectors' gradients over its rows, in order.
template <class T, class Exec> struct NeuronGradient {
  using C = compute_t<T>;
  T const* x;
  Assignment<T, Exec> a;
  offset_t width;
  C const *d_out, *d_pre_of_row, *hidden_of_row;
  T *d_up, *d_down;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    offset_t const begin = a.expert_offsets[e], end = a.expert_offsets[e + 1];
    if (begin == end && write == Write::add) return;
    for (offset_t h = 0; h < width; ++h) {
      C up = write == Write::add ? C(d_up[e * width + h]) : C(0);
      C down = write == Write::add ? C(d_down[e * width + h]) : C(0);
      for (offset_t row = begin; row < end; ++row) {
        offset_t const at = offset_t(a.token_of_row[row]) * width + h;
        up += d_pre_of_row[row] * static_cast<C>(x[at]);
        down += hidden_of_row[row] * d_out[at];
      }
      d_up[e * width + h] = static_cast<T>(up);
      d_down[e * width + h] = static_cast<T>(down);
    }
  }
};

} // namespace detail

/// Experts of one neuron each, in two tables: expert e adds w act(<x, up_e>) down_e to its token. Made for very many of
/// them: a token gathers its own rows of the tables, so nothing of size [entries, hidden] is ever written, and forward does
/// not look at the grouping at all.
///
/// Parameters: `up` [E, hidden], `down` [E, hidden]; PEER calls them weight_down_embed and weight_up_embed.
/// In the compute type throughout, and rounded to the storage type only with the layer's output.
/// Source: PEER (arXiv:2407.04153); OmniMoE's atomic experts (arXiv:2602.05711), whose code has Silu; transformers doge.
template <class ActT = Gelu> struct SingleNeuronExperts {
  ActT act{};

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<T, Exec> up, down;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, SingleNeuronExperts const&, Sizes const& sizes) {
      allocate(up, "kokomo::SingleNeuronExperts::up", sizes.weighted, sizes.hidden);
      allocate(down, "kokomo::SingleNeuronExperts::down", sizes.weighted, sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      f(Name{prefix, "up"}, up);
      f(Name{prefix, "down"}, down);
    }
  };
  template <class T, class Exec> struct Saved {
    Vector<compute_t<T>, Exec> pre; ///< [entries] <x, up_e>

    Saved(detail::Arena& arena, SingleNeuronExperts const&, Sizes const& sizes)
        : pre(arena.vector<compute_t<T>, Exec>(sizes.entries)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Vector<compute_t<T>, Exec> d_pre;  // [rows]
    Vector<compute_t<T>, Exec> hidden; // [rows] weight times activation

    BackwardScratch(detail::Arena& arena, SingleNeuronExperts const&, Sizes const& sizes)
        : d_pre(arena.vector<compute_t<T>, Exec>(sizes.entries)),
          hidden(arena.vector<compute_t<T>, Exec>(sizes.entries)) {}
  };

  index_t routed(index_t weighted) const { return weighted; }

  /// out[t] = the weighted sum of token t's experts.
  /// \param[in] x [tokens, width]
  /// \param[out] out [tokens, width]
  template <class T, class Exec>
  void forward_by_token(Exec const& exec, Parameters<T, Exec> const& parameters, T const* x,
                        Assignment<T, Exec> const& a, compute_t<T>* out, offset_t width, Saved<T, Exec> const& saved,
                        Nothing const&) const {
    detail::for_each(exec, "kokomo::SingleNeuronExperts::forward", a.tokens,
                     detail::NeuronsOfToken<T, Exec, ActT>{x, a, parameters.up.data(), parameters.down.data(), width,
                                                           out, saved.pre.data(), act});
  }

  /// \param[in] d_out [tokens, width] gradient of out
  /// \param[out] dx [tokens, width]
  /// \param[out] d_weight [rows] gradient of each executed entry's weight, by its row
  template <class T, class Exec>
  void backward_by_token(Exec const& exec, Parameters<T, Exec> const& parameters, T const* x,
                         Assignment<T, Exec> const& a, compute_t<T> const* d_out, offset_t width, compute_t<T>* dx,
                         compute_t<T>* d_weight, Parameters<T, Exec> const& grads, Write write,
                         Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    detail::for_each(exec, "kokomo::SingleNeuronExperts::backward", a.tokens,
                     detail::NeuronsOfTokenBackward<T, Exec, ActT>{a, parameters.up.data(), parameters.down.data(),
                                                                   width, d_out, saved.pre.data(), dx, d_weight,
                                                                   scratch.d_pre.data(), scratch.hidden.data(), act});
    detail::for_each(exec, "kokomo::SingleNeuronExperts::gradient", a.experts,
                     detail::NeuronGradient<T, Exec>{x, a, width, d_out, scratch.d_pre.data(), scratch.hidden.data(),
                                                     grads.up.data(), grads.down.data(), write});
  }
};

} // namespace kokomo::inline v0

#endif
