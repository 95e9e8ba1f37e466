// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_SUPPORT_RANDOM_HPP
#define KOKOMO_BENCH_SUPPORT_RANDOM_HPP

#include <Kokkos_Core.hpp>

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace bench {

/// A uniform number in [-1, 1) that depends on seed and index alone, in operations that vectorise.
inline float uniform(std::uint32_t seed, std::uint32_t index) {
  std::uint32_t h = index * 0x9e3779b9u + seed;
  h = (h ^ (h >> 16)) * 0x85ebca6bu;
  h = (h ^ (h >> 13)) * 0xc2b2ae35u;
  h ^= h >> 16;
  return static_cast<float>(static_cast<std::int32_t>(h)) * 0x1p-31f;
}

/// Element i gets a number of variance scale^2.
template <class T> struct FillUniform {
  static constexpr std::int64_t block = 1 << 14;
  T* data;
  std::int64_t count;
  std::uint32_t seed;
  float scale;

  void operator()(std::int64_t number) const {
    std::int64_t const first = number * block, last = std::min(count, first + block);
    std::uint32_t const key = seed + static_cast<std::uint32_t>(number) * 0x27d4eb2fu;
    float const factor = scale * std::sqrt(3.0f);
    for (std::int64_t i = first; i < last; ++i)
      data[i] = static_cast<T>(factor * uniform(key, static_cast<std::uint32_t>(i - first)));
  }
};

/// Fills a contiguous host View on all threads.
template <class View> void fill_uniform(View const& view, std::uint32_t seed, double scale) {
  using Exec = Kokkos::DefaultHostExecutionSpace;
  using Fill = FillUniform<typename View::value_type>;
  auto const count = static_cast<std::int64_t>(view.size());
  Kokkos::parallel_for(
      "bench::fill",
      Kokkos::RangePolicy<Exec, Kokkos::IndexType<std::int64_t>>(0, (count + Fill::block - 1) / Fill::block),
      Fill{view.data(), count, seed, static_cast<float>(scale)});
  Kokkos::fence();
}

} // namespace bench

#endif
