// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <algorithm>

Values values_of(Reference const& reference, std::string const& name) {
  auto const& tensor = reference.at(name);
  if (tensor.dtype != kokomo::io::DType::I64) return kokomo::io::read<double>(tensor);
  auto const integers = kokomo::io::read<std::int64_t>(tensor);
  return Values(integers.begin(), integers.end());
}

void load(families::FamilyLayer& layer, Reference const& reference, std::string const& prefix) {
  layer.load([&](std::string_view role) {
    auto const* tensor = reference.of_role(role, prefix);
    return tensor != nullptr || role.substr(0, 6) != "shared" ? tensor : reference.of_role(role);
  });
}

families::Inputs inputs_of(Reference const& reference) {
  families::Inputs inputs;
  inputs.x = kokomo::io::read<float>(reference.at("input"));
  if (reference.config().value("training", false)) inputs.mode = kokomo::Mode::training;
  if (auto const* ids = reference.find("input_ids")) inputs.token_ids = kokomo::io::read<kokomo::offset_t>(*ids);
  if (auto const* index = reference.find("topk_index")) inputs.experts = kokomo::io::read<kokomo::index_t>(*index);
  if (reference.find("mixer0.mask_for_one") != nullptr) {
    auto const first = kokomo::io::read<float>(reference.at("mixer0.mask_for_one"));
    auto const second = kokomo::io::read<float>(reference.at("mixer1.mask_for_one"));
    for (std::size_t t = 0; t < first.size(); ++t)
      inputs.gate_factors.push_back(first[t]), inputs.gate_factors.push_back(second[t]);
  }
  if (auto const* states = reference.find("previous_router_states"))
    inputs.previous_states = kokomo::io::read<float>(*states);
  if (auto const* padded = reference.find("padding_mask"))
    for (auto const pads : kokomo::io::read<std::int64_t>(*padded)) inputs.token_mask.push_back(pads != 0 ? 0 : 1);
  return inputs;
}

void compare_routing(families::FamilyLayer const& layer, Reference const& reference, Comparison& comparison,
                     std::string const& name, std::vector<bool> const& rows) {
  auto const* index = reference.find("topk_index");
  if (index == nullptr) return;
  auto const a = layer.assignment();
  auto const& config = reference.config();
  // which weight a dropped entry has is a convention of the file: that of its score, or zero
  bool const drops_are_zero = config.value("selection", std::string()) == "top2_capacity";
  std::int64_t const skip = config.contains("skip_expert") ? config.at("skip_expert").get<std::int64_t>() : -1;
  auto const expected = kokomo::io::read<std::int64_t>(*index);
  auto const expected_weight = kokomo::io::read<double>(reference.at("topk_weight"));
  auto const k = std::size_t(index->shape.at(1));
  Values got_weights, their_weights;
  for (std::size_t t = 0; t < std::size_t(reference.tokens()); ++t) {
    if (!rows.empty() && !rows[t]) continue;
    std::map<std::int64_t, double> mine, theirs;
    for (auto i = std::size_t(a.token_offsets[t]); i < std::size_t(a.token_offsets[t + 1]); ++i)
      if (a.expert[i] != kokomo::none)
        mine[a.expert[i]] = drops_are_zero && a.row[i] == kokomo::none ? 0.0 : double(a.weight[i]);
    for (std::size_t j = 0; j < k; ++j) theirs[expected[t * k + j]] = expected_weight[t * k + j];
    bool const masked =
        mine.empty() && std::all_of(theirs.begin(), theirs.end(), [](auto const& p) { return p.second == 0; });
    if (masked) continue;                                     // padding: the file names experts, with weight zero
    if (skip >= 0 && mine.count(skip) > 0) mine = {{0, 0.0}}; // such files store a skipped token so
    if (mine.size() != theirs.size() || !std::equal(mine.begin(), mine.end(), theirs.begin(),
                                                    [](auto const& p, auto const& q) { return p.first == q.first; }))
      return comparison.fail("token " + std::to_string(t) + " chose other experts" + name);
    for (auto const& [e, w] : mine) got_weights.push_back(w), their_weights.push_back(theirs.at(e));
  }
  comparison.output("topk_weight" + name, got_weights, their_weights);
}

namespace {

void compare_gradient(families::Gradient const& gradient, Reference const& reference, Comparison& comparison,
                      std::string const& prefix) {
  auto const role_name = [&](std::string_view role) {
    std::string const name = reference.name_of_role(role, prefix);
    return name.empty() && role.substr(0, 6) == "shared" ? reference.name_of_role(role) : name;
  };
  for (auto const& place : kokomo::io::places_of(gradient.parameter, gradient.extents,
                                                 [&](std::string_view role) { return !role_name(role).empty(); })) {
    std::string const name = "grad." + role_name(place.role);
    auto const* tensor = reference.find(name);
    if (tensor == nullptr) return comparison.fail(name + " is missing");
    auto const expected = kokomo::io::read<double>(*tensor);
    Values got;
    for (kokomo::offset_t chunk = 0; chunk < place.chunks; ++chunk)
      for (kokomo::offset_t i = 0; i < place.length; ++i)
        got.push_back(gradient.values[std::size_t(place.offset + chunk * place.stride + i)]);
    // rows of experts that compute nothing have a gradient of zero
    if (got.size() < expected.size()) got.resize(expected.size(), 0.0);
    comparison.gradient(name, got, expected);
  }
}

} // namespace

void compare_gradients(families::FamilyLayer const& layer, Reference const& reference, Comparison& comparison,
                       std::string const& prefix) {
  for (auto const& gradient : layer.gradients()) compare_gradient(gradient, reference, comparison, prefix);
}

void check_family(std::string_view composition, Reference const& reference, Comparison& comparison) {
  auto const layer =
      families::composition(composition)(reference.describe(), reference.tokens(), reference.is_bfloat16());
  load(*layer, reference);
  auto const inputs = inputs_of(reference);
  layer->forward(inputs);
  layer->backward(kokomo::io::read<float>(reference.at("grad_output")));

  comparison.output("output", doubles(layer->y()), values_of(reference, "output"));
  compare_routing(*layer, reference, comparison, "");
  if (auto const weight = layer->shared_weight(); !weight.empty())
    comparison.output("shared_weight", doubles(weight), values_of(reference, "shared_weight"));
  if (auto const states = layer->router_states(); !states.empty()) {
    comparison.output("router_states", doubles(states), values_of(reference, "router_states"));
    if (!inputs.previous_states.empty())
      comparison.gradient("grad_previous_router_states", doubles(layer->d_previous_states()),
                          values_of(reference, "grad_previous_router_states"));
  }
  comparison.gradient("grad_input", doubles(layer->dx()), values_of(reference, "grad_input"));
  compare_gradients(*layer, reference, comparison);
}
