// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_BLOCK_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_BLOCK_HPP

#include <kokomo/io/tensor.hpp>
#include <kokomo/models/description.hpp>

#include <functional>
#include <string_view>
#include <utility>
#include <vector>

/// One MoE block and the tokens that it is to be run on.
struct Block {
  kokomo::models::Description description;
  std::function<kokomo::io::TensorInfo const*(std::string_view role)> tensor_of; ///< the file's, or null
  kokomo::offset_t tokens = 0;
  std::vector<float> x;                    ///< [tokens, hidden]
  std::vector<kokomo::offset_t> token_ids; ///< [tokens]; read by routers that go by them
  bool bfloat16 = false;                   ///< store weights, input and output so, rounding what the file has
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

/// Builds the family's layer, loads its weights and runs it. Instantiated in families_*.cpp.
/// \throws kokomo::Error for settings, tensors and shapes that do not fit
template <template <class, class> class Model> Outcome run(Block const& block);

#endif
