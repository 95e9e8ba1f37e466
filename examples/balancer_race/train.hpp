// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_BALANCER_RACE_TRAIN_HPP
#define KOKOMO_EXAMPLES_BALANCER_RACE_TRAIN_HPP

#include "body.hpp"

#include <kokomo/stats/loads.hpp>

#include <array>

/// The model's two MoE layers, their type forgotten: what trains them is compiled once, not for each contestant.
class MoeLayers {
public:
  struct Weights {
    float* parameter;
    float const* gradient;
    std::size_t count;
    float fan_in; ///< inputs of one output
  };

  virtual ~MoeLayers() = default;
  virtual std::vector<Weights> weights(std::size_t layer) const = 0;
  virtual void forward(std::size_t layer, Matrix const& x, Matrix const& y, kokomo::Mode mode, int step) = 0;
  virtual void backward(std::size_t layer, Matrix const& x, Matrix const& dy, Matrix const& dx) = 0;
  virtual void step() = 0; ///< the balancers', once an optimiser step
  virtual kokomo::stats::Loads loads(std::size_t layer) const = 0;
};

/// Trains the language model with these layers, from the seed of the options.
Result train(std::string const& name, MoeLayers& layers, Text const& text, Options const& options,
             Report const& report);

#endif
