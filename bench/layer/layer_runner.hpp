// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_LAYER_LAYER_RUNNER_HPP
#define KOKOMO_BENCH_LAYER_LAYER_RUNNER_HPP

#include <layer/runner.hpp>
#include <support/loads.hpp>
#include <support/phases.hpp>
#include <support/random.hpp>

#include <kokomo/experts/packed.hpp>
#include <kokomo/layer.hpp>

#include <cmath>
#include <limits>
#include <optional>
#include <tuple>

namespace bench {

/// Softmax over all experts, top-k, weights normalised over the chosen, SwiGLU experts: the layer of Mixtral, Qwen3-MoE
/// and, but for the normalisation, OLMoE.
template <class T> class LayerRunner : public Runner {
public:
  using Exec = Kokkos::DefaultHostExecutionSpace;
  template <class Experts>
  using LayerOf = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::TopK<>>, kokomo::SoftmaxGate,
                                kokomo::NoBalancer, Experts, T, Exec>;
  using Layer = LayerOf<kokomo::SwiGluExperts>;
  using PackedLayer = LayerOf<kokomo::Packed<kokomo::SwiGluExperts>>;

  explicit LayerRunner(Dimensions const& shape) : m_shape(shape) {
    auto const layer = make_layer<Layer>(1);
    m_parameters = layer.make_parameters(m_exec);
    double const scale = 1 / std::sqrt(double(shape.hidden));
    fill_uniform(m_parameters.router.weight, 1, scale);
    fill_uniform(m_parameters.experts.gate_up, 2, scale);
    fill_uniform(m_parameters.experts.down, 3, 1 / std::sqrt(double(shape.intermediate)));
  }

  std::string kernel() const override { return make_layer<Layer>(1).describe(); }

  Measurement measure(Request const& request) override {
    if (!request.packed) return measure(make_layer<Layer>(request.tokens), m_parameters, request);
    auto const layer = make_layer<PackedLayer>(request.tokens);
    if (!m_packed) {
      m_packed = layer.make_parameters(m_exec);
      m_packed->router = m_parameters.router;
      auto const timing = time_calls(0, 1, [&] {
        layer.policies().experts.template pack<T>(m_exec, m_parameters.experts, m_packed->experts);
        m_exec.fence();
      });
      m_pack_ms = timing.median();
    }
    Measurement result = measure(layer, *m_packed, request);
    result.pack_ms = m_pack_ms;
    return result;
  }

private:
  using Matrix = Kokkos::View<T**, Kokkos::LayoutRight, Kokkos::HostSpace>;

  template <class L>
  Measurement measure(L const& layer, typename L::Parameters const& parameters, Request const& request) {
    kokomo::Plan const plan = layer.plan(m_exec);
    kokomo::Workspace<Exec> const workspace(m_exec, plan);
    kokomo::Tape<Exec> tape(m_exec, plan);
    std::vector<Matrix> batches;
    int const count = routings(request.load, m_shape, request.tokens);
    for (int routing = 0; routing < count; ++routing) batches.push_back(batch(request, routing));
    Matrix const y = matrix(request.tokens), dy = matrix(request.train ? request.tokens : 0),
                 dx = matrix(request.train ? request.tokens : 0);
    if (request.train) fill_uniform(dy, 5, 1);
    if (request.train && !m_gradients) m_gradients = make_layer<Layer>(1).make_parameters(m_exec);

    typename L::State const state = layer.make_state(m_exec);
    auto const forward = [&](Matrix const& x) {
      typename L::Inputs inputs;
      inputs.x = x;
      inputs.mode = request.train ? kokomo::Mode::training : kokomo::Mode::inference;
      layer.forward(m_exec, parameters, state, inputs, y, workspace, tape);
    };
    Measurement result = m_examined[{request.tokens, request.load, request.packed}];
    if (result.active == 0) {
      for (Matrix const& x : batches) {
        forward(x);
        m_exec.fence();
        count_rows(layer.saved(tape).assignment, 1.0 / count, result);
      }
      result.error = error_of_last_token(layer, tape, batches.back(), y);
      m_examined[{request.tokens, request.load, request.packed}] = result;
    }

    std::size_t next = 0;
    auto const call = [&] {
      Matrix const& x = batches[next++ % batches.size()];
      forward(x);
      if constexpr (std::is_same_v<L, Layer>) // packed experts only infer
        if (request.train) layer.backward(m_exec, parameters, state, x, dy, dx, *m_gradients, workspace, tape);
      m_exec.fence();
    };
    result.timing = time_calls(request.seconds, request.least, call);
    if (request.phases) {
      std::size_t const calls = std::min<std::size_t>(result.timing.ms.size(), 20);
      Phases phases;
      for (std::size_t i = 0; i < calls; ++i) call();
      for (auto const& [label, ms] : phases.ms()) result.phases[label] = ms / double(calls);
    }

    double const expert_bytes = m_shape.expert_weights() * sizeof(T);
    result.routings = count;
    result.flops = m_shape.flops(request.tokens) * (request.train ? 3 : 1);
    result.read_bytes = result.active * expert_bytes;
    // backward reads the weights once more and writes the gradients of all experts
    result.bytes = request.train ? 2 * result.read_bytes + double(m_shape.experts) * expert_bytes : result.read_bytes;
    result.workspace_bytes = plan.workspace_bytes;
    result.tape_bytes = plan.tape_bytes;
    return result;
  }

  template <class L> L make_layer(long tokens) const {
    typename L::Policies policies{.router = {.selector = {.k = static_cast<int>(m_shape.k)}},
                                  .gate = {.normalize = kokomo::Normalize::sum}};
    if constexpr (std::is_same_v<L, Layer>)
      policies.experts.intermediate = m_shape.intermediate;
    else
      policies.experts.inner.intermediate = m_shape.intermediate;
    return L({.tokens = tokens, .hidden = m_shape.hidden, .experts = m_shape.experts}, policies);
  }
  Matrix matrix(long rows) const {
    return Matrix(Kokkos::view_alloc(Kokkos::WithoutInitializing, "bench::rows"), std::size_t(rows),
                  std::size_t(m_shape.hidden));
  }

  /// Noise, and where experts are wanted twelve times each one's router weight over its square: the logits of those come
  /// out near twelve and all others within the noise of a few.
  Matrix batch(Request const& request, int routing) const {
    Matrix const x = matrix(request.tokens);
    fill_uniform(x, 100 + std::uint32_t(routing), 1);
    std::vector<int> const wanted = wanted_experts(request.load, m_shape, request.tokens, routing);
    if (wanted.empty()) return x;
    auto const& weight = m_parameters.router.weight;
    std::vector<float> row(std::size_t(m_shape.hidden));
    for (std::size_t t = 0; t < x.extent(0); ++t) {
      for (std::size_t h = 0; h < row.size(); ++h) row[h] = float(x(t, h));
      for (std::size_t j = 0; j < std::size_t(m_shape.k); ++j) {
        auto const e = std::size_t(wanted[t * std::size_t(m_shape.k) + j]);
        float square = 0;
        for (std::size_t h = 0; h < row.size(); ++h) square += weight(e, h) * weight(e, h);
        for (std::size_t h = 0; h < row.size(); ++h) row[h] += 12 / square * weight(e, h);
      }
      for (std::size_t h = 0; h < row.size(); ++h) x(t, h) = T(row[h]);
    }
    return x;
  }

  template <class Assignment> void count_rows(Assignment const& assignment, double share, Measurement& result) const {
    auto const& offsets = assignment.expert_offsets;
    for (long e = 0; e < m_shape.experts; ++e) {
      long const rows = offsets[std::size_t(e) + 1] - offsets[std::size_t(e)];
      if (rows > 0) result.active += share;
      result.most_rows = std::max(result.most_rows, rows);
    }
  }

  /// ||y - reference|| / ||reference|| of the last token, with the experts and weights that the layer chose for it and
  /// plain sums in double. A benchmark of wrong results would be worthless.
  template <class L>
  double error_of_last_token(L const& layer, kokomo::Tape<Exec> const& tape, Matrix const& x, Matrix const& y) const {
    auto const a = layer.saved(tape).assignment;
    auto const token = x.extent(0) - 1;
    auto const hidden = std::size_t(m_shape.hidden), width = std::size_t(m_shape.intermediate);
    std::vector<double> out(hidden), activated(width);
    for (auto i = a.token_offsets[token]; i < a.token_offsets[token + 1]; ++i) {
      auto const e = std::size_t(a.expert[i]);
      for (std::size_t n = 0; n < width; ++n) {
        double gate = 0, up = 0;
        for (std::size_t h = 0; h < hidden; ++h) {
          gate += double(x(token, h)) * double(m_parameters.experts.gate_up(e, n, h));
          up += double(x(token, h)) * double(m_parameters.experts.gate_up(e, width + n, h));
        }
        activated[n] = gate / (1 + std::exp(-gate)) * up;
      }
      for (std::size_t h = 0; h < hidden; ++h) {
        double sum = 0;
        for (std::size_t n = 0; n < width; ++n) sum += activated[n] * double(m_parameters.experts.down(e, h, n));
        out[h] += double(a.weight[i]) * sum;
      }
    }
    double difference = 0, square = 0;
    for (std::size_t h = 0; h < hidden; ++h) {
      difference += (double(y(token, h)) - out[h]) * (double(y(token, h)) - out[h]);
      square += out[h] * out[h];
    }
    return std::sqrt(difference / square);
  }

  Exec m_exec;
  Dimensions m_shape;
  typename Layer::Parameters m_parameters;
  std::optional<typename Layer::Parameters> m_gradients;
  std::optional<typename PackedLayer::Parameters> m_packed;
  double m_pack_ms = 0;
  /// What is the same every time that the same rows are measured.
  std::map<std::tuple<long, std::string, bool>, Measurement> m_examined;
};

} // namespace bench

#endif
