// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_CUDA_RUN_HPP
#define KOKOMO_TESTS_CUDA_RUN_HPP

#include "compare.hpp"

#include <kokomo/layer.hpp>

#if !defined(KOKKOS_ENABLE_CUDA)
#error "tests/cuda is for a Kokkos with CUDA"
#endif

#include <string>
#include <vector>

/// What the device is compared with. Where nothing can run it is not compiled: the other tests do that.
#if defined(KOKOMO_CUDA_COMPILE_ONLY)
using Host = Kokkos::Cuda;
#else
using Host = Kokkos::DefaultHostExecutionSpace;
#endif

/// Runs one composition on the device and on the host with the same numbers, forward and backward, and compares: the
/// portable functors of both and, on the host, the blocked product.
/// \tparam Model template <class Exec> of the layer
template <template <class> class Model> struct Run {
  template <class V> static std::vector<double> read(V const& view) {
    std::vector<typename V::non_const_value_type> host(view.size());
    copy_bytes(host.data(), view.data(), view.size() * sizeof(host[0]));
    return std::vector<double>(host.begin(), host.end());
  }

  /// Numbers in (-1/2, 1/2) that depend on the seed alone; expert ids for integer tables.
  template <class V> static void fill(V const& view, unsigned seed) {
    using Element = typename V::non_const_value_type;
    std::vector<Element> host(view.size());
    for (Element& element : host) {
      seed = seed * 1664525u + 1013904223u;
      if constexpr (std::is_integral_v<Element>)
        element = Element(seed >> 30);
      else
        element = Element(float(seed >> 8) / 16777216.0f - 0.5f);
    }
    copy_bytes(view.data(), host.data(), view.size() * sizeof(Element));
  }

  template <class Exec, class Prepare>
  static std::vector<std::vector<double>> results(kokomo::Shape const& shape, Prepare const& prepare) {
    using Layer = Model<Exec>;
    using T = typename Layer::Storage;
    Exec const exec;
    typename Layer::Policies policies;
    prepare(policies);
    Layer const layer(shape, policies);
    auto const parameters = layer.make_parameters(exec), grads = layer.make_parameters(exec);
    auto const state = layer.make_state(exec);
    unsigned seed = 1;
    parameters.for_each([&](std::string const&, auto const& view) { fill(view, ++seed); });
    state.for_each([&](std::string const& name, auto const& view) {
      if (name.find("counts") == std::string::npos) fill(view, ++seed);
    });
    auto const tokens = std::size_t(shape.tokens), hidden = std::size_t(shape.hidden);
    kokomo::OwnedMatrix<T, Exec> x("x", tokens, hidden), y("y", tokens, hidden), dy("dy", tokens, hidden),
        dx("dx", tokens, hidden);
    fill(x, ++seed), fill(dy, ++seed);
    kokomo::OwnedVector<kokomo::offset_t, Exec> ids("ids", tokens);
    kokomo::OwnedMatrix<kokomo::index_t, Exec> given("given", tokens, 2);
    typename Layer::Inputs inputs;
    inputs.x = x;
    inputs.mode = kokomo::Mode::training;
    kokomo::OwnedVector<kokomo::index_t, Exec> rows("rows", tokens);
    if constexpr (requires { inputs.scorer.row_of_token; }) inputs.scorer.row_of_token = rows;
    if constexpr (requires { inputs.selector.token_ids; }) inputs.selector.token_ids = ids;
    if constexpr (requires { inputs.selector.experts; }) {
      std::vector<kokomo::index_t> host;
      for (std::size_t t = 0; t < tokens; ++t) host.push_back(int(t % 3)), host.push_back(int(t % 3) + 1);
      copy_bytes(given.data(), host.data(), host.size() * sizeof(host[0]));
      inputs.selector.experts = given;
    }
    kokomo::OwnedVector<kokomo::index_t, Exec> classes("classes", tokens);
    if constexpr (requires { std::get<0>(inputs.adjust.parts).class_id; })
      std::get<0>(inputs.adjust.parts).class_id = classes;
    typename Layer::InputGradients d_inputs;
    d_inputs.x = dx;

    auto const plan = layer.plan(exec);
    kokomo::Workspace<Exec> const workspace(exec, plan);
    kokomo::Tape<Exec> tape(exec, plan);
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    layer.backward(exec, parameters, state, inputs, dy, d_inputs, grads, workspace, tape);
    layer.step(exec, state);
    (void)layer.status(exec, tape);
    std::vector<std::vector<double>> all{read(y), read(dx), read(layer.saved(tape).loss)};
    grads.for_each([&](std::string const&, auto const& view) { all.push_back(read(view)); });
    state.for_each([&](std::string const&, auto const& view) { all.push_back(read(view)); });
    return all;
  }

  /// Prints one line; true if device and host agree, and the device with itself to the bit.
  template <class Prepare>
  static bool agrees(char const* name, Prepare const& prepare,
                     kokomo::Shape const& shape = {.tokens = 37, .hidden = 24, .experts = 8}) {
    using T = typename Model<Host>::Storage;
    auto const device = results<Kokkos::Cuda>(shape, prepare), host = results<Host>(shape, prepare);
    if (results<Kokkos::Cuda>(shape, prepare) != device) return agree(name, {{1}}, {{0}}, 0);
    // the order of sums differs; a 16-bit type rounds what differs in the last bit of float32
    return agree(name, device, host, sizeof(T) == 2 ? 1e-2 : sizeof(T) == 4 ? 1e-4 : 1e-12);
  }
};

#endif
