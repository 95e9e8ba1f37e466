// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_IO_FAMILIES_HPP
#define KOKOMO_IO_FAMILIES_HPP

#include <kokomo/io/families/deepseek.hpp>
#include <kokomo/io/families/selected.hpp>
#include <kokomo/io/families/sigmoid.hpp>
#include <kokomo/io/families/softmax.hpp>

#include <array>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace kokomo::inline v0::detail::families {

/// The tables of `io/families/`.
inline constexpr std::span<Family const> tables[] = {softmax_families, deepseek_families, sigmoid_families,
                                                     selected_families};

} // namespace kokomo::inline v0::detail::families

namespace kokomo::inline v0::io {

/// Calls f(family) for every known family, each model_type once.
template <class F> void for_each_family(F const& f) {
  for (auto const table : detail::families::tables)
    for (auto const& family : table) f(family);
}

/// The family of a model_type, or null. `X_text` is the language model of X alone.
inline Family const* find_family(std::string_view model_type) {
  Family const* found = nullptr;
  for_each_family([&](Family const& family) {
    bool const text_only =
        model_type.ends_with("_text") && model_type.substr(0, model_type.size() - 5) == family.model_type;
    if (model_type == family.model_type || (found == nullptr && text_only)) found = &family;
  });
  return found;
}

/// The family that a config.json names.
/// \throws Error 431, 432 if it has no model_type, 434 if no family is called so
inline Family const& family(Config const& config) {
  auto const model_type = config.string("model_type");
  auto const* const found = find_family(model_type);
  if (found == nullptr) {
    std::string known;
    for_each_family([&](Family const& each) { known += (known.empty() ? "" : ", ") + std::string(each.model_type); });
    detail::fail(434, config.name(), ": model_type is ", detail::printable(model_type), ", expected one of ", known);
  }
  return *found;
}

/// The layers that are MoE blocks, in order.
/// \throws Error 431 to 434 if the configuration does not say which
inline std::vector<int> sparse_layers(Config const& config) {
  auto const& of = family(config);
  auto const settings = of.settings_of(config);
  std::vector<int> layers;
  for (int layer = 0, count = of.layers(config); layer < count; ++layer)
    if (of.sparse(settings, layer)) layers.push_back(layer);
  return layers;
}

} // namespace kokomo::inline v0::io

#endif
