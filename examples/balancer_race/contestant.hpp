// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_BALANCER_RACE_CONTESTANT_HPP
#define KOKOMO_EXAMPLES_BALANCER_RACE_CONTESTANT_HPP

#include "train.hpp"

#include <kokomo/layer.hpp>

/// Two layers of one type, with parameters, state and memory.
template <class Layer> class LayersOf final : public MoeLayers {
public:
  LayersOf(Options const& options, typename Layer::Policies const& policies)
      : m_layer({.tokens = options.tokens(), .hidden = options.hidden, .experts = options.experts}, policies) {
    auto const plan = m_layer.plan(m_exec);
    m_workspace = kokomo::Workspace<Exec>(m_exec, plan);
    for (auto& of : m_layers)
      of = {m_layer.make_parameters(m_exec), m_layer.make_parameters(m_exec), m_layer.make_state(m_exec),
            kokomo::Tape<Exec>(m_exec, plan)};
  }

  std::vector<Weights> weights(std::size_t layer) const override {
    auto const& of = m_layers[layer];
    std::vector<Weights> weights;
    of.parameters.for_each([&](std::string const&, auto const& view) { // weights are [..., out, in]
      weights.push_back({view.data(), nullptr, view.size(), float(view.extent(view.rank() - 1))});
    });
    std::size_t i = 0;
    of.gradients.for_each([&](std::string const&, auto const& view) { weights[i++].gradient = view.data(); });
    return weights;
  }

  void forward(std::size_t layer, Matrix const& x, Matrix const& y, kokomo::Mode mode, int step) override {
    auto& of = m_layers[layer];
    typename Layer::Inputs inputs;
    inputs.x = x;
    inputs.mode = mode;
    inputs.step = std::uint64_t(step);
    m_layer.forward(m_exec, of.parameters, of.state, inputs, y, m_workspace, of.tape);
  }

  void backward(std::size_t layer, Matrix const& x, Matrix const& dy, Matrix const& dx) override {
    auto const& of = m_layers[layer];
    m_layer.backward(m_exec, of.parameters, of.state, x, dy, dx, of.gradients, m_workspace, of.tape);
  }

  void step() override {
    for (auto const& of : m_layers) m_layer.step(m_exec, of.state);
  }

  kokomo::stats::Loads loads(std::size_t layer) const override {
    return kokomo::stats::loads(m_exec, m_layer, m_layers[layer].tape);
  }

private:
  struct OfLayer {
    typename Layer::Parameters parameters, gradients;
    typename Layer::State state;
    kokomo::Tape<Exec> tape;
  };
  Exec m_exec;
  Layer m_layer;
  kokomo::Workspace<Exec> m_workspace;
  std::array<OfLayer, 2> m_layers;
};

template <class Layer>
Result train(std::string const& name, typename Layer::Policies policies, Text const& text, Options const& options,
             Report const& report) {
  policies.experts.intermediate = options.intermediate;
  LayersOf<Layer> layers(options, policies);
  return train(name, layers, text, options, report);
}

#endif
