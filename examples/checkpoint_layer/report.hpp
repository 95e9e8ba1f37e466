// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_CHECKPOINT_LAYER_REPORT_HPP
#define KOKOMO_EXAMPLES_CHECKPOINT_LAYER_REPORT_HPP

#include <kokomo/routing.hpp>

#include <string>
#include <vector>

/// What all blocks have in common.
struct Run {
  std::string folder, model_type, dtype, execution_space;
  int threads = 0;
  bool check = false;
  double bound = 0;       ///< of the relative error
  std::uint64_t seed = 0; ///< of generated tokens
};

/// What is reported of one block.
struct Result {
  int layer = 0;
  std::string composition; ///< an alias of kokomo::models
  kokomo::offset_t hidden = 0, intermediate = 0, shared = 0, shared_intermediate = 0;
  kokomo::offset_t experts = 0; ///< all that can be chosen, as `load` has
  int k = 0;
  kokomo::offset_t tokens = 0;
  std::vector<kokomo::offset_t> load; ///< [experts] rows
  kokomo::Status status;
  double flop = 0;
  std::vector<double> seconds; ///< ascending

  double error = 0;    ///< of a check
  std::string note;    ///< what a reader of a passed check must know
  std::string failure; ///< why a check failed; empty: it did not

  double median() const;
  double balanced() const;      ///< rows an expert if all had as many
  double max_violation() const; ///< MaxVio: what the busiest expert has above that, as a share of it
};

/// "512 tokens a block, float32 on OpenMP (2 threads), ..."
void print_header(Run const& run);
void print_check(Run const& run, Result const& result);
void print_timing(Result const& result);

std::string to_json(Run const& run, std::vector<Result> const& results);

/// The load by layer and expert, in units of the balanced load, as SVG.
std::string heat_map(Run const& run, std::vector<Result> const& results);

#endif
