// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_BALANCER_RACE_RACE_HPP
#define KOKOMO_EXAMPLES_BALANCER_RACE_RACE_HPP

#include <kokomo/stats/history.hpp>

#include <functional>
#include <string>
#include <vector>

/// What all contestants share.
struct Options {
  int steps = 300;
  int sequences = 16; ///< a batch
  int length = 64;    ///< bytes of a sequence
  int hidden = 64;
  int experts = 16;
  int active = 2; ///< experts a token, or what it should be on average
  int intermediate = 64;
  float rate = 3e-3f;
  std::uint64_t seed = 1;

  int tokens() const { return sequences * length; }
};

/// Bytes to learn from, and a part that is held out.
struct Text {
  std::vector<unsigned char> train, held_out;
  std::string name;
};

struct Result {
  std::string name;
  std::string note;
  std::vector<double> loss;       ///< [steps] nats a byte, of each batch before it is learned from
  double held_out = 0;            ///< after the last step
  double seconds = 0;             ///< median of a step
  kokomo::stats::History history; ///< of both layers

  Result() : history({"layer 0", "layer 1"}) {}

  static constexpr std::size_t window = 50; ///< the last steps, over which these are computed
  double recent_loss() const;
  double max_violation() const;     ///< mean over steps and layers
  double experts_per_token() const; ///< likewise
  int dead() const;                 ///< experts of both layers without a single token
};

/// Says how far a contestant is; called at each step.
using Report = std::function<void(int step, double loss)>;

using Race = Result(Text const&, Options const&, Report const&);
Race no_balancing, switch_loss, z_loss, loss_free_bias; // one layer type, its settings differ
Race bip, sinkhorn, expert_choice, remoe, top_p;

std::string to_json(Text const& text, Options const& options, std::vector<Result> const& results);
std::string picture(Text const& text, Options const& options, std::vector<Result> const& results);

#endif
