// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_COMPOSITIONS_HPP
#define KOKOMO_TESTS_PROPERTIES_COMPOSITIONS_HPP

#include <properties/machine.hpp>

#include <functional>

namespace properties {

using Maker = std::function<std::unique_ptr<Machine>(Setup const&)>;

/// A composition and what its policies declare of themselves.
struct Composition {
  std::string name;
  Maker make;
  bool by_position = false;      ///< a token's place in the batch decides whether it is dropped
  bool competes = false;         ///< tokens compete for places
  int groups = 1;                ///< relabelling must keep groups together
  bool shared = false;           ///< masked tokens still visit shared experts
  bool training_differs = false; ///< by design, in its outputs
};

/// In float32, without random choices in inference.
std::vector<Composition> const& compositions();
/// The same in float64, for finite differences: at points without ties every gradient is the exact one.
std::vector<Composition> const& differentiable_compositions();
std::unique_ptr<Machine> sparse_mixer(Setup const& setup);
/// Top-1 with one place an expert, position order.
std::unique_ptr<Machine> one_place(Setup const& setup);

/// One by one, in storage type T; deepseek in all four, the others in float and double.
namespace make {
template <class T> std::unique_ptr<Machine> deepseek(Setup const& setup);
template <class T> std::unique_ptr<Machine> switch_transformer(Setup const& setup);
template <class T> std::unique_ptr<Machine> nllb(Setup const& setup);
template <class T> std::unique_ptr<Machine> gpt_oss(Setup const& setup);
template <class T> std::unique_ptr<Machine> llama4(Setup const& setup);
template <class T> std::unique_ptr<Machine> longcat(Setup const& setup);
} // namespace make

} // namespace properties

#endif
