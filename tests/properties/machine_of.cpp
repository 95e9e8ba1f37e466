// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/machine_of.hpp>

#include <stdexcept>

namespace properties {

void upload(kokomo::test::Tensor const& tensor, std::vector<double> const& values) {
  if (values.size() != tensor.size) throw std::logic_error("properties: a tensor of another size");
  tensor.write(values);
}

void read_assignment(Result& result, kokomo::test::HostAssignment const& a) {
  result.token_offsets = a.token_offsets;
  result.expert_offsets = a.expert_offsets;
  result.expert = a.expert;
  result.weight = a.weight;
  result.row = a.row;
  result.entry_of_row = a.entry_of_row;
  result.token_of_row = a.token_of_row;
  result.expert_of_row = a.expert_of_row;
  result.weight_of_row = a.weight_of_row;
}

Tensors tensors_of(std::vector<NamedView> const& views) {
  Tensors tensors;
  for (auto const& view : views) tensors[view.name] = {{view.extents.begin(), view.extents.end()}, view.tensor.read()};
  return tensors;
}

void upload_all(std::vector<NamedView> const& views, Tensors const& tensors) {
  for (auto const& view : views) upload(view.tensor, tensors.at(view.name).values);
}

} // namespace properties
