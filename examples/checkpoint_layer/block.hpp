// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_BLOCK_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_BLOCK_HPP

#include <families/family_layer.hpp>

#include <functional>
#include <utility>
#include <vector>

/// One MoE block and the tokens that it is to be run on.
struct Block {
  families::MakeLayer* make_layer = nullptr;
  kokomo::models::Description description;
  kokomo::io::TensorOfRole tensor_of;
  kokomo::offset_t tokens = 0;
  families::Inputs inputs;
  bool bfloat16 = false; ///< store weights, input and output so, rounding what the file has
  bool timed = false;
  std::function<void(char const*)> progress; ///< told what begins
};

/// What came out of it.
struct Outcome {
  std::vector<float> y;               ///< [tokens, hidden]
  std::vector<float> logits;          ///< [tokens, columns]
  std::vector<kokomo::offset_t> load; ///< [experts] executed rows; identity and zero experts come last
  std::vector<std::vector<std::pair<kokomo::index_t, float>>> chosen; ///< [tokens] experts, ascending, and weights
  kokomo::Status status;
  double flop = 0;             ///< of the experts' products in one run
  std::vector<double> seconds; ///< of each timed run
};

/// Builds the family's layer, loads its weights and runs it. The layer is gone when this returns.
/// \throws kokomo::Error for settings, tensors and shapes that do not fit
Outcome run(Block const& block);

#endif
