// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_SHAPES_HPP
#define KOKOMO_BENCH_SUPPORT_SHAPES_HPP

#include <string>
#include <vector>

namespace bench {

/// The sizes of one MoE layer of SwiGLU experts.
struct Dimensions {
  std::string name;
  long hidden, intermediate, experts, k;

  /// Floating-point operations of the experts and the router for a batch.
  double flops(long tokens) const {
    return double(tokens) * double(k) * 6 * double(hidden) * double(intermediate) +
           2 * double(tokens) * double(hidden) * double(experts);
  }
  /// Weights of one expert.
  double expert_weights() const { return 3 * double(hidden) * double(intermediate); }
};

/// Published layers, one of very many small experts, and one for tests of the benchmarks themselves.
inline std::vector<Dimensions> const& shapes() {
  static std::vector<Dimensions> const all{
      {"olmoe-1b-7b", 2048, 1024, 64, 8},
      {"qwen3-30b-a3b", 2048, 768, 128, 8},
      {"mixtral-8x7b/4", 2048, 7168, 8, 2}, // half of each side: the whole layer takes 5.6 GB in float32
      {"gpt-oss-20b", 2880, 2880, 32, 4},
      {"384-experts", 2048, 512, 384, 8},
      {"tiny", 64, 48, 8, 2},
  };
  return all;
}
inline std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (auto const& shape : shapes()) names.push_back(shape.name);
  return names;
}
/// The shape of a name that is in shape_names().
inline Dimensions const& shape(std::string const& name) {
  for (auto const& candidate : shapes())
    if (candidate.name == name) return candidate;
  return shapes().front();
}

} // namespace bench

#endif
