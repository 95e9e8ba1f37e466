// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_REFERENCE_CHECK_CHECK_HPP
#define KOKOMO_EXAMPLES_REFERENCE_CHECK_CHECK_HPP

#include "reference.hpp"

#include <kokomo/io/parameters.hpp>

using Exec = Kokkos::DefaultExecutionSpace;

/// Device memory as doubles.
template <class V> std::vector<double> to_doubles(V const& view) {
  auto const host = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  std::vector<double> values(view.size());
  for (std::size_t i = 0; i < values.size(); ++i) values[i] = double(host.data()[i]);
  return values;
}

using Values = std::vector<double>;

/// The numbers of a tensor, integers or not.
inline Values values_of(Reference const& reference, std::string const& name) {
  auto const& tensor = reference.at(name);
  if (tensor.dtype != kokomo::io::DType::I64) return kokomo::io::read<double>(tensor);
  auto const integers = kokomo::io::read<std::int64_t>(tensor);
  return Values(integers.begin(), integers.end());
}

/// A matrix on the device with the values of a tensor of rows x columns elements.
template <class T>
kokomo::OwnedMatrix<T, Exec> to_device(kokomo::io::TensorInfo const& tensor, std::size_t rows, std::size_t columns) {
  kokomo::OwnedMatrix<T, Exec> view("tensor", rows, columns);
  auto const host = Kokkos::create_mirror_view(view);
  kokomo::io::read(tensor, std::span<T>(host.data(), host.size()));
  Kokkos::deep_copy(view, host);
  return view;
}

/// A layer of one composition with its weights from a reference file, and what its calls need.
template <class Layer> struct Block {
  using T = typename Layer::Storage;
  using C = typename Layer::Compute;

  Exec exec;
  Layer layer;
  typename Layer::Parameters parameters = layer.make_parameters(exec);
  typename Layer::Parameters grads = layer.make_parameters(exec);
  typename Layer::State state = layer.make_state(exec);
  kokomo::Plan plan = layer.plan(exec);
  kokomo::Workspace<Exec> workspace{exec, plan};
  kokomo::Tape<Exec> tape{exec, plan};
  kokomo::OwnedMatrix<T, Exec> x, dy, y, dx;

  Block(Reference const& reference, kokomo::models::Description const& d, std::string const& prefix = "")
      : layer(d.shape(reference.tokens()), kokomo::models::policies_for<Layer>(d)) {
    auto const tokens = std::size_t(reference.tokens()), hidden = std::size_t(d.hidden);
    kokomo::io::load<Layer>(exec, parameters, state, [&](std::string_view role) {
      auto const* tensor = reference.of_role(role, prefix);
      return tensor != nullptr || role.substr(0, 6) != "shared" ? tensor : reference.of_role(role);
    });
    x = to_device<T>(reference.at("input"), tokens, hidden);
    dy = to_device<T>(reference.at("grad_output"), tokens, hidden);
    y = kokomo::OwnedMatrix<T, Exec>("y", tokens, hidden);
    dx = kokomo::OwnedMatrix<T, Exec>("dx", tokens, hidden);
  }

  void run(typename Layer::Inputs inputs, typename Layer::InputGradients d_inputs = {}) {
    inputs.x = x;
    d_inputs.x = dx;
    layer.forward(exec, parameters, state, inputs, y, workspace, tape);
    layer.backward(exec, parameters, state, inputs, dy, d_inputs, grads, workspace, tape);
    exec.fence();
  }

  /// Experts as sets, exactly; weights by expert.
  void compare_routing(Reference const& reference, Comparison& comparison, std::string const& name,
                       std::vector<bool> const& rows = {}) const {
    auto const* index = reference.find("topk_index");
    if (index == nullptr) return;
    auto const a = layer.saved(tape).assignment;
    auto const offsets = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.token_offsets);
    auto const experts = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.expert);
    auto const weights = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.weight);
    auto const executed = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, a.row);
    // which weight a dropped entry has is a convention of the file: that of its score, or zero
    bool const drops_are_zero = reference.config().value("selection", std::string()) == "top2_capacity";
    auto const expected = kokomo::io::read<std::int64_t>(*index);
    auto const expected_weight = kokomo::io::read<double>(reference.at("topk_weight"));
    auto const k = std::size_t(index->shape.at(1));
    std::vector<double> got_weights, their_weights;
    for (std::size_t t = 0; t < std::size_t(reference.tokens()); ++t) {
      if (!rows.empty() && !rows[t]) continue;
      std::map<std::int64_t, double> mine, theirs;
      for (auto i = offsets(t); i < offsets(t + 1); ++i)
        if (experts(i) != kokomo::none)
          mine[experts(i)] = drops_are_zero && executed(i) == kokomo::none ? 0.0 : double(weights(i));
      for (std::size_t j = 0; j < k; ++j) theirs[expected[t * k + j]] = expected_weight[t * k + j];
      bool const masked =
          mine.empty() && std::all_of(theirs.begin(), theirs.end(), [](auto const& p) { return p.second == 0; });
      if (masked) continue; // padding: the file names experts, with weight zero
      auto const skip = skip_expert(reference);
      if (skip >= 0 && mine.count(skip) > 0) mine = {{0, 0.0}}; // such files store a skipped token so
      if (mine.size() != theirs.size() || !std::equal(mine.begin(), mine.end(), theirs.begin(),
                                                      [](auto const& p, auto const& q) { return p.first == q.first; }))
        return comparison.fail("token " + std::to_string(t) + " chose other experts" + name);
      for (auto const& [e, w] : mine) got_weights.push_back(w), their_weights.push_back(theirs.at(e));
    }
    comparison.output("topk_weight" + name, got_weights, their_weights);
  }

  /// Every tensor that makes up a parameter, against the file's gradient of it.
  void compare_gradients(Reference const& reference, Comparison& comparison, std::string const& prefix = "") const {
    grads.for_each([&](std::string const& parameter, auto const& view) {
      auto const values = to_doubles(view);
      auto const role_name = [&](std::string_view role) {
        std::string const name = reference.name_of_role(role, prefix);
        return name.empty() && role.substr(0, 6) == "shared" ? reference.name_of_role(role) : name;
      };
      for (auto const& place : kokomo::io::places_of(
               parameter,
               {kokomo::offset_t(view.extent(0)), kokomo::offset_t(view.extent(1)), kokomo::offset_t(view.extent(2))},
               [&](std::string_view role) { return !role_name(role).empty(); })) {
        std::string const name = "grad." + role_name(place.role);
        auto const* tensor = reference.find(name);
        if (tensor == nullptr) return comparison.fail(name + " is missing");
        auto expected = kokomo::io::read<double>(*tensor);
        std::vector<double> got;
        for (kokomo::offset_t chunk = 0; chunk < place.chunks; ++chunk)
          for (kokomo::offset_t i = 0; i < place.length; ++i)
            got.push_back(values[std::size_t(place.offset + chunk * place.stride + i)]);
        // rows of experts that compute nothing have a gradient of zero
        if (got.size() < expected.size()) got.resize(expected.size(), 0.0);
        comparison.gradient(name, got, expected);
      }
    });
  }

private:
  static std::int64_t skip_expert(Reference const& reference) {
    return reference.config().contains("skip_expert")
               ? reference.config().at("skip_expert").template get<std::int64_t>()
               : -1;
  }
};

/// What a file's special tensors mean to the policies of a layer. Keeps the memory that the inputs point to.
template <class Layer> struct SpecialInputs {
  using C = typename Layer::Compute;
  typename Layer::Inputs inputs;
  typename Layer::InputGradients d_inputs;
  kokomo::OwnedMatrix<kokomo::offset_t, Exec> token_ids;
  kokomo::OwnedMatrix<kokomo::index_t, Exec> mask, given;
  kokomo::OwnedMatrix<C, Exec> factors, previous, d_previous;

  explicit SpecialInputs(Reference const& reference) {
    auto const tokens = std::size_t(reference.tokens());
    if (reference.config().value("training", false)) inputs.mode = kokomo::Mode::training;
    if constexpr (requires { inputs.selector.token_ids; }) {
      token_ids = to_device<kokomo::offset_t>(reference.at("input_ids"), tokens, 1);
      inputs.selector.token_ids = Kokkos::subview(token_ids, Kokkos::ALL, 0);
    }
    if constexpr (requires { inputs.selector.experts; }) {
      auto const k = std::size_t(reference.at("topk_index").shape.at(1));
      given = to_device<kokomo::index_t>(reference.at("topk_index"), tokens, k);
      inputs.selector.experts = given;
    }
    if constexpr (requires { inputs.gate.factors; }) {
      if (reference.find("mixer0.mask_for_one") != nullptr) {
        auto const first = kokomo::io::read<C>(reference.at("mixer0.mask_for_one"));
        auto const second = kokomo::io::read<C>(reference.at("mixer1.mask_for_one"));
        factors = kokomo::OwnedMatrix<C, Exec>("factors", tokens, 2);
        auto const host = Kokkos::create_mirror_view(factors);
        for (std::size_t t = 0; t < tokens; ++t) host(t, 0) = first[t], host(t, 1) = second[t];
        Kokkos::deep_copy(factors, host);
        inputs.gate.factors = factors;
      }
    }
    if constexpr (requires { inputs.scorer.previous_states; }) {
      if (auto const* states = reference.find("previous_router_states")) {
        auto const width = std::size_t(states->shape.at(1));
        previous = to_device<C>(*states, tokens, width);
        d_previous = kokomo::OwnedMatrix<C, Exec>("d_previous", tokens, width);
        inputs.scorer.previous_states = previous;
        d_inputs.scorer.previous_states = d_previous;
      }
    }
    if (reference.find("padding_mask") != nullptr) {
      auto const padded = kokomo::io::read<std::int64_t>(reference.at("padding_mask"));
      mask = kokomo::OwnedMatrix<kokomo::index_t, Exec>("mask", tokens, 1);
      auto const host = Kokkos::create_mirror_view(mask);
      for (std::size_t t = 0; t < tokens; ++t) host(t, 0) = padded[t] != 0 ? 0 : 1;
      Kokkos::deep_copy(mask, host);
      inputs.token_mask = Kokkos::subview(mask, Kokkos::ALL, 0);
    }
  }
};

template <class Layer> void check_layer(Reference const& reference, Comparison& comparison) {
  Block<Layer> block(reference, reference.describe());
  SpecialInputs<Layer> const special(reference);
  block.run(special.inputs, special.d_inputs);
  comparison.output("output", to_doubles(block.y), kokomo::io::read<double>(reference.at("output")));
  block.compare_routing(reference, comparison, "");
  if constexpr (Layer::weighs_shared)
    comparison.output("shared_weight", to_doubles(block.layer.saved(block.tape).gate.shared_weight),
                      kokomo::io::read<double>(reference.at("shared_weight")));
  if constexpr (requires { special.inputs.scorer.previous_states; }) {
    comparison.output("router_states", to_doubles(block.layer.saved(block.tape).scorer.states),
                      kokomo::io::read<double>(reference.at("router_states")));
    if (special.d_previous.size() > 0)
      comparison.gradient("grad_previous_router_states", to_doubles(special.d_previous),
                          kokomo::io::read<double>(reference.at("grad_previous_router_states")));
  }
  comparison.gradient("grad_input", to_doubles(block.dx), kokomo::io::read<double>(reference.at("grad_input")));
  block.compare_gradients(reference, comparison);
}

template <template <class, class> class Model> void check(Reference const& reference, Comparison& comparison) {
  if (reference.is_bfloat16())
    check_layer<Model<kokomo::bfloat16, Exec>>(reference, comparison);
  else
    check_layer<Model<float, Exec>>(reference, comparison);
}

#endif
