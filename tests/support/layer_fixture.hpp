// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_LAYER_FIXTURE_HPP
#define KOKOMO_TESTS_SUPPORT_LAYER_FIXTURE_HPP

#include <support/catch.hpp>
#include <support/describe.hpp>
#include <support/reference.hpp>
#include <support/views.hpp>

#include <kokomo/layer.hpp>

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

namespace kokomo::test {

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
    parameters.for_each([&](std::string const&, auto const& view) { fill(view); });
    state.for_each([&](std::string const& name, auto const& view) {
      if (name == "balancer.bias") fill(view, 0.3);
    });
    if (shape.router_hidden > 0) {
      router_input = Batch("router_input", rows, static_cast<std::size_t>(shape.router_hidden));
      d_router_input = Batch("d_router_input", rows, static_cast<std::size_t>(shape.router_hidden));
      fill(router_input);
    }
  }

  /// Uniform numbers in [-size, size).
  template <class V> void fill(V const& view, double size = 1) {
    using Value = typename V::value_type;
    std::uniform_real_distribution<double> uniform(-size, size);
    std::vector<Value> values(view.size());
    for (Value& value : values) value = Value(static_cast<compute_t<Value>>(uniform(engine)));
    to_device(values, view);
  }

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
    if (write == Write::overwrite) gradients.for_each([&](std::string const&, auto const& view) { poison_view(view); });
    layer.backward(exec, parameters, state, inputs(), dy, d_inputs, gradients, workspace, tape, write);
    exec.fence();
  }

  /// What the reference works on.
  reference::Inputs reference_inputs() const {
    reference::Inputs in;
    auto const take = [&](std::string const& name, auto const& view) {
      in.parameters[name] = in_double(to_host(view));
    };
    parameters.for_each(take);
    state.for_each(take);
    in.x = in_rows(in_double(to_host(x)), std::size_t(tokens));
    if (router_input.extent(1) > 0) in.router_input = in_rows(in_double(to_host(router_input)), std::size_t(tokens));
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
    auto const& a = saved.assignment;
    reference::Result r;
    auto const rows = std::size_t(tokens);
    r.logits = in_rows(in_double(to_host(saved.logits)), rows);
    r.y = in_rows(in_double(to_host(y)), rows);
    r.loss = static_cast<double>(to_host(saved.loss)[0]);
    auto const offsets = to_host(a.token_offsets);
    auto const expert = to_host(a.expert), row = to_host(a.row);
    auto const weight = to_host(a.weight);
    for (std::size_t t = 0; t < rows; ++t) {
      r.choice.emplace_back(), r.kept.emplace_back(), r.weights.emplace_back();
      for (auto i = offsets[t]; i < offsets[t + 1]; ++i) {
        r.choice[t].push_back(expert[i]);
        r.kept[t].push_back(row[i] != none);
        r.weights[t].push_back(static_cast<double>(weight[i]));
      }
    }
    auto const status = layer.status(exec, tape);
    r.dropped = int(status.dropped);
    r.tokens_without_expert = int(status.tokens_without_expert);
    return r;
  }
};

/// The second half of an Assignment says the same as the first: executed entries, by expert, in token order.
template <class F> void check_grouping(F const& fixture) {
  auto const a = fixture.layer.saved(fixture.tape).assignment;
  auto const offsets = to_host(a.token_offsets), expert_offsets = to_host(a.expert_offsets);
  auto const expert = to_host(a.expert), row = to_host(a.row), entry_of_row = to_host(a.entry_of_row),
             token_of_row = to_host(a.token_of_row), expert_of_row = to_host(a.expert_of_row);
  auto const weight = to_host(a.weight), weight_of_row = to_host(a.weight_of_row);
  REQUIRE(offsets[0] == 0);
  REQUIRE(expert_offsets[0] == 0);
  std::size_t next = 0;
  for (index_t e = 0; e < a.experts; ++e) {
    REQUIRE(expert_offsets[e] == offset_t(next));
    for (offset_t t = 0; t < a.tokens; ++t)
      for (offset_t i = offsets[t]; i < offsets[t + 1]; ++i) {
        if (row[i] == none || expert[i] != e) continue;
        REQUIRE(row[i] == index_t(next));
        REQUIRE(entry_of_row[next] == index_t(i));
        REQUIRE(token_of_row[next] == index_t(t));
        REQUIRE(expert_of_row[next] == e);
        REQUIRE((weight_of_row[next] == weight[i] || weight[i] != weight[i])); // a NaN logit's weight is NaN
        ++next;
      }
  }
  REQUIRE(expert_offsets[a.experts] == offset_t(next));
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

/// Runs forward and compares choices exactly and numbers with the reference's.
template <class F> void check_forward(F& fixture) {
  using T = typename F::T;
  // Routing computes in float32 or float64, whatever the storage.
  double const routing = tolerance<compute_t<T>>();
  fixture.forward();
  auto const out = fixture.result();
  auto const ref = fixture.reference_result();
  CHECK(relative_error(flat(out.logits), flat(ref.logits)) <= routing);
  REQUIRE(out.choice == ref.choice);
  REQUIRE(out.kept == ref.kept);
  CHECK(relative_error(flat(out.weights), flat(ref.weights)) <= routing);
  CHECK(relative_error(flat(out.y), flat(ref.y)) <= tolerance<T>());
  CHECK(relative_error({out.loss}, {ref.loss}) <= routing);
  CHECK(out.dropped == ref.dropped);
  CHECK(out.tokens_without_expert == ref.tokens_without_expert);
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
