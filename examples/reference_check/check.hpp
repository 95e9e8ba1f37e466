// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_REFERENCE_CHECK_CHECK_HPP
#define KOKOMO_EXAMPLES_REFERENCE_CHECK_CHECK_HPP

#include "reference.hpp"

#include <families/family_layer.hpp>

using families::Exec;
using Values = std::vector<double>;

// of a layer's numbers and a file's

/// Parameters and state from the file: of a block of several by its prefix ("text_"), where shared experts have none.
void load(families::FamilyLayer& layer, Reference const& reference, std::string const& prefix = "");
/// What a file holds beside x that policies read.
families::Inputs inputs_of(Reference const& reference);
/// Experts as sets, exactly; weights by expert. `rows` says which tokens, all if it is empty.
void compare_routing(families::FamilyLayer const& layer, Reference const& reference, Comparison& comparison,
                     std::string const& name, std::vector<bool> const& rows = {});
/// Every tensor that makes up a parameter, against the file's gradient of it.
void compare_gradients(families::FamilyLayer const& layer, Reference const& reference, Comparison& comparison,
                       std::string const& prefix = "");

/// The numbers of a tensor, integers or not.
Values values_of(Reference const& reference, std::string const& name);

inline Values doubles(std::vector<float> const& values) {
  return Values(values.begin(), values.end());
}

// of Views, where a check works on policies without a layer

/// Contiguous device memory as doubles.
template <class V> Values to_doubles(V const& view) {
  std::vector<typename V::non_const_value_type> values(view.size());
  families::copy_to_host(values.data(), view.data(), values.size() * sizeof(values[0]));
  return Values(values.begin(), values.end());
}

/// Fills contiguous device memory.
template <class V, class From> void set(V const& view, std::vector<From> const& values) {
  std::vector<typename V::value_type> const converted(values.begin(), values.end());
  families::copy_to_device(view.data(), converted.data(), converted.size() * sizeof(converted[0]));
}

/// A matrix on the device with the values of a tensor of rows x columns elements.
template <class T>
kokomo::OwnedMatrix<T, Exec> to_device(kokomo::io::TensorInfo const& tensor, std::size_t rows, std::size_t columns) {
  kokomo::OwnedMatrix<T, Exec> view("tensor", rows, columns);
  std::vector<T> values(view.size());
  kokomo::io::read(tensor, std::span<T>(values));
  set(view, values);
  return view;
}

#endif
