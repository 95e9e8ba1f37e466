// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_FAMILIES_COMPOSED_HPP
#define KOKOMO_EXAMPLES_FAMILIES_COMPOSED_HPP

#include "make.hpp"

namespace families {

template <class Experts> constexpr bool is_gated() {
  if constexpr (requires { Experts::gated; })
    return Experts::gated;
  else
    return is_gated<typename Experts::Inner>();
}

/// A layer type behind the interface. It is compiled for each: what needs no type is in the base class. Most of what a
/// file of layers costs to compile is the kernels of their experts, not the layers: it pays to have many of one
/// activation in a file.
template <class Layer> class Composed final : public FamilyLayer {
public:
  Composed(kokomo::models::Description const& description, kokomo::offset_t tokens)
      : FamilyLayer(description, tokens, std::is_same_v<T, kokomo::bfloat16>, traits()),
        m_layer(description.shape(tokens), kokomo::models::policies_for<Layer>(description)) {}

  void load(kokomo::io::TensorOfRole const& tensor_of) override {
    kokomo::io::load<Layer>(m_exec, m_parameters, m_state, tensor_of);
  }

private:
  using T = typename Layer::Storage;

  static constexpr Traits traits() {
    Traits traits{is_gated<typename Layer::Routed>(), Layer::has_shared, false};
    if constexpr (Layer::has_shared) traits.shared_gated = is_gated<typename Layer::Experts::Shared>();
    return traits;
  }

  template <class V> static kokomo::Vector<V, Exec> vector(Bytes const& bytes) {
    return {reinterpret_cast<V*>(bytes.data()), bytes.size() / sizeof(V)};
  }
  template <class V> kokomo::Matrix<V, Exec> matrix(Bytes const& bytes) const {
    auto const rows = std::size_t(m_tokens);
    return {reinterpret_cast<V*>(bytes.data()), rows, rows == 0 ? 0 : bytes.size() / sizeof(V) / rows};
  }

  typename Layer::Inputs inputs() const {
    typename Layer::Inputs inputs;
    inputs.x = matrix<T const>(m_device.x);
    inputs.mode = m_mode;
    if (m_device.token_mask.size() > 0) inputs.token_mask = vector<kokomo::index_t const>(m_device.token_mask);
    if constexpr (requires { inputs.selector.token_ids; })
      if (m_device.token_ids.size() > 0) inputs.selector.token_ids = vector<kokomo::offset_t const>(m_device.token_ids);
    if constexpr (requires { inputs.selector.experts; })
      if (m_device.experts.size() > 0) inputs.selector.experts = matrix<kokomo::index_t const>(m_device.experts);
    if constexpr (requires { inputs.gate.factors; })
      if (m_device.gate_factors.size() > 0) inputs.gate.factors = matrix<float const>(m_device.gate_factors);
    if constexpr (requires { inputs.scorer.previous_states; })
      if (m_device.previous_states.size() > 0)
        inputs.scorer.previous_states = matrix<float const>(m_device.previous_states);
    return inputs;
  }

  void run_forward() override {
    m_layer.forward(m_exec, m_parameters, m_state, inputs(), matrix<T>(m_device.y), m_workspace, m_tape);
  }

  void run_backward() override {
    if (!m_has_gradients) m_gradients = m_layer.make_parameters(m_exec), m_has_gradients = true;
    typename Layer::InputGradients d_inputs;
    d_inputs.x = matrix<T>(m_device.dx);
    if constexpr (requires { d_inputs.scorer.previous_states; })
      if (m_device.previous_states.size() > 0)
        d_inputs.scorer.previous_states = matrix<float>(m_device.d_previous_states);
    m_layer.backward(m_exec, m_parameters, m_state, inputs(), matrix<T const>(m_device.dy), d_inputs, m_gradients,
                     m_workspace, m_tape);
  }

  Saved saved() const override {
    auto const saved = m_layer.saved(m_tape);
    auto const span = [](auto const& view) { return std::span(view.data(), view.size()); };
    auto const& a = saved.assignment;
    Saved result;
    result.logits = span(saved.logits), result.status = saved.status.data();
    result.token_offsets = span(a.token_offsets), result.expert_offsets = span(a.expert_offsets);
    result.expert = span(a.expert), result.row = span(a.row), result.weight = span(a.weight);
    if constexpr (Layer::weighs_shared) result.shared_weight = span(saved.gate.shared_weight);
    if constexpr (requires { saved.scorer.states; }) result.router_states = span(saved.scorer.states);
    result.weighted_experts = m_layer.sizes().weighted;
    return result;
  }

  std::vector<Parameter> parameter_gradients() const override {
    std::vector<Parameter> gradients;
    m_gradients.for_each([&](std::string const& name, auto const& view) {
      auto const extent = [&](int d) { return kokomo::offset_t(view.extent(d)); };
      using Value = typename std::decay_t<decltype(view)>::non_const_value_type;
      gradients.push_back(
          {name, {extent(0), extent(1), extent(2)}, view.data(), std::is_same_v<Value, kokomo::bfloat16>});
    });
    return gradients;
  }

  Layer m_layer;
  typename Layer::Parameters m_parameters = m_layer.make_parameters(m_exec), m_gradients;
  bool m_has_gradients = false;
  typename Layer::State m_state = m_layer.make_state(m_exec);
  kokomo::Plan m_plan = m_layer.plan(m_exec);
  kokomo::Workspace<Exec> m_workspace{m_exec, m_plan};
  kokomo::Tape<Exec> m_tape{m_exec, m_plan};
};

template <template <class, class> class Model>
std::unique_ptr<FamilyLayer> make(kokomo::models::Description const& description, kokomo::offset_t tokens,
                                  bool bfloat16) {
  if (bfloat16) return std::make_unique<Composed<Model<kokomo::bfloat16, Exec>>>(description, tokens);
  return std::make_unique<Composed<Model<float, Exec>>>(description, tokens);
}

} // namespace families

#endif
