// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_QUANTIZED_HPP
#define KOKOMO_EXPERTS_QUANTIZED_HPP

#include <kokomo/detail/host/quantized_panels.hpp>
#include <kokomo/experts/feed_forward.hpp>
#include <kokomo/quantization/tensor.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T> struct CopyBias {
  BiasRef<T> from, to;
  offset_t rows;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const g = i / rows, n = i % rows;
    to.data[g * to.group_stride + n * to.n_stride] = from.data[g * from.group_stride + n * from.n_stride];
  }
};

} // namespace detail

/// Experts of two projections, as FeedForwardExperts, whose weights are stored quantised. For inference: there is no
/// backward. What they compute is what FeedForwardExperts compute with the dequantised weights, up to the order of sums.
///
/// Parameters, by `gate_up`; codes, scales and zeros as QuantizedTensor has them, groups along the input:
///
///     gate_up_codes, gate_up_scales (, gate_up_zeros) of [E, 2I, H], or gate_* and up_* of [E, I, H]; down_* of [E, H, I]
///     with `bias`: gate_up_bias [E, 2I], or gate_bias and up_bias [E, I]; down_bias [E, H], in the storage type
///
/// \tparam FormatT Int8<>, Int4, Int4ZeroPoint, Mxfp4, Fp8Blocks
/// \throws kokomo::Error 101 unless intermediate >= 1; 109 for interleaved rows that share scales, and for int8
///         activations of a format without integers
template <class ActivationT, class FormatT = Int8<>> struct QuantizedExperts {
  using Activation = ActivationT;
  using Format = FormatT;
  static constexpr bool gated = Activation::gated;

  offset_t intermediate = 0; ///< I, >= 1
  bool bias = false;
  GateUp gate_up = GateUp::concatenated; ///< ignored by plain experts
  Activations activations = Activations::as_stored;
  Activation activation{};

  template <class T, class Exec> struct Parameters {
    QuantizedTensor<Format, Exec> gate_up, gate, up, down;
    OwnedMatrix<T, Exec> gate_up_bias, gate_bias, up_bias, down_bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, QuantizedExperts const& policy, Sizes const& sizes) {
      std::string const name = "kokomo::QuantizedExperts::";
      auto const matrix = [&](auto& weight, char const* label, offset_t parts, offset_t out, offset_t in) {
        weight = QuantizedTensor<Format, Exec>(allocate, name + label, sizes.weighted, parts, out, in);
      };
      auto const vector = [&](auto& bias, char const* label, offset_t out) {
        allocate(bias, name + label, sizes.weighted, out);
      };
      offset_t const width = policy.intermediate;
      bool const fused = gated && policy.gate_up != GateUp::separate;
      if (fused) matrix(gate_up, "gate_up", 2, width, sizes.hidden);
      if (gated && !fused) matrix(gate, "gate", 1, width, sizes.hidden);
      if (!fused) matrix(up, "up", 1, width, sizes.hidden);
      matrix(down, "down", 1, sizes.hidden, width);
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
      visit("gate_up_codes", gate_up.codes), visit("gate_up_scales", gate_up.scales);
      visit("gate_up_zeros", gate_up.zeros);
      visit("gate_codes", gate.codes), visit("gate_scales", gate.scales), visit("gate_zeros", gate.zeros);
      visit("up_codes", up.codes), visit("up_scales", up.scales), visit("up_zeros", up.zeros);
      visit("down_codes", down.codes), visit("down_scales", down.scales), visit("down_zeros", down.zeros);
      visit("gate_up_bias", gate_up_bias), visit("gate_bias", gate_bias), visit("up_bias", up_bias);
      visit("down_bias", down_bias);
    }
  };

  template <class T, class Exec> struct Scratch {
    Matrix<T, Exec> pre;    ///< [rows, 2I or I] pre-activations; none on a host, where they stay in registers
    Matrix<T, Exec> hidden; ///< [rows, I]

    Scratch(detail::Arena& arena, QuantizedExperts const& policy, Sizes const& sizes)
        : pre(arena.matrix<T, Exec>(blocked<T, Exec> ? 0 : sizes.entries, (gated ? 2 : 1) * policy.intermediate)),
          hidden(arena.matrix<T, Exec>(sizes.entries, policy.intermediate)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(intermediate >= 1, 101, "experts' intermediate size = ", intermediate, ", expected >= 1");
    detail::require(!gated || gate_up != GateUp::interleaved || Format::row_block == 1, 109, "gate_up = interleaved, ",
                    "expected concatenated or separate for a format whose scales cover ", Format::row_block, " rows");
    detail::require(activations == Activations::as_stored || Format::integers, 109,
                    "activations = int8, expected as_stored for a format whose codes are no integers");
    detail::check_settings(activation, sizes);
  }
  index_t routed(index_t weighted) const { return weighted; }

  /// Quantises the weights of `from`, whatever their storage order, and copies the biases. Rounds to nearest, ties to
  /// even, within the bound that the format states. Asynchronous on exec; the same bits for any number of threads.
  template <class T, class Exec>
  void quantize(Exec const& exec, FeedForwardExperts<Activation> const& settings,
                typename FeedForwardExperts<Activation>::template Parameters<T, Exec> const& from,
                Parameters<T, Exec> const& to) const {
    auto const width = to.down.codes.extent(1);
    check_same(settings, from, to);
    auto const fill = [&](detail::Projection<T> const& p, auto const& projection, auto const& tensor, offset_t rows,
                          offset_t columns) {
      detail::WeightRef<T const> const weight = p.weight;
      tensor.quantize(exec, weight, rows, columns, projection.first, projection.step);
      if (bias)
        detail::for_each(exec, "kokomo::QuantizedExperts::bias", offset_t(to.down.codes.extent(0)) * rows,
                         detail::CopyBias<T>{p.bias, projection.bias, rows});
    };
    if constexpr (gated) {
      auto const gate = gate_part(to);
      fill(settings.gate_projection(from, width), gate, *gate.tensor, intermediate, width);
    }
    auto const up = up_part(to), down = down_part(to);
    fill(settings.up_projection(from, width), up, *up.tensor, intermediate, width);
    fill(settings.down_projection(from, width), down, *down.tensor, width, intermediate);
  }

  /// out[r] = expert(x row r), without any weight; rows that belong to no expert are not touched.
  /// \param[out] out [rows, width]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Nothing const&, Scratch<T, Exec> const& scratch) const {
    auto const width = static_cast<offset_t>(out.extent(1));
    if constexpr (blocked<T, Exec>)
      forward_blocked(exec, parameters, in, {.data = out.data(), .summed = false}, width, scratch);
    else
      forward_by_element(exec, parameters, in, out, width, scratch);
  }

  /// The same, each row weighted and added to its token's sum, on a host.
  template <class T, class Exec>
  requires(detail::runs_on_host_v<Exec> &&
           !std::is_same_v<T, double>) void forward_combined(Exec const& exec, Parameters<T, Exec> const& parameters,
                                                             ExpertRows<T, Exec> const& in,
                                                             detail::CombinedRows<float> const& out, offset_t width,
                                                             Nothing const&, Scratch<T, Exec> const& scratch) const {
    forward_blocked(exec, parameters, in, out, width, scratch);
  }

private:
  template <class T, class Exec>
  static constexpr bool blocked = detail::runs_on_host_v<Exec> && !std::is_same_v<T, double>;

  /// Rows first, first + step, ... of a tensor, and their bias.
  template <class T, class Exec> struct Part {
    QuantizedTensor<Format, Exec> const* tensor;
    offset_t first, step;
    detail::BiasRef<T> bias;

    detail::QuantizedRef<Format> weight() const { return tensor->matrix(first, step); }
    detail::BiasRef<T const> constant_bias() const { return {bias.data, bias.group_stride, bias.n_stride}; }
  };
  template <class T, class Exec> Part<T, Exec> fused_part(Parameters<T, Exec> const& p, int part) const {
    bool const alternate = gate_up == GateUp::interleaved;
    offset_t const first = alternate ? part : part * intermediate;
    T* const bias_data = p.gate_up_bias.data();
    return {&p.gate_up,
            first,
            alternate ? 2 : 1,
            {bias_data == nullptr ? nullptr : bias_data + first, 2 * intermediate, alternate ? 2 : 1}};
  }
  template <class T, class Exec> Part<T, Exec> gate_part(Parameters<T, Exec> const& p) const {
    if (gate_up != GateUp::separate) return fused_part(p, 0);
    return {&p.gate, 0, 1, {p.gate_bias.data(), intermediate, 1}};
  }
  template <class T, class Exec> Part<T, Exec> up_part(Parameters<T, Exec> const& p) const {
    if (gated && gate_up != GateUp::separate) return fused_part(p, 1);
    return {&p.up, 0, 1, {p.up_bias.data(), intermediate, 1}};
  }
  template <class T, class Exec> Part<T, Exec> down_part(Parameters<T, Exec> const& p) const {
    return {&p.down, 0, 1, {p.down_bias.data(), offset_t(p.down.codes.extent(1)), 1}};
  }

  template <class Source, class From, class To>
  void check_same(Source const& settings, From const& from, To const& to) const {
    detail::require(settings.intermediate == intermediate && settings.bias == bias, 202,
                    "experts to quantise have intermediate size ", settings.intermediate,
                    settings.bias ? " and biases" : " and no biases", ", expected ", intermediate,
                    bias ? " and biases" : " and no biases");
    auto const experts = to.down.codes.extent(0), width = to.down.codes.extent(1);
    bool const out_in = settings.down_order == WeightOrder::out_in;
    detail::require(from.down.extent(0) == experts && from.down.extent(out_in ? 1 : 2) == width, 202,
                    "experts to quantise have down of extents [", from.down.extent(0), ", ", from.down.extent(1), ", ",
                    from.down.extent(2), "], expected ", experts, " experts of width ", width);
  }

  template <class T, class Exec>
  void forward_blocked(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                       detail::CombinedRows<float> const& out, offset_t width, Scratch<T, Exec> const& scratch) const {
    using Weights = detail::host::QuantizedWeights<Format>;
    using Kernel = detail::host::QuantizedKernel<Format>;
    auto const set = detail::host::instruction_set();
    Kernel const& kernel = detail::host::quantized_kernel<Format>(set, activations);
    auto const weights = [&](Part<T, Exec> const& part, offset_t columns, offset_t depth) {
      return Weights{part.weight(), columns, depth, kernel.columns, set, in.rows};
    };
    auto const up = up_part(parameters), down = down_part(parameters);
    auto gate = up;
    if constexpr (gated) gate = gate_part(parameters);
    detail::host::feed_forward<T>(exec, kernel, in.rows, in.x, width, intermediate,
                                  detail::host::FeedForwardWeights<T, Weights>{
                                      weights(gate, intermediate, width), weights(up, intermediate, width),
                                      weights(down, width, intermediate), gate.constant_bias(), up.constant_bias(),
                                      down.constant_bias()},
                                  activation, static_cast<T*>(nullptr), scratch.hidden.data(), out, in.workers);
  }

  template <class T, class Exec>
  void forward_by_element(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                          Matrix<compute_t<T>, Exec> const& out, offset_t width,
                          Scratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const product = [&](char const* label, auto const& a, offset_t depth, Part<T, Exec> const& part,
                             detail::BiasRef<T const> const& bias, offset_t columns, auto const& target) {
      using Target = std::remove_pointer_t<decltype(target.data)>;
      detail::for_each(exec, label, in.rows.groups == 0 ? 0 : in.rows.rows * columns,
                       detail::QuantizedProduct<Format, T, C, T, Target>{in.rows, a, depth, part.weight(), bias,
                                                                         columns, target, activations});
    };
    auto const up = up_part(parameters), down = down_part(parameters);
    detail::RowTarget<T> pre{scratch.pre.data(), static_cast<offset_t>(scratch.pre.extent(1))};
    detail::BiasRef<T const> gate_bias;
    if constexpr (gated) {
      auto const gate = gate_part(parameters);
      gate_bias = gate.constant_bias();
      product("kokomo::QuantizedExperts::gate", in.x, width, gate, {}, intermediate, pre);
      pre.data += intermediate;
    }
    product("kokomo::QuantizedExperts::up", in.x, width, up, {}, intermediate, pre);
    detail::for_each(exec, "kokomo::QuantizedExperts::activate", in.rows.rows,
                     detail::Activate<T, Activation>{in.rows, scratch.pre.data(), scratch.hidden.data(), intermediate,
                                                     gate_bias, up.constant_bias(), activation});
    product("kokomo::QuantizedExperts::down", detail::RowSource<T, C>{scratch.hidden.data(), intermediate},
            intermediate, down, down.constant_bias(), width, detail::RowTarget<C>{out.data(), width});
  }
};

} // namespace kokomo::inline v0

#endif
