// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/finite_differences.hpp>
#include <support/layer_fixture.hpp>

#include <kokomo/router/mlp_scorer.hpp>

namespace mlp_scorer_test {

using namespace kokomo;
using namespace kokomo::test;
using reference::Row;

template <class T>
using Subject = Layer<Router<MlpScorer, TopK<>>, SoftmaxGate, SelectionBias, WithIdentity<SwiGluExperts>, T, Exec>;

template <class T> typename Subject<T>::Policies settings(MlpScorer const& scorer) {
  return {.router = {.scorer = scorer, .selector = {.k = 2}}, .experts = {.inner = {.intermediate = 3}, .zero = 1}};
}

/// A fixture whose calls bring router states of the layer below, and the gradient that the layer above returns.
template <class T> struct StatesFixture : Fixture<Subject<T>> {
  using Base = Fixture<Subject<T>>;
  using Layer = typename Base::Layer;
  using States = OwnedMatrix<compute_t<T>, Exec>;
  States previous, d_previous, d_states;

  StatesFixture(Shape const& shape, MlpScorer const& scorer, unsigned seed = 1)
      : Base(shape, settings<T>(scorer), seed) {
    if (!scorer.previous_states) return;
    previous = d_previous = States("states", std::size_t(shape.tokens), std::size_t(scorer.state_size));
    d_previous = States("d_states", previous.extent(0), previous.extent(1));
    this->fill(previous);
  }

  typename Layer::Inputs inputs() const {
    auto in = Base::inputs();
    if (previous.size() > 0) in.scorer.previous_states = previous;
    if (d_states.size() > 0) in.scorer.d_states = d_states;
    return in;
  }
  void forward(bool clean = true) {
    if (clean) poison(this->workspace), poison(this->tape), poison_view(this->y);
    this->layer.forward(this->exec, this->parameters, this->state, inputs(), this->y, this->workspace, this->tape);
    this->exec.fence();
  }
  void backward(Write write = Write::overwrite) {
    poison(this->workspace), poison_view(this->dx);
    typename Layer::InputGradients d_inputs;
    d_inputs.x = this->dx;
    if (d_previous.size() > 0) poison_view(d_previous), d_inputs.scorer.previous_states = d_previous;
    if (write == Write::overwrite)
      this->gradients.for_each([&](std::string const&, auto const& view) { poison_view(view); });
    this->layer.backward(this->exec, this->parameters, this->state, inputs(), this->dy, d_inputs, this->gradients,
                         this->workspace, this->tape, write);
    this->exec.fence();
  }
  auto states() const { return this->layer.saved(this->tape).scorer.states; }
};

/// W x + b
Row linear(Row const& weight, Row const& bias, Row const& x) {
  Row y(weight.size() / x.size());
  for (std::size_t o = 0; o < y.size(); ++o) {
    y[o] = bias.empty() ? 0 : bias[o];
    for (std::size_t i = 0; i < x.size(); ++i) y[o] += weight[o * x.size() + i] * x[i];
  }
  return y;
}
Row gelu(Row x) {
  for (double& v : x) v *= 0.5 * std::erfc(-v / std::sqrt(2.0));
  return x;
}

/// States and logits of all tokens, in the formula's words.
template <class F> std::pair<Row, Row> expected(F const& fixture, MlpScorer const& scorer) {
  std::map<std::string, Row> p;
  fixture.parameters.router.for_each(
      [&](std::string const& name, auto const& view) { p[name] = in_double(to_host(view)); }, "");
  auto const tokens = std::size_t(fixture.tokens), r = std::size_t(scorer.state_size);
  auto const x = in_rows(in_double(to_host(fixture.x)), tokens);
  auto const previous = in_double(to_host(fixture.previous));
  Row states, logits;
  for (std::size_t t = 0; t < tokens; ++t) {
    Row h = linear(p["down"], p["down_bias"], x[t]);
    if (scorer.previous_states)
      for (std::size_t i = 0; i < r; ++i) h[i] += p["states_scale"][i] * previous[t * r + i];
    states.insert(states.end(), h.begin(), h.end());
    double const scale = 1 / std::sqrt(norm(h) * norm(h) / double(r) + double(scorer.epsilon));
    for (std::size_t i = 0; i < r; ++i) h[i] *= scale * p["norm"][i];
    h = gelu(linear(p["fc1"], p["fc1_bias"], h));
    h = gelu(linear(p["fc2"], p["fc2_bias"], h));
    Row const z = linear(p["classifier"], {}, h);
    logits.insert(logits.end(), z.begin(), z.end());
  }
  return {states, logits};
}

template <class T> void check_formula(Shape const& shape, MlpScorer const& scorer) {
  StatesFixture<T> fixture(shape, scorer);
  fixture.forward();
  auto const [states, logits] = expected(fixture, scorer);
  CHECK(relative_error(in_double(to_host(fixture.states())), states) <= tolerance<T>());
  CHECK(relative_error(flat(fixture.result().logits), logits) <= tolerance<T>());
}

TEST_CASE("MLP scorer: states and logits equal the formula") {
  for (bool const previous : {false, true}) {
    check_formula<double>({.tokens = 13, .hidden = 9, .experts = 4},
                          {.state_size = 6, .previous_states = previous, .epsilon = 0.1f});
    check_formula<float>({.tokens = 13, .hidden = 9, .experts = 4}, {.state_size = 6, .previous_states = previous});
    check_formula<double>({.tokens = 1, .hidden = 1, .experts = 1}, {.state_size = 1, .previous_states = previous});
  }
}

TEST_CASE("MLP scorer: gradients equal central differences") {
  for (bool const previous : {false, true}) {
    MlpScorer const scorer{.state_size = 3, .previous_states = previous, .epsilon = 0.1f};
    StatesFixture<double> fixture({.tokens = 5, .hidden = 4, .experts = 3}, scorer, 2);
    check_gradients(fixture);
  }
}

TEST_CASE("MLP scorer: states are handed on, and their gradient comes back") {
  Shape const shape{.tokens = 4, .hidden = 3, .experts = 3};
  StatesFixture<double> below(shape, {.state_size = 3, .previous_states = true, .epsilon = 0.1f}, 3);
  StatesFixture<double> above(shape, {.state_size = 3, .previous_states = true, .epsilon = 0.1f}, 4);
  // Many tiny kernels: one thread runs them without waiting for another on a busy machine.
  if (below.exec.concurrency() > 1) below.exec = above.exec = Kokkos::Experimental::partition_space(Exec{}, 1, 1)[0];
  auto const value = [&] {
    double sum = objective(below);
    to_device(to_host(below.states()), above.previous);
    return sum + objective(above);
  };
  value();
  above.backward();
  below.d_states = above.d_previous;
  below.backward();
  auto const gradients = gradients_of(below);

  // step, truncation and rounding as in check_gradients
  constexpr double h = 1e-5;
  auto const check = [&](std::string const& name, auto const& view, Row const& gradient) {
    auto values = to_host(view);
    Row differences;
    for (double& element : values) {
      double const original = element;
      element = original + h, to_device(values, view);
      double const up = value();
      element = original - h, to_device(values, view);
      double const down = value();
      element = original;
      differences.push_back((up - down) / (2 * h));
    }
    to_device(values, view);
    INFO(name);
    CHECK(relative_error(gradient, differences) <= 1e-6);
  };
  check("x", below.x, gradients.at("x"));
  check("down", below.parameters.router.down, gradients.at("router.down"));
  check("states_scale", below.parameters.router.states_scale, gradients.at("router.states_scale"));
  check("previous states", below.previous, in_double(to_host(below.d_previous)));
}

template <class F> int error_of(F const& f) {
  try {
    f();
  } catch (Error const& error) {
    return error.id();
  }
  return 0;
}

TEST_CASE("MLP scorer: refuses what does not fit") {
  Shape const shape{.tokens = 2, .hidden = 3, .experts = 2};
  CHECK(error_of([&] { StatesFixture<float>(shape, {}); }) == 101);
  CHECK(error_of([&] { StatesFixture<float>(shape, {.state_size = 2, .epsilon = -1}); }) == 106);

  StatesFixture<float> first(shape, {.state_size = 2}), second(shape, {.state_size = 2, .previous_states = true});
  auto const given = second.previous;
  second.previous = {};
  CHECK(error_of([&] { second.forward(); }) == 203);
  second.previous = decltype(given)("narrow", 2, 1);
  CHECK(error_of([&] { second.forward(); }) == 201);
  first.previous = given;
  CHECK(error_of([&] { first.forward(); }) == 203);
  first.previous = {};
  first.forward();
  first.d_previous = given;
  CHECK(error_of([&] { first.backward(); }) == 203);
}

} // namespace mlp_scorer_test
