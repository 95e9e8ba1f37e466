// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_PROPERTIES_MACHINE_HPP
#define KOKOMO_TESTS_PROPERTIES_MACHINE_HPP

#include <kokomo/routing.hpp>

#include <map>
#include <memory>
#include <random>
#include <string>
#include <vector>

/// A layer behind a plain interface of host numbers, so that a composition is compiled once and all properties run on
/// it. double holds every value of every storage type, so what is compared is the layer's own bits.
namespace properties {

using kokomo::index_t;
using kokomo::offset_t;

struct Tensor {
  std::vector<offset_t> extents;
  std::vector<double> values;
};
using Tensors = std::map<std::string, Tensor>;

/// What one call brings.
struct Batch {
  offset_t tokens = 0;
  std::vector<double> x;            ///< [tokens, hidden]
  std::vector<double> dy;           ///< [tokens, hidden], for backward
  std::vector<double> router_input; ///< [tokens, router_hidden], or empty
  std::vector<index_t> mask;        ///< [tokens], or empty
  kokomo::Mode mode = kokomo::Mode::inference;
  std::uint64_t step = 0;
};

/// What it leaves. Outputs, gradients, workspace and tape are poisoned before each call.
struct Result {
  std::vector<double> y, logits, weight, weight_of_row;
  std::vector<offset_t> token_offsets, expert_offsets;
  std::vector<index_t> expert, row, entry_of_row, token_of_row, expert_of_row;
  double loss = 0;
  kokomo::Status status;
  std::vector<double> dx, d_router_input;
  Tensors gradients;
  bool guards_intact = false; ///< nothing was written around workspace and tape, each exactly as large as planned
};

enum class Pass { forward, forward_and_backward };

class Machine {
public:
  virtual ~Machine() = default;

  virtual kokomo::Sizes const& sizes() const = 0;
  /// Runs on the parameters and the state below; state is what the call leaves.
  virtual Result run(Batch const& batch, Pass pass = Pass::forward) = 0;
  virtual void step() = 0;

  Tensors parameters, state;
  int workers = 0;        ///< shares of the host products; 0: as planned
  bool partition = false; ///< run on half of the default instance's threads
};

/// Sizes that a composition is built with; what it sets itself (k, groups, ...) follows from them.
struct Setup {
  offset_t tokens = 40; ///< most a batch
  offset_t hidden = 12;
  offset_t experts = 8;
  int k = 3;                  ///< where a composition has a choice
  offset_t router_hidden = 0; ///< > 0: the router reads a tensor of its own
  float bias_rate = 0.01f;
};

/// Uniform numbers in [-1, 1) of 12 bits: exact in float32, and few enough bits to be exact in float16 products' sums.
inline std::vector<double> random_numbers(std::size_t count, unsigned seed, double scale = 1) {
  std::mt19937 engine(seed);
  std::vector<double> numbers(count);
  for (double& number : numbers) number = scale * (double(engine() >> 20) / 2048 - 1);
  return numbers;
}

inline Batch random_batch(Machine const& machine, offset_t tokens, unsigned seed = 1) {
  Batch batch;
  batch.tokens = tokens;
  auto const hidden = std::size_t(machine.sizes().hidden);
  batch.x = random_numbers(std::size_t(tokens) * hidden, seed);
  batch.dy = random_numbers(std::size_t(tokens) * hidden, seed + 1000);
  return batch;
}

/// A batch whose logits the test writes: the router reads a tensor of its own through the identity matrix. For machines
/// with Setup::router_hidden = columns.
inline Batch with_logits(Machine& machine, Batch batch, std::vector<double> const& logits) {
  auto const columns = std::size_t(machine.sizes().columns);
  auto& weight = machine.parameters.at("router.weight").values;
  for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = i % columns == i / columns ? 1 : 0;
  if (machine.parameters.contains("router.bias"))
    for (double& bias : machine.parameters.at("router.bias").values) bias = 0;
  batch.router_input = logits;
  return batch;
}

} // namespace properties

#endif
