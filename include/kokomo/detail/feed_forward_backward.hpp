// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_FEED_FORWARD_BACKWARD_HPP
#define KOKOMO_DETAIL_FEED_FORWARD_BACKWARD_HPP

#include <kokomo/detail/host/feed_forward_backward.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/product.hpp>
#include <kokomo/expert_rows.hpp>

namespace kokomo::inline v0::detail {

/// One row of the hidden layer's backward: with s the row's weight and dA' = d_out W_down (no weight),
/// d_pre = act'(pre) (s dA'), hidden <- s act(pre) for the weight gradient, d_weight = <dA', act(pre)> + <d_out, bias>.
template <class T, class Activation> struct ActivateBackward {
  using C = compute_t<T>;
  GroupedRows rows;
  T const* pre;
  C const* d_hidden; // [rows, width] dA'
  C* d_pre;          // [rows, (gate) up]
  T* hidden;         // [rows, width]
  offset_t width;
  RowSource<C, C> d_out;
  BiasRef<T const> down_bias;
  offset_t out_width;
  C const* weight;
  C* d_weight;
  Activation activation;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    constexpr int parts = Activation::gated ? 2 : 1;
    T const* const gate = pre + row * parts * width;
    T const* const up = Activation::gated ? gate + width : gate;
    C* const d_gate = d_pre + row * parts * width;
    C* const d_up = Activation::gated ? d_gate + width : d_gate;
    C const s = weight != nullptr ? weight[row] : C(1);
    C along = 0;
    for (offset_t i = 0; i < width; ++i) {
      C const g = gate[i], u = up[i], da = d_hidden[row * width + i];
      C const a = activation.template value<T>(g, u);
      along += da * a;
      C dg = 0, du = 0;
      activation.gradient(g, u, s * da, dg, du);
      if constexpr (Activation::gated) d_gate[i] = dg;
      d_up[i] = du;
      hidden[row * width + i] = T(s * a);
    }
    if (d_weight == nullptr) return;
    if (down_bias.data != nullptr) {
      T const* const bias = down_bias.data + rows.group_of(row) * down_bias.group_stride;
      for (offset_t h = 0; h < out_width; ++h) along += d_out(row, h) * C(bias[h * down_bias.n_stride]);
    }
    d_weight[row] = along;
  }
};

/// Columns of the hidden layer that backward works on at a time on a host: a quarter of them, so that what it keeps of
/// all rows stays well below what forward saved. Whole panels of every kernel, and not so few that products get slow.
inline offset_t slice_columns(offset_t intermediate) {
  return std::min(intermediate, host::divide_up(host::divide_up(intermediate, 4), 64) * 64);
}

/// What backward on a host keeps of all rows, slice by slice.
template <class T, class Exec> struct SliceScratch {
  Matrix<T, Exec> hidden;           ///< [rows, slice]
  Matrix<T, Exec> d_pre;            ///< [rows, 2 or 1 slices]
  Matrix<T, Exec> pre;              ///< the same, where forward did not save it
  Matrix<compute_t<T>, Exec> along; ///< [rows, partial sums] for the gradient of a row's weight

  SliceScratch(Arena& arena, offset_t rows, offset_t width, offset_t intermediate, int parts, bool recompute)
      : hidden(arena.matrix<T, Exec>(rows, slice_columns(intermediate))),
        d_pre(arena.matrix<T, Exec>(rows, parts * slice_columns(intermediate))),
        pre(arena.matrix<T, Exec>(recompute ? rows : 0, parts * slice_columns(intermediate))),
        along(arena.matrix<compute_t<T>, Exec>(
            rows, host::divide_up(std::max(width, intermediate), host::partial_columns<compute_t<T>>))) {}
};

/// The weights and biases of experts of two projections, or their gradients.
template <class S> struct FeedForwardMatrices {
  WeightRef<S> gate, up, down; ///< gate: unused by plain experts
  BiasRef<S> gate_bias, up_bias, down_bias;

  /// The parts that belong to the hidden columns from `first` on.
  FeedForwardMatrices from(offset_t first) const {
    auto part = *this;
    part.gate.data += first * gate.n_stride;
    part.up.data += first * up.n_stride;
    part.down.data += first * down.k_stride;
    if (gate_bias.data != nullptr) part.gate_bias.data += first * gate_bias.n_stride;
    if (up_bias.data != nullptr) part.up_bias.data += first * up_bias.n_stride;
    return part;
  }
};

/// Backward of experts of two projections on a host. For each slice of the hidden layer: its pre-activations where
/// forward did not save them (the same bits), its gradient, the weights' gradients, and its share of dx.
/// \param[in] pre [rows, (gate) up] as forward saved them; null: compute them again
template <class T, class Exec, class Activation>
void feed_forward_backward(Exec const& exec, Activation const& activation, offset_t intermediate,
                           FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in,
                           CombinedRowGradients<T, Exec> const& d, FeedForwardMatrices<T> const& grads, Write write,
                           T const* pre, SliceScratch<T, Exec> const& scratch) {
  using C = compute_t<T>;
  using Kernel = host::Microkernel<C>;
  using Weights = host::UnpackedWeights<T, C>;
  constexpr bool gated = Activation::gated;
  constexpr int parts = gated ? 2 : 1;
  auto const set = host::instruction_set();
  Kernel const& kernel = host::microkernel<C>(set);
  int const workers = in.workers.workers;
  auto const product = [&](WeightRef<T const> const& w, offset_t columns) {
    return Weights{w, columns, kernel.columns};
  };
  auto const weight_gradient = [&](auto const& left, offset_t rows, auto const& right, offset_t columns,
                                   WeightRef<T> const& gradient) {
    grouped_outer_product(exec, "kokomo::FeedForwardExperts::weight_gradient", in.rows, left, rows, right, columns,
                          gradient, write, in.workers);
  };
  auto const bias_gradient = [&](auto const& rows, offset_t columns, BiasRef<T> const& gradient) {
    if (gradient.data != nullptr)
      grouped_row_sum(exec, "kokomo::FeedForwardExperts::bias_gradient", in.rows, rows, columns, gradient, write);
  };
  offset_t const partials = scratch.along.extent(1);
  offset_t const slice = slice_columns(intermediate);

  for (offset_t first = 0; first < intermediate; first += slice) {
    offset_t const width = std::min(slice, intermediate - first);
    auto const w = weights.from(first);
    auto const dw = grads.from(first);
    T* const hidden = scratch.hidden.data();
    T* const d_pre = scratch.d_pre.data();
    host::HiddenColumns<T const> saved;
    if (pre == nullptr) {
      T* const again = scratch.pre.data();
      host::launch(exec, "kokomo::FeedForwardExperts::hidden_again", workers,
                   host::HiddenLayer<T, Activation, Weights, Kernel>{
                       in.rows, in.x, d.width, width, product(w.gate, width), product(w.up, width), w.gate_bias,
                       w.up_bias, again, hidden, activation, in.workers, &kernel});
      saved = {again, again + (parts - 1) * width, parts * width};
    } else {
      saved = {pre + first, pre + (parts - 1) * intermediate + first, parts * intermediate};
    }
    host::launch(exec, "kokomo::FeedForwardExperts::hidden_gradient", workers,
                 host::HiddenGradient<T, Activation, Weights, Kernel>{
                     in.rows, d.d_out, d.width, width, product(w.down.transposed(), width), saved,
                     host::HiddenColumns<T>{d_pre, d_pre + (parts - 1) * width, parts * width}, hidden, d.weight,
                     d.d_weight == nullptr ? nullptr : scratch.along.data() + first / host::partial_columns<C>,
                     partials, activation, in.workers, &kernel, set});

    weight_gradient(d.d_out, d.width, RowSource<T, C>{hidden, width}, width, dw.down);
    RowSource<T, C> d_gate{d_pre, parts * width}, d_up = d_gate;
    d_up.data += (parts - 1) * width;
    if constexpr (gated) {
      weight_gradient(d_gate, width, in.x, d.width, dw.gate);
      bias_gradient(d_gate, width, dw.gate_bias);
    }
    weight_gradient(d_up, width, in.x, d.width, dw.up);
    bias_gradient(d_up, width, dw.up_bias);

    host::launch(exec, "kokomo::FeedForwardExperts::dx", workers,
                 host::InputGradient<T, gated, Weights, Kernel>{
                     in.rows, d_pre, width, d.width, product(w.gate.transposed(), d.width),
                     product(w.up.transposed(), d.width), d.dx, first == 0 ? d.dx_write : Write::add,
                     RowSource<T, C>{in.x.data, in.x.stride, in.x.index},
                     d.d_scale == nullptr ? nullptr : scratch.along.data(), partials,
                     first == 0 ? Write::overwrite : Write::add, in.workers, &kernel});
  }

  auto d_out_weighted = d.d_out;
  d_out_weighted.scale = d.weight;
  bias_gradient(d_out_weighted, d.width, grads.down_bias);
  auto const finish = [&](offset_t columns, BiasRef<T const> const& bias, C* gradient) {
    if (gradient != nullptr)
      for_each(exec, "kokomo::FeedForwardExperts::d_weight", in.rows.rows,
               host::WeightGradient<T>{in.rows, scratch.along.data(), partials,
                                       host::divide_up(columns, host::partial_columns<C>), d.d_out, bias, d.width,
                                       gradient});
  };
  finish(intermediate, weights.down_bias, d.d_weight);
  finish(d.width, BiasRef<T const>{}, d.d_scale);
}

} // namespace kokomo::inline v0::detail

#endif
