// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_LAYER_RUNNER_HPP
#define KOKOMO_BENCH_LAYER_RUNNER_HPP

#include <support/shapes.hpp>
#include <support/timing.hpp>

#include <cstddef>
#include <map>
#include <memory>
#include <string>

namespace bench {

/// One row to measure.
struct Request {
  long tokens = 1;
  std::string load = "random"; ///< see loads.hpp
  bool train = false;          ///< forward and backward
  double seconds = 2;
  int least = 3;       ///< calls
  bool packed = false; ///< weights packed beforehand; forward only
  bool phases = false; ///< also the time of each kernel
};

struct Measurement {
  Timing timing;
  int routings = 1;      ///< batches that the calls took in turn
  double active = 0;     ///< experts with tokens, mean over the routings
  long most_rows = 0;    ///< of one expert
  double flops = 0;      ///< of one call
  double bytes = 0;      ///< of weights and, in training, gradients that one call cannot avoid to move
  double read_bytes = 0; ///< of the active experts' weights
  double error = 0;      ///< of one token's output, relative, against the same sums in double
  double pack_ms = 0;    ///< to pack all weights, once
  std::size_t workspace_bytes = 0, tape_bytes = 0; ///< as Layer::plan says
  std::map<std::string, double> phases;            ///< milliseconds a call by kernel, if asked for
};

/// A layer of one shape and storage type with its weights.
class Runner {
public:
  virtual ~Runner() = default;
  virtual Measurement measure(Request const& request) = 0;
  virtual std::string kernel() const = 0; ///< what computes the experts, as Layer::describe says
};

std::unique_ptr<Runner> make_float32_runner(Dimensions const& shape);
std::unique_ptr<Runner> make_bfloat16_runner(Dimensions const& shape);

} // namespace bench

#endif
