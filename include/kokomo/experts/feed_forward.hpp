// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_FEED_FORWARD_HPP
#define KOKOMO_EXPERTS_FEED_FORWARD_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/activate.hpp>
#include <kokomo/detail/cuda/tensor_cores.hpp>
#include <kokomo/detail/feed_forward_backward.hpp>
#include <kokomo/detail/host/feed_forward.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/detail/product.hpp>
#include <kokomo/error.hpp>
#include <kokomo/expert_rows.hpp>
#include <kokomo/experts/activation.hpp>

#if defined(KOKKOS_ENABLE_CUDA)
#include <kokomo/detail/cuda/feed_forward.hpp>
#endif

namespace kokomo::inline v0 {

/// How gate and up projections lie in memory.
enum class GateUp {
  concatenated, ///< one tensor, I gate rows and then I up rows
  interleaved,  ///< one tensor, gate and up rows alternate
  separate      ///< two tensors
};

/// Which index of a weight is the row: y = x W^T, or y = x W.
enum class WeightOrder { out_in, in_out };

/// What forward keeps for backward.
enum class Save {
  pre_activations, ///< of the hidden layer
  inputs           ///< nothing of its own: backward computes the pre-activations again
};

/// What computes products of 16-bit storage types on a GPU. Elsewhere there is no choice.
enum class Products {
  tensor_cores, ///< of sm_80 and later, on a device that has them
  portable      ///< one thread an element
};

namespace detail {

/// A weight and its bias as operands of grouped products.
template <class T> struct Projection {
  WeightRef<T> weight;
  BiasRef<T> bias;
};

} // namespace detail

/// Experts of two projections and an activation between: down(value(gate(x), up(x))), gated or plain.
///
/// Parameters, E experts of intermediate size I on inputs of width H, by `up_order` (out_in as written; in_out with the
/// last two axes exchanged) and `gate_up`:
///
///     gate_up [E, 2I, H], or gate and up [E, I, H]; only up for plain experts;  down [E, H, I] by `down_order`
///     with `bias`: gate_up_bias [E, 2I], or gate_bias and up_bias [E, I];       down_bias [E, H]
///
/// Products accumulate in float32 (float64 for double) and store the pre-activations in the storage type: they are all
/// that forward saves for backward, and with Save::inputs not even they. The weight's gradient comes from the hidden
/// layer, so no output row is kept.
/// \throws kokomo::Error 101 unless intermediate >= 1
template <class ActivationT> struct FeedForwardExperts {
  using Activation = ActivationT;
  static constexpr bool gated = Activation::gated;

  offset_t intermediate = 0; ///< I, >= 1
  bool bias = false;
  GateUp gate_up = GateUp::concatenated; ///< ignored by plain experts
  WeightOrder up_order = WeightOrder::out_in;
  WeightOrder down_order = WeightOrder::out_in;
  Activation activation{};
  Save save = Save::pre_activations;
  Products products = Products::tensor_cores;

  template <class T, class Exec> struct Parameters {
    OwnedTensor<T, Exec> gate_up, gate, up, down;
    OwnedMatrix<T, Exec> gate_up_bias, gate_bias, up_bias, down_bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, FeedForwardExperts const& policy, Sizes const& sizes) {
      std::string const name = "kokomo::FeedForwardExperts::";
      auto const matrix = [&](auto& weight, char const* label, offset_t out, offset_t in, WeightOrder order) {
        bool const out_in = order == WeightOrder::out_in;
        allocate(weight, name + label, sizes.weighted, out_in ? out : in, out_in ? in : out);
      };
      auto const vector = [&](auto& bias, char const* label, offset_t out) {
        allocate(bias, name + label, sizes.weighted, out);
      };
      offset_t const width = policy.intermediate;
      bool const fused = gated && policy.gate_up != GateUp::separate;
      if (fused) matrix(gate_up, "gate_up", 2 * width, sizes.hidden, policy.up_order);
      if (gated && !fused) matrix(gate, "gate", width, sizes.hidden, policy.up_order);
      if (!fused) matrix(up, "up", width, sizes.hidden, policy.up_order);
      matrix(down, "down", sizes.hidden, width, policy.down_order);
      if (!policy.bias) return;
      if (fused) vector(gate_up_bias, "gate_up_bias", 2 * width);
      if (gated && !fused) vector(gate_bias, "gate_bias", width);
      if (!fused) vector(up_bias, "up_bias", width);
      vector(down_bias, "down_bias", sizes.hidden);
    }

    template <class F> void for_each(F&& f, std::string_view prefix) const {
      auto const visit = [&](char const* name, auto const& view) {
        if (view.extent(0) > 0) f(Name{prefix, name}, view);
      };
      visit("gate_up", gate_up), visit("gate", gate), visit("up", up), visit("down", down);
      visit("gate_up_bias", gate_up_bias), visit("gate_bias", gate_bias), visit("up_bias", up_bias);
      visit("down_bias", down_bias);
    }
  };

  template <class T, class Exec> struct Saved {
    Matrix<T, Exec> pre; ///< [rows, 2I or I] pre-activations: gate, then up; none with Save::inputs

    Saved(detail::Arena& arena, FeedForwardExperts const& policy, Sizes const& sizes)
        : pre(arena.matrix<T, Exec>(policy.recomputes() ? 0 : sizes.entries, parts * policy.intermediate)) {}
  };
  template <class T, class Exec> struct Scratch {
    Matrix<T, Exec> hidden; ///< [rows, I]
    Matrix<T, Exec> pre;    ///< what `forward` does not save

    Scratch(detail::Arena& arena, FeedForwardExperts const& policy, Sizes const& sizes)
        : hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)),
          pre(arena.matrix<T, Exec>(policy.recomputes() ? sizes.entries : 0, parts * policy.intermediate)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    Matrix<T, Exec> hidden; ///< [rows, I]
    Matrix<T, Exec> pre;    ///< [rows, 2I or I] where forward did not save them
    // of the portable products
    Matrix<compute_t<T>, Exec> d_hidden; ///< [rows, I]
    Matrix<compute_t<T>, Exec> d_pre;    ///< [rows, 2I or I]
    detail::cuda::BackwardScratch<T, Exec> tensor_cores;

    BackwardScratch(detail::Arena& arena, FeedForwardExperts const& policy, Sizes const& sizes)
        : BackwardScratch(arena, policy, sizes, policy.template on_tensor_cores<T, Exec>()) {}

  private:
    BackwardScratch(detail::Arena& arena, FeedForwardExperts const& policy, Sizes const& sizes, bool tiles)
        : hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)),
          pre(arena.matrix<T, Exec>(policy.recomputes() ? sizes.entries : 0, parts * policy.intermediate)),
          d_hidden(arena.matrix<compute_t<T>, Exec>(tiles ? 0 : sizes.entries, policy.intermediate)),
          d_pre(arena.matrix<compute_t<T>, Exec>(tiles ? 0 : sizes.entries, parts * policy.intermediate)),
          tensor_cores(arena, tiles ? sizes.entries : 0, tiles ? sizes.tokens : 0, sizes.hidden, policy.intermediate,
                       parts) {}
  };
  template <class T, class Exec> struct CombinedBackwardScratch : detail::SliceScratch<T, Exec> {
    CombinedBackwardScratch(detail::Arena& arena, FeedForwardExperts const& policy, Sizes const& sizes)
        : detail::SliceScratch<T, Exec>(arena, sizes.entries, sizes.hidden, policy.intermediate, parts,
                                        policy.recomputes()) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(intermediate >= 1, 101, "experts' intermediate size = ", intermediate, ", expected >= 1");
    detail::check_settings(activation, sizes);
  }
  /// Experts that can be chosen, of which `weighted` have parameters.
  index_t routed(index_t weighted) const { return weighted; }
  bool recomputes() const { return save == Save::inputs; }
  template <class T, class Exec> bool on_tensor_cores() const {
    return detail::cuda::has_tensor_cores_v<T, Exec> && products == Products::tensor_cores;
  }

  /// out[r] = expert(x row r), without any weight; rows that belong to no expert are not touched.
  /// \param[out] out [rows, width]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    auto const width = static_cast<offset_t>(out.extent(1));
    if constexpr (detail::cuda::has_tensor_cores_v<T, Exec>)
      if (on_tensor_cores<T, Exec>())
        return detail::cuda::feed_forward<T>(exec, activation, intermediate, matrices<T const>(parameters, width), in,
                                             recomputes() ? nullptr : saved.pre.data(), scratch.hidden.data(), out);
    auto const down = down_projection(parameters, width);
    hidden_layer(exec, parameters, in, width, recomputes() ? scratch.pre : saved.pre, scratch.hidden);
    detail::grouped_product(exec, "kokomo::FeedForwardExperts::down", in.rows, hidden_rows<T>(scratch.hidden.data()),
                            intermediate, constant(down.weight), constant(down.bias), width,
                            detail::RowTarget<compute_t<T>>{out.data(), width}, Write::overwrite, in.workers);
  }

  /// The same, each row weighted and added to its token's sum: what a host does in two launches, without the rows ever
  /// lying in memory.
  template <class T, class Exec>
  requires(detail::blocked_v<Exec, T>) void forward_combined(Exec const& exec, Parameters<T, Exec> const& parameters,
                                                             ExpertRows<T, Exec> const& in,
                                                             detail::CombinedRows<compute_t<T>> const& out,
                                                             offset_t width, Saved<T, Exec> const& saved,
                                                             Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    using Weights = detail::host::UnpackedWeights<T, C>;
    auto const& kernel = detail::host::microkernel<C>(detail::host::instruction_set());
    auto const weights = [&](detail::Projection<T> const& p, offset_t columns) {
      return Weights{constant(p.weight), columns, kernel.columns};
    };
    auto const up = up_projection(parameters, width), down = down_projection(parameters, width);
    auto gate = up;
    if constexpr (gated) gate = gate_projection(parameters, width);
    detail::host::feed_forward<T>(exec, kernel, in.rows, in.x, width, intermediate,
                                  detail::host::FeedForwardWeights<T, Weights>{
                                      weights(gate, intermediate), weights(up, intermediate), weights(down, width),
                                      constant(gate.bias), constant(up.bias), constant(down.bias)},
                                  activation, recomputes() ? nullptr : saved.pre.data(), scratch.hidden.data(), out,
                                  in.workers);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = static_cast<offset_t>(d.dx.extent(1));
    if constexpr (detail::cuda::has_tensor_cores_v<T, Exec>)
      if (on_tensor_cores<T, Exec>()) {
        auto const weights = matrices<T const>(parameters, width);
        auto const hidden = scratch.hidden.data();
        auto const pre = recomputes() ? scratch.pre.data() : saved.pre.data();
        if (recomputes())
          detail::cuda::hidden_layer<T>(exec, activation, intermediate, weights, in, width, pre, hidden);
        return detail::cuda::feed_forward_backward<T>(exec, activation, intermediate, weights, in, d,
                                                      matrices<T>(grads, width), write, pre, hidden,
                                                      scratch.tensor_cores);
      }
    auto const up = up_projection(parameters, width), d_up = up_projection(grads, width);
    auto const down = down_projection(parameters, width), d_down = down_projection(grads, width);
    auto const pre = recomputes() ? scratch.pre : saved.pre;
    if (recomputes()) hidden_layer(exec, parameters, in, width, pre, scratch.hidden);
    auto d_out_weighted = d.d_out;
    d_out_weighted.scale = d.weight;

    detail::grouped_product(exec, "kokomo::FeedForwardExperts::d_hidden", in.rows, d.d_out, width,
                            constant(down.weight.transposed()), detail::BiasRef<T const>{}, intermediate,
                            detail::RowTarget<C>{scratch.d_hidden.data(), intermediate}, Write::overwrite, in.workers);
    detail::for_each(exec, "kokomo::FeedForwardExperts::activate_backward", in.rows.rows,
                     detail::ActivateBackward<T, Activation>{
                         in.rows, pre.data(), scratch.d_hidden.data(), scratch.d_pre.data(), scratch.hidden.data(),
                         intermediate, d.d_out, constant(down.bias), width, d.weight, d.d_weight, activation});
    detail::grouped_outer_product(exec, "kokomo::FeedForwardExperts::down_gradient", in.rows, d.d_out, width,
                                  hidden_rows<T>(scratch.hidden.data()), intermediate, d_down.weight, write,
                                  in.workers);
    if (bias)
      detail::grouped_row_sum(exec, "kokomo::FeedForwardExperts::down_bias_gradient", in.rows, d_out_weighted, width,
                              d_down.bias, write);

    offset_t const columns = (gated ? 2 : 1) * intermediate;
    detail::RowSource<C, C> d_pre{scratch.d_pre.data(), columns};
    auto const project_back = [&](detail::Projection<T> const& p, detail::Projection<T> const& gradient,
                                  Write dx_write) {
      detail::grouped_outer_product(exec, "kokomo::FeedForwardExperts::up_gradient", in.rows, d_pre, intermediate, in.x,
                                    width, gradient.weight, write, in.workers);
      if (bias)
        detail::grouped_row_sum(exec, "kokomo::FeedForwardExperts::up_bias_gradient", in.rows, d_pre, intermediate,
                                gradient.bias, write);
      detail::grouped_product(exec, "kokomo::FeedForwardExperts::dx", in.rows, d_pre, intermediate,
                              constant(p.weight.transposed()), detail::BiasRef<T const>{}, width,
                              detail::RowTarget<C>{d.dx.data(), width}, dx_write, in.workers);
    };
    if constexpr (gated) {
      project_back(gate_projection(parameters, width), gate_projection(grads, width), Write::overwrite);
      d_pre.data += intermediate;
    }
    project_back(up, d_up, gated ? Write::add : Write::overwrite);
  }

  /// Which kernels run, in words.
  template <class T, class Exec> std::string describe() const {
    if (on_tensor_cores<T, Exec>()) return detail::cuda::describe();
    if constexpr (!detail::runs_on_host_v<Exec>) return "one thread an element";
    return "panels packed at each call, rows summed by owners of columns; " +
           detail::host::to_text(detail::host::microkernel<compute_t<T>>(detail::host::instruction_set()));
  }

  /// Gate, up and down weights of all experts on inputs of `width`, whatever their storage.
  template <class T, class Exec>
  detail::Projection<T> gate_projection(Parameters<T, Exec> const& p, offset_t width) const {
    if (gate_up != GateUp::separate) return fused_part<T>(p, width, 0);
    return whole<T>(p.gate, p.gate_bias, intermediate, width, up_order);
  }
  template <class T, class Exec>
  detail::Projection<T> up_projection(Parameters<T, Exec> const& p, offset_t width) const {
    if (gated && gate_up != GateUp::separate) return fused_part<T>(p, width, 1);
    return whole<T>(p.up, p.up_bias, intermediate, width, up_order);
  }
  template <class T, class Exec>
  detail::Projection<T> down_projection(Parameters<T, Exec> const& p, offset_t width) const {
    return whole<T>(p.down, p.down_bias, width, intermediate, down_order);
  }

  /// The same, the rows' gradients summed up by token: what a host does without them ever lying in memory.
  template <class T, class Exec>
  requires(detail::blocked_v<Exec, T>) void backward_combined(Exec const& exec, Parameters<T, Exec> const& parameters,
                                                              ExpertRows<T, Exec> const& in,
                                                              CombinedRowGradients<T, Exec> const& d,
                                                              Parameters<T, Exec> const& grads, Write write,
                                                              Saved<T, Exec> const& saved,
                                                              CombinedBackwardScratch<T, Exec> const& scratch) const {
    detail::feed_forward_backward<T>(exec, activation, intermediate, matrices<T const>(parameters, d.width), in, d,
                                     matrices<T>(grads, d.width), write, recomputes() ? nullptr : saved.pre.data(),
                                     scratch);
  }

private:
  static constexpr int parts = gated ? 2 : 1;

  template <class T, class Exec>
  void hidden_layer(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                    offset_t width, Matrix<T, Exec> const& pre, Matrix<T, Exec> const& hidden) const {
    auto const up = up_projection(parameters, width);
    detail::RowTarget<T> target{pre.data(), static_cast<offset_t>(pre.extent(1))};
    detail::BiasRef<T const> gate_bias;
    if constexpr (gated) {
      auto const gate = gate_projection(parameters, width);
      gate_bias = constant(gate.bias);
      detail::grouped_product(exec, "kokomo::FeedForwardExperts::gate", in.rows, in.x, width, constant(gate.weight),
                              detail::BiasRef<T const>{}, intermediate, target, Write::overwrite, in.workers);
      target.data += intermediate;
    }
    detail::grouped_product(exec, "kokomo::FeedForwardExperts::up", in.rows, in.x, width, constant(up.weight),
                            detail::BiasRef<T const>{}, intermediate, target, Write::overwrite, in.workers);
    detail::for_each(exec, "kokomo::FeedForwardExperts::activate", in.rows.rows,
                     detail::Activate<T, Activation>{in.rows, pre.data(), hidden.data(), intermediate, gate_bias,
                                                     constant(up.bias), activation});
  }

  template <class S, class T, class Exec>
  detail::FeedForwardMatrices<S> matrices(Parameters<T, Exec> const& p, offset_t width) const {
    auto const up = up_projection(p, width), down = down_projection(p, width);
    auto gate = up;
    if constexpr (gated) gate = gate_projection(p, width);
    auto const bias = [](detail::BiasRef<T> const& b) {
      return detail::BiasRef<S>{b.data, b.group_stride, b.n_stride};
    };
    return {gate.weight, up.weight, down.weight, bias(gate.bias), bias(up.bias), bias(down.bias)};
  }

  template <class T> static detail::WeightRef<T const> constant(detail::WeightRef<T> const& w) { return w; }
  template <class T> static detail::BiasRef<T const> constant(detail::BiasRef<T> const& b) {
    return {b.data, b.group_stride, b.n_stride};
  }
  template <class T> detail::RowSource<T, compute_t<T>> hidden_rows(T const* hidden) const {
    return {hidden, intermediate};
  }

  /// Part 0 (gate) or 1 (up) of a fused tensor, whatever its storage.
  template <class T, class P> detail::Projection<T> fused_part(P const& parameters, offset_t width, int part) const {
    bool const out_in = up_order == WeightOrder::out_in, alternate = gate_up == GateUp::interleaved;
    offset_t const n = out_in ? width : 1, first = alternate ? part : part * intermediate;
    return {{parameters.gate_up.data() + first * n, 2 * intermediate * width, alternate ? 2 * n : n,
             out_in ? 1 : 2 * intermediate},
            {parameters.gate_up_bias.data() == nullptr ? nullptr : parameters.gate_up_bias.data() + first,
             2 * intermediate, alternate ? 2 : 1}};
  }
  template <class T, class M, class V>
  static detail::Projection<T> whole(M const& weight, V const& bias, offset_t out, offset_t in, WeightOrder order) {
    bool const out_in = order == WeightOrder::out_in;
    return {{weight.data(), out * in, out_in ? in : 1, out_in ? 1 : out}, {bias.data(), out, 1}};
  }
};

using SwiGluExperts = FeedForwardExperts<SwiGlu>;
using GeGluExperts = FeedForwardExperts<GeGlu>;
using GeGluTanhExperts = FeedForwardExperts<GeGluTanh>;
using ReGluExperts = FeedForwardExperts<ReGlu>;
using ClampedSwiGluExperts = FeedForwardExperts<ClampedSwiGlu>;
using SoftcappedSwiGluExperts = FeedForwardExperts<SoftcappedSwiGlu>;
using ReluExperts = FeedForwardExperts<Plain<Relu>>;
using SquaredReluExperts = FeedForwardExperts<Plain<SquaredRelu>>;
/// Gated or plain experts whose activation a configuration names.
using AnyGluExperts = FeedForwardExperts<Glu<AnyActivation>>;
using AnyPlainExperts = FeedForwardExperts<Plain<AnyActivation>>;

} // namespace kokomo::inline v0

#endif
