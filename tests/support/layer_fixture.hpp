// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_LAYER_FIXTURE_HPP
#define KOKOMO_TESTS_SUPPORT_LAYER_FIXTURE_HPP

#include <support/catch.hpp>
#include <support/compiled.hpp>
#include <support/describe.hpp>
#include <support/reference.hpp>
#include <support/views.hpp>

#include <kokomo/layer.hpp>

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace kokomo::test {

/// An Assignment of any type on the host.
struct HostAssignment {
  offset_t tokens = 0;
  index_t experts = 0;
  std::vector<offset_t> token_offsets, expert_offsets;
  std::vector<index_t> expert, row, entry_of_row, token_of_row, expert_of_row;
  Row weight, weight_of_row;
};
template <class T, class Exec> HostAssignment on_host(Assignment<T, Exec> const& a) {
  return {a.tokens,
          a.experts,
          to_host(a.token_offsets),
          to_host(a.expert_offsets),
          to_host(a.expert),
          to_host(a.row),
          to_host(a.entry_of_row),
          to_host(a.token_of_row),
          to_host(a.expert_of_row),
          in_double(to_host(a.weight)),
          in_double(to_host(a.weight_of_row))};
}
extern template HostAssignment on_host(Assignment<double, Exec> const&);
extern template HostAssignment on_host(Assignment<float, Exec> const&);

/// The entries of a Result.
reference::Result result_of(HostAssignment const& assignment);

/// What the reference works on: parameters and state by their names.
void add_tensors(reference::Inputs& inputs, Tensors const& tensors);

/// A layer with everything that it works on, filled from a seed.
template <class LayerT> struct Fixture {
  using Layer = LayerT;
  using Exec = typename Layer::Exec;
  using T = typename Layer::Storage;
  using Policies = typename Layer::Policies;
  using Batch = OwnedMatrix<T, Exec>;

  Exec exec;
  Layer layer;
  typename Layer::Parameters parameters, gradients;
  typename Layer::State state;
  Workspace<Exec> workspace;
  Tape<Exec> tape;
  std::mt19937 engine;
  offset_t tokens;
  Batch x, y, dy, dx, router_input, d_router_input;
  OwnedVector<index_t, Exec> token_mask;
  OwnedMatrix<index_t, Exec> experts;                       ///< of Given
  OwnedVector<offset_t, Exec> token_ids;                    ///< of HashTable
  std::function<void(typename Layer::Inputs&)> more_inputs; ///< gives what a policy reads beside these
  Mode mode = Mode::inference;
  std::uint64_t step = 0;

  /// `tokens` of this batch, at most shape.tokens; by default all of them.
  explicit Fixture(Shape const& shape, Policies const& policies = {}, unsigned seed = 1, offset_t batch = -1)
      : layer(shape, policies), parameters(layer.make_parameters(exec)), gradients(layer.make_parameters(exec)),
        state(layer.make_state(exec)), workspace(exec, layer.plan(exec)), tape(exec, layer.plan(exec)), engine(seed),
        tokens(batch < 0 ? shape.tokens : batch) {
    auto const rows = static_cast<std::size_t>(tokens), width = static_cast<std::size_t>(shape.hidden);
    for (Batch* const batch_view : {&x, &y, &dy, &dx}) *batch_view = Batch("batch", rows, width);
    exec.fence();
    fill(x), fill(dy);
    for (auto const& [name, tensor] : tensors_of(parameters)) fill_uniform(tensor, engine);
    for (auto const& [name, tensor] : tensors_of(state))
      if (name == "balancer.bias") fill_uniform(tensor, engine, 0.3);
    if (shape.router_hidden > 0) {
      router_input = Batch("router_input", rows, static_cast<std::size_t>(shape.router_hidden));
      d_router_input = Batch("d_router_input", rows, static_cast<std::size_t>(shape.router_hidden));
      fill(router_input);
    }
  }

  /// Uniform numbers in [-size, size).
  template <class V> void fill(V const& view, double size = 1) { fill_uniform(tensor(view), engine, size); }

  void set_mask(std::vector<index_t> const& mask) {
    token_mask = OwnedVector<index_t, Exec>("mask", mask.size());
    to_device(mask, token_mask);
  }
  /// Experts of each token for the selector Given.
  void set_choice(std::vector<index_t> const& ids, std::size_t k) {
    experts = OwnedMatrix<index_t, Exec>("experts", ids.size() / k, k);
    to_device(ids, experts);
  }
  void set_token_ids(std::vector<offset_t> const& ids) {
    token_ids = OwnedVector<offset_t, Exec>("token_ids", ids.size());
    to_device(ids, token_ids);
  }

  typename Layer::Inputs inputs() const {
    typename Layer::Inputs in;
    in.x = x;
    if (router_input.extent(1) > 0) in.router_input = router_input;
    if (token_mask.data() != nullptr) in.token_mask = token_mask;
    if constexpr (requires { in.selector.experts; }) in.selector.experts = experts;
    if constexpr (requires { in.selector.token_ids; }) in.selector.token_ids = token_ids;
    in.mode = mode;
    in.step = step;
    if (more_inputs) more_inputs(in);
    return in;
  }

  /// Everything that this writes to is poisoned before, if `clean`.
  void forward(bool clean = true) {
    if (clean) poison(workspace), poison(tape), poison_view(y);
    layer.forward(exec, parameters, state, inputs(), y, workspace, tape);
    exec.fence();
  }
  void backward(Write write = Write::overwrite) {
    poison(workspace), poison_view(dx);
    typename Layer::InputGradients d_inputs;
    d_inputs.x = dx;
    if (router_input.extent(1) > 0) {
      poison_view(d_router_input);
      d_inputs.router_input = d_router_input;
    }
    if (write == Write::overwrite)
      for (auto const& [name, tensor] : tensors_of(gradients)) poison_tensor(tensor);
    layer.backward(exec, parameters, state, inputs(), dy, d_inputs, gradients, workspace, tape, write);
    exec.fence();
  }

  /// What the reference works on.
  reference::Inputs reference_inputs() const {
    reference::Inputs in;
    add_tensors(in, tensors_of(parameters));
    add_tensors(in, tensors_of(state));
    in.x = in_rows(tensor(x).read(), std::size_t(tokens));
    if (router_input.extent(1) > 0) in.router_input = in_rows(tensor(router_input).read(), std::size_t(tokens));
    for (index_t const m : to_host(token_mask)) in.mask.push_back(m);
    for (auto const& row : in_rows(in_double(to_host(experts)), experts.extent(0))) {
      in.choice.emplace_back(row.begin(), row.end());
    }
    if (token_ids.data() != nullptr) {
      auto const& table = in.parameters.at("selector.table");
      std::size_t const k = layer.sizes().per_token;
      for (offset_t const id : to_host(token_ids))
        in.choice.emplace_back(table.begin() + id * k, table.begin() + (id + 1) * k);
    }
    return in;
  }
  reference::Result reference_result() const {
    auto const settings = describe(layer);
    auto const in = reference_inputs();
    return reference::Layer(settings, in).forward();
  }

  /// What forward left in the tape, and y.
  reference::Result result() const {
    auto const saved = layer.saved(tape);
    auto r = result_of(on_host(saved.assignment));
    r.logits = in_rows(tensor(saved.logits).read(), std::size_t(tokens));
    r.y = in_rows(tensor(y).read(), std::size_t(tokens));
    r.loss = tensor(saved.loss).read()[0];
    auto const status = layer.status(exec, tape);
    r.dropped = int(status.dropped);
    r.tokens_without_expert = int(status.tokens_without_expert);
    return r;
  }
};

/// The second half of an Assignment says the same as the first: executed entries, by expert, in token order.
void check_grouping(HostAssignment const& assignment);
template <class F> void check_grouping(F const& fixture) {
  check_grouping(on_host(fixture.layer.saved(fixture.tape).assignment));
}

/// How far float64, float32 and 16-bit layers may be from the reference, in ||out - ref|| / ||ref||.
///
/// A layer is three products of at most ~50 terms in a row, in another order than the reference's: 150 roundings of the
/// compute type, 2e-14 and 9e-6 if all pointed the same way; for double, two digits are left for cancellation.
/// 16-bit layers compute in float32 and round to the storage type where published code does: products, biases,
/// activation, hidden layer, output, some eight times in a row. Eight roundings of at most u/2 = 2^-9 (bfloat16) or
/// 2^-12 (float16) with random signs give sqrt(8/3) u/2, 3.2e-3 and 4e-4; about three times that is allowed.
template <class T> constexpr double tolerance() {
  if constexpr (std::is_same_v<T, double>) return 1e-12;
  if constexpr (std::is_same_v<T, float>) return 1e-5;
  if constexpr (std::is_same_v<T, float16>) return 1e-3;
  return 1e-2;
}

/// Compares choices exactly and numbers to the tolerances of routing and of outputs.
void check_results(reference::Result const& out, reference::Result const& ref, double routing, double output);

/// Runs forward and compares it with the reference.
template <class F> void check_forward(F& fixture) {
  using T = typename F::T;
  fixture.forward();
  // Routing computes in float32 or float64, whatever the storage.
  check_results(fixture.result(), fixture.reference_result(), tolerance<compute_t<T>>(), tolerance<T>());
  check_grouping(fixture);
}

/// The same for a layer of one type on generated shapes with the given settings of its policies. `at(shape)` may adapt
/// them; it returns them.
template <class Layer, class At> void check_shapes(std::vector<Shape> const& shapes, At const& at) {
  unsigned seed = 1;
  for (Shape const& shape : shapes) {
    INFO("tokens " << shape.tokens << ", hidden " << shape.hidden << ", experts " << shape.experts);
    Fixture<Layer> fixture(shape, at(shape), ++seed);
    check_forward(fixture);
  }
}

} // namespace kokomo::test

#endif
