// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/compositions.hpp>

namespace properties {

template <class T> static std::vector<Composition> all_in() {
  std::vector<Composition> list(6);
  list[0] = {.name = "DeepSeek-V3", .make = make::deepseek<T>, .groups = 4, .shared = true};
  list[1] = {.name = "Switch", .make = make::switch_transformer<T>, .by_position = true, .competes = true};
  list[2] = {.name = "NLLB", .make = make::nllb<T>, .competes = true};
  list[3] = {.name = "GPT-OSS", .make = make::gpt_oss<T>};
  list[4] = {.name = "Llama 4", .make = make::llama4<T>, .shared = true};
  list[5] = {.name = "LongCat", .make = make::longcat<T>};
  return list;
}

std::vector<Composition> const& compositions() {
  static std::vector<Composition> const all = [] {
    auto list = all_in<float>();
    list.push_back({.name = "SparseMixer", .make = sparse_mixer, .training_differs = true});
    return list;
  }();
  return all;
}

/// Without SparseMixer, whose gradient is an estimator by declaration.
std::vector<Composition> const& differentiable_compositions() {
  static std::vector<Composition> const all = all_in<double>();
  return all;
}

} // namespace properties
