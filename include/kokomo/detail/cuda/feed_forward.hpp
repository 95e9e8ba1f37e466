// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_FEED_FORWARD_HPP
#define KOKOMO_DETAIL_CUDA_FEED_FORWARD_HPP

#include <kokomo/detail/cuda/device.hpp>
#include <kokomo/detail/cuda/few_rows.hpp>
#include <kokomo/detail/cuda/products.hpp>
#include <kokomo/detail/cuda/tensor_cores.hpp>
#include <kokomo/detail/product.hpp>

/// Experts of two projections on tensor cores: which kernels run for which operands. Nothing is allocated, nothing waits.
namespace kokomo::inline v0::detail::cuda {

/// f with the storage order of the weights as a constant, which the kernels are compiled for.
template <class F> void with_inner(Inner inner, F const& f) {
  if (inner == Inner::side)
    f(std::integral_constant<Inner, Inner::side>{});
  else
    f(std::integral_constant<Inner, Inner::depth>{});
}

/// out(r, n) (=|+=) scale[r] sum_k a(r, k) b(g, n, k) + bias(g, n).
template <class T, class Exec, class SO>
void product(Exec const& exec, std::string const& label, GroupedRows const& rows, RowReader<T> const& a, offset_t depth,
             WeightRef<T const> const& b, BiasRef<T const> const& bias, offset_t columns, RowTarget<SO> const& out,
             Write write) {
  if (rows.groups == 0 || rows.rows == 0 || columns == 0) return;
  WeightReader<T> const weights(b);
  FewRows<T, 1> const few{rows, a, depth, weights, columns};
  if (has_few_rows(rows) && few.serves()) return launch(exec, label, FewRowsProduct<T, SO>(few, bias, out, write));
  with_inner(weights.inner(), [&](auto inner) {
    RowsTimesWeights<T, ProductTile, inner.value, 1> const tiles(rows, a, depth, weights, columns);
    launch(exec, label, Product<T, SO, ProductTile, inner.value>(tiles, bias, out, write));
  });
}

/// w(g, n, k) (=|+=) sum over the rows r of group g of d(r, n) a(r, k), written along the weights' contiguous index.
template <class T, class Exec>
void outer_product(Exec const& exec, std::string const& label, GroupedRows const& rows, RowReader<T> const& d,
                   offset_t columns, RowReader<T> const& a, offset_t depth, WeightRef<T> const& w, Write write) {
  if (rows.groups == 0 || columns == 0 || depth == 0) return;
  if (w.n_stride == 1 && w.k_stride != 1)
    launch(exec, label, OuterProduct<T, T, ProductTile>(rows, a, depth, d, columns, w.transposed(), write));
  else
    launch(exec, label, OuterProduct<T, T, ProductTile>(rows, d, columns, a, depth, w, write));
}

template <class T, class Exec, class Activation>
void hidden_layer(Exec const& exec, Activation const& activation, offset_t intermediate,
                  FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in, offset_t width, T* pre,
                  T* hidden) {
  constexpr int parts = Activation::gated ? 2 : 1;
  char const* const label = "kokomo::FeedForwardExperts::hidden";
  if (in.rows.groups == 0 || in.rows.rows == 0) return;
  RowReader<T> const x(in.x);
  WeightReader<T> const w(weights.gate, weights.up); // plain experts: the same twice
  HiddenUnit<T, Activation> const unit{weights.gate_bias, weights.up_bias, activation};
  FewRows<T, parts> const few{in.rows, x, width, w, intermediate};
  if (has_few_rows(in.rows) && few.serves())
    return launch(exec, label, FewRowsHiddenLayer<T, Activation>(few, unit, pre, hidden));
  with_inner(w.inner(), [&](auto inner) {
    RowsTimesWeights<T, ProductTile, inner.value, parts> const tiles(in.rows, x, width, w, intermediate);
    launch(exec, label, HiddenLayer<T, Activation, ProductTile, inner.value>(tiles, unit, pre, hidden));
  });
}

template <class T, class Exec, class Activation>
void feed_forward(Exec const& exec, Activation const& activation, offset_t intermediate,
                  FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in, T* pre, T* hidden,
                  Matrix<compute_t<T>, Exec> const& out) {
  auto const width = static_cast<offset_t>(out.extent(1));
  hidden_layer<T>(exec, activation, intermediate, weights, in, width, pre, hidden);
  product<T>(exec, "kokomo::FeedForwardExperts::down", in.rows,
             RowReader<T>(RowSource<T, compute_t<T>>{hidden, intermediate}), intermediate, weights.down,
             weights.down_bias, width, RowTarget<compute_t<T>>{out.data(), width}, Write::overwrite);
}

/// d_weight of a row: its partial sums in order, and the down bias' part.
template <class T> struct RowTotals {
  GroupedRows rows;
  float const* along;
  offset_t partial_sums;
  RowSource<float, float> d_out;
  offset_t width;
  BiasRef<T const> bias;
  float* d_weight;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!rows.contains(row)) return;
    float sum = 0;
    for (offset_t i = 0; i < partial_sums; ++i) sum += along[row * partial_sums + i];
    if (bias.data != nullptr)
      for (offset_t h = 0; h < width; ++h)
        sum += d_out(row, h) * float(bias.data[rows.group_of(row) * bias.group_stride + h * bias.n_stride]);
    d_weight[row] = sum;
  }
};

/// Whether gate and up, with their biases, are one matrix of twice the columns, so that a product over both is one.
template <class S> bool concatenated(FeedForwardMatrices<S> const& m, offset_t intermediate) {
  return m.up.data == m.gate.data + intermediate * m.gate.n_stride && m.up.group_stride == m.gate.group_stride &&
         (m.up_bias.data == nullptr || (m.up_bias.data == m.gate_bias.data + intermediate * m.gate_bias.n_stride &&
                                        m.up_bias.group_stride == m.gate_bias.group_stride));
}

/// One kernel forms the hidden layer's gradient, the weighted hidden layer and the gradient of the rows' weights; then
/// come the weights' gradients, and dx.
template <class T, class Exec, class Activation>
void feed_forward_backward(Exec const& exec, Activation const& activation, offset_t intermediate,
                           FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in,
                           ExpertRowGradients<T, Exec> const& d, FeedForwardMatrices<T> const& grads, Write write,
                           T const* pre, T* hidden, BackwardScratch<T, Exec> const& scratch) {
  constexpr bool gated = Activation::gated;
  constexpr int parts = gated ? 2 : 1;
  auto const width = static_cast<offset_t>(d.dx.extent(1)), columns = parts * intermediate;
  if (in.rows.groups == 0) return;
  auto const& rows = in.rows;
  RowReader<T> const x(in.x), hidden_rows(RowSource<T, float>{hidden, intermediate});

  RowReader<T> d_out(d.d_out); // float32, unless it is gathered: then a token's row is read k times
  if (d.d_out.index != nullptr && d.d_out.stride == width) {
    convert(exec, "kokomo::FeedForwardExperts::d_out", d.d_out.data, scratch.d_out.data(),
            static_cast<offset_t>(scratch.d_out.size()));
    d_out = RowReader<T>(RowSource<T, float>{scratch.d_out.data(), width, d.d_out.index, d.d_out.scale});
  }

  T* const d_pre = scratch.d_pre.data();
  auto const partial_sums = static_cast<offset_t>(scratch.along.extent(1));
  WeightReader<T> const down(weights.down.transposed());
  if (rows.rows > 0)
    with_inner(down.inner(), [&](auto inner) {
      RowsTimesWeights<T, ProductTile, inner.value, 1> const tiles(rows, d_out, width, down, intermediate);
      launch(
          exec, "kokomo::FeedForwardExperts::hidden_gradient",
          HiddenGradient<T, Activation, ProductTile, inner.value>(
              tiles, pre, d_pre, hidden, d.weight, d.d_weight != nullptr ? scratch.along.data() : nullptr, activation));
    });
  if (d.d_weight != nullptr)
    for_each(exec, "kokomo::FeedForwardExperts::d_weight", rows.rows,
             RowTotals<T>{rows, scratch.along.data(), partial_sums, d.d_out, width, weights.down_bias, d.d_weight});

  outer_product<T>(exec, "kokomo::FeedForwardExperts::down_gradient", rows, d_out, width, hidden_rows, intermediate,
                   grads.down, write);
  if (grads.down_bias.data != nullptr) {
    auto weighted = d.d_out;
    weighted.scale = d.weight;
    portable::grouped_row_sum(exec, "kokomo::FeedForwardExperts::down_bias_gradient", rows, weighted, width,
                              grads.down_bias, write);
  }
  auto const project_back = [&](T const* gradient, offset_t of, WeightRef<T const> const& weight,
                                WeightRef<T> const& weight_gradient, BiasRef<T> const& bias_gradient, Write dx_write) {
    RowSource<T, float> const d_rows{gradient, columns};
    outer_product<T>(exec, "kokomo::FeedForwardExperts::up_gradient", rows, RowReader<T>(d_rows), of, x, width,
                     weight_gradient, write);
    if (bias_gradient.data != nullptr)
      portable::grouped_row_sum(exec, "kokomo::FeedForwardExperts::up_bias_gradient", rows, d_rows, of, bias_gradient,
                                write);
    product<T>(exec, "kokomo::FeedForwardExperts::dx", rows, RowReader<T>(d_rows), of, weight.transposed(), {}, width,
               RowTarget<float>{d.dx.data(), width}, dx_write);
  };
  if (gated && concatenated(weights, intermediate) && concatenated(grads, intermediate))
    return project_back(d_pre, columns, weights.gate, grads.gate, grads.gate_bias, Write::overwrite);
  if (gated) project_back(d_pre, intermediate, weights.gate, grads.gate, grads.gate_bias, Write::overwrite);
  project_back(d_pre + (parts - 1) * intermediate, intermediate, weights.up, grads.up, grads.up_bias,
               gated ? Write::add : Write::overwrite);
}

} // namespace kokomo::inline v0::detail::cuda

#endif
