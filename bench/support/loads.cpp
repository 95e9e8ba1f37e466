// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loads.hpp>

#include <algorithm>
#include <numeric>
#include <random>

namespace bench {

int routings(std::string const& load, Dimensions const& shape, long tokens) {
  if (load != "random" && load != "balanced") return 1;
  return static_cast<int>(std::max(1l, shape.experts / (tokens * shape.k)));
}

std::vector<int> wanted_experts(std::string const& load, Dimensions const& shape, long tokens, int routing) {
  if (load == "random" && routings(load, shape, tokens) == 1) return {};
  std::mt19937 generator(1);
  auto const experts = static_cast<int>(shape.experts), k = static_cast<int>(shape.k);
  std::vector<int> order(std::size_t(experts), 0), wanted;
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), generator);

  std::vector<double> probability(std::size_t(experts), 1);
  if (load == "zipf")
    for (int e = 0; e < experts; ++e) probability[std::size_t(e)] = 1.0 / (e + 1);
  if (load == "hot") probability[0] = 0;
  std::discrete_distribution<int> draw(probability.begin(), probability.end());

  for (long t = 0; t < tokens; ++t) {
    auto const first = static_cast<std::ptrdiff_t>(wanted.size());
    for (int j = 0; j < k; ++j) {
      if (load == "random" || load == "balanced") {
        wanted.push_back(order[std::size_t(((routing * tokens + t) * k + j) % experts)]);
      } else if (load == "hot" && t % 2 == 0 && j == 0) {
        wanted.push_back(order[0]);
      } else {
        int expert = 0;
        do expert = order[std::size_t(draw(generator))];
        while (std::find(wanted.begin() + first, wanted.end(), expert) != wanted.end());
        wanted.push_back(expert);
      }
    }
  }
  return wanted;
}

} // namespace bench
