// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_DOCS_EXAMPLE_HPP
#define KOKOMO_TESTS_DOCS_EXAMPLE_HPP

#include <kokomo/layer.hpp>

#include <support/catch.hpp>
#include <support/compiled.hpp>
#include <support/views.hpp>

#include <cmath>
#include <vector>

/// What the snippets of docs/policies share. docs/guide/compose_a_layer.md does all of it by hand.
namespace example {

template <class V> using Table = std::vector<std::vector<V>>;

/// A View that the host can read: itself where it can, a copy else. As create_mirror_view_and_copy, which costs a
/// compiler much more.
template <class View> auto host(View const& view) {
  if constexpr (kokomo::test::on_host_v<typename View::memory_space>) {
    Kokkos::fence();
    return view;
  } else {
    return Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  }
}
/// What was written into `host(view)` goes back.
template <class View, class Host> void update(View const& view, Host const& copy) {
  if constexpr (!kokomo::test::on_host_v<typename View::memory_space>) Kokkos::deep_copy(view, copy);
}
/// Every element becomes `value`.
template <class View> void fill(View const& view, double value) {
  auto const all = kokomo::test::tensor(view);
  all.write(kokomo::test::Row(all.size, value));
}

/// Writes one number into a View.
template <class View, class... At> void set(View const& view, double value, At... at) {
  auto const copy = host(view);
  copy(at...) = typename View::value_type(value);
  update(view, copy);
}

/// A layer with everything that a call needs: parameters and x hold seeded numbers in (-1/2, 1/2), gradients and state
/// are zero.
template <class LayerT> struct Example {
  using Layer = LayerT;
  using Exec = typename Layer::Exec;
  using T = typename Layer::Storage;
  using C = typename Layer::Compute;

  Exec exec{};
  Layer layer;
  typename Layer::Parameters parameters, gradients;
  typename Layer::State state;
  typename Layer::Inputs inputs; ///< its x is our x
  kokomo::Workspace<Exec> workspace;
  kokomo::Tape<Exec> tape;
  kokomo::OwnedMatrix<T, Exec> x, y, dy, dx;

  explicit Example(kokomo::Shape const& shape, typename Layer::Policies const& policies = {})
      : layer(shape, policies), parameters(layer.make_parameters(exec)), gradients(layer.make_parameters(exec)),
        state(layer.make_state(exec)), workspace(exec, layer.plan(exec)), tape(exec, layer.plan(exec)),
        x("x", shape.tokens, shape.hidden), y("y", shape.tokens, shape.hidden), dy("dy", shape.tokens, shape.hidden),
        dx("dx", shape.tokens, shape.hidden) {
    exec.fence();
    for (auto const& [name, tensor] : kokomo::test::tensors_of(parameters)) fill(tensor);
    fill(kokomo::test::tensor(x));
    fill(kokomo::test::tensor(dy));
    inputs.x = x;
  }

  /// Makes the router's weight the identity and x the logits themselves: hidden must equal the logit columns.
  void set_logits(Table<double> const& logits) {
    auto const weight = host(parameters.router.weight);
    REQUIRE(weight.extent(0) == weight.extent(1));
    for (std::size_t i = 0; i < weight.extent(0); ++i)
      for (std::size_t j = 0; j < weight.extent(1); ++j) weight(i, j) = C(i == j);
    update(parameters.router.weight, weight);
    set_x(logits);
  }

  void set_x(Table<double> const& rows) {
    auto const copy = host(x);
    for (std::size_t t = 0; t < rows.size(); ++t)
      for (std::size_t h = 0; h < rows[t].size(); ++h) copy(t, h) = T(rows[t][h]);
    update(x, copy);
  }

  void forward(kokomo::Mode mode = kokomo::Mode::inference) {
    inputs.mode = mode;
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    exec.fence();
  }

  /// Experts that each token chose, and those of them that took it.
  Table<kokomo::index_t> chosen() const { return entries(false); }
  Table<kokomo::index_t> executed() const { return entries(true); }

  /// Weights of the chosen ones.
  Table<double> weights() const {
    auto const a = layer.saved(tape).assignment;
    auto const offsets = host(a.token_offsets);
    auto const weight = host(a.weight);
    Table<double> rows(std::size_t(a.tokens));
    for (std::size_t t = 0; t < rows.size(); ++t)
      for (auto i = offsets(t); i < offsets(t + 1); ++i) rows[t].push_back(weight(i));
    return rows;
  }

  Table<double> logits() const { return table(layer.saved(tape).logits); }
  Table<double> output() const { return table(y); }
  double loss() const { return host(layer.saved(tape).loss)(0); }
  kokomo::Status status() const { return layer.status(exec, tape); }

private:
  unsigned m_seed = 1;

  void fill(kokomo::test::Tensor const& tensor) {
    kokomo::test::Row values(tensor.size);
    for (double& value : values) {
      m_seed = m_seed * 1664525u + 1013904223u;
      value = double(m_seed >> 8) / (1 << 24) - 0.5;
    }
    tensor.write(values);
  }

  Table<kokomo::index_t> entries(bool executed_only) const {
    auto const a = layer.saved(tape).assignment;
    auto const offsets = host(a.token_offsets);
    auto const expert = host(a.expert), row = host(a.row);
    Table<kokomo::index_t> rows(std::size_t(a.tokens));
    for (std::size_t t = 0; t < rows.size(); ++t)
      for (auto i = offsets(t); i < offsets(t + 1); ++i)
        if (expert(i) != kokomo::none && !(executed_only && row(i) == kokomo::none)) rows[t].push_back(expert(i));
    return rows;
  }

  template <class Matrix> static Table<double> table(Matrix const& matrix) {
    return kokomo::test::in_rows(kokomo::test::tensor(matrix).read(), matrix.extent(0));
  }
};

/// Whether two tables agree to 1e-5: the numbers of the snippets are of order one, and computed in float32.
inline bool close(Table<double> const& a, Table<double> const& b) {
  bool same = a.size() == b.size();
  for (std::size_t t = 0; same && t < a.size(); ++t) {
    same = a[t].size() == b[t].size();
    for (std::size_t i = 0; same && i < a[t].size(); ++i) same = std::abs(a[t][i] - b[t][i]) < 1e-5;
  }
  return same;
}

inline double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

} // namespace example

using example::close;
using example::Example;
using example::host;
using example::Table;

#endif
