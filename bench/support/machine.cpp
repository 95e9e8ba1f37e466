// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/machine.hpp>
#include <support/timing.hpp>

#include <kokomo/detail/host/memory.hpp>
#include <kokomo/detail/host/microkernel.hpp>

#include <Kokkos_Core.hpp>

#include <cstdint>
#include <stdexcept>

namespace bench {
namespace {

using Exec = Kokkos::DefaultHostExecutionSpace;

/// Runs work(worker) on every thread.
template <class Work> struct OnEach {
  Work work;
  void operator()(int worker) const { work(worker); }
};
template <class Work> void on_each_thread(Exec const& exec, Work const& work) {
  Kokkos::parallel_for("bench",
                       Kokkos::RangePolicy<Exec, Kokkos::Schedule<Kokkos::Static>>(exec, 0, exec.concurrency()),
                       OnEach<Work>{work});
  exec.fence();
}

// Each loop keeps enough independent chains of multiply-adds in registers to hide their latency, and returns a value
// that depends on all of them. The factors come from memory, so that nothing can be computed beforehand.

constexpr long steps = 1 << 20;
float volatile factors[2] = {0.5f, 1.0f};

struct Chains {
  double flops_a_step;
  float (*run)();
};

float portable_chains() {
  float const scale = factors[0], shift = factors[1];
  float sum[32] = {};
  for (long i = 0; i < steps; ++i)
    for (float& s : sum) s = s * scale + shift;
  float total = 0;
  for (float const s : sum) total += s;
  return total;
}

#if KOKOMO_HOST_X86
__attribute__((target("avx2,fma"))) float avx2_chains() {
  __m256 const scale = _mm256_set1_ps(factors[0]), shift = _mm256_set1_ps(factors[1]);
  __m256 sum[12];
  for (auto& s : sum) s = shift;
  for (long i = 0; i < steps; ++i)
#pragma GCC unroll 12
    for (auto& s : sum) s = _mm256_fmadd_ps(s, scale, shift);
  for (auto const& s : sum) sum[0] = _mm256_add_ps(sum[0], s);
  return _mm256_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f"))) float avx512_chains() {
  __m512 const scale = _mm512_set1_ps(factors[0]), shift = _mm512_set1_ps(factors[1]);
  __m512 sum[20];
  for (auto& s : sum) s = shift;
  for (long i = 0; i < steps; ++i)
#pragma GCC unroll 20
    for (auto& s : sum) s = _mm512_fmadd_ps(s, scale, shift);
  for (auto const& s : sum) sum[0] = _mm512_add_ps(sum[0], s);
  return _mm512_cvtss_f32(sum[0]);
}

__attribute__((target("avx512f,avx512bf16"))) float avx512_bf16_chains() {
  // 0x3c00 is 2^-7 as a bfloat16; pairs of products are added to each float
  auto const pairs = (__m512bh)_mm512_set1_epi32(factors[0] > 0 ? 0x3c003c00 : 0);
  __m512 sum[20];
  for (auto& s : sum) s = _mm512_set1_ps(factors[1]);
  for (long i = 0; i < steps; ++i)
#pragma GCC unroll 20
    for (auto& s : sum) s = _mm512_dpbf16_ps(s, pairs, pairs);
  for (auto const& s : sum) sum[0] = _mm512_add_ps(sum[0], s);
  return _mm512_cvtss_f32(sum[0]);
}
#endif

struct RunChains {
  float (*run)();
  float* results;
  void operator()(int worker) const { results[worker * 16] = run(); }
};

double gflops(Exec const& exec, Chains const& chains) {
  std::vector<float> results(static_cast<std::size_t>(exec.concurrency()) * 16);
  auto const timing = time_calls(0.2, 3, [&] { on_each_thread(exec, RunChains{chains.run, results.data()}); });
  return chains.flops_a_step * steps * exec.concurrency() / timing.quantile(0) / 1e6;
}

// Element i of the array is i times an odd number, so the sum over all is known, modulo 2^64: a compiler that removed
// loads would be found out.

constexpr std::uint64_t multiplier = 0x9e3779b97f4a7c15u;

std::uint64_t portable_sum(std::uint64_t const* data, std::size_t count) {
  std::uint64_t sum[8] = {};
  for (std::size_t i = 0; i + 8 <= count; i += 8)
    for (int j = 0; j < 8; ++j) sum[j] += data[i + std::size_t(j)];
  for (int j = 1; j < 8; ++j) sum[0] += sum[j];
  return sum[0];
}

#if KOKOMO_HOST_X86
/// The same through wide loads, of `streams` parts of the array at once, with prefetches some lines ahead or without.
template <int streams, bool prefetched>
__attribute__((target("avx2"))) std::uint64_t avx2_sum(std::uint64_t const* data, std::size_t count) {
  __m256i sum[2 * streams] = {};
  std::size_t const part = count / streams;
  for (std::size_t i = 0; i < part; i += 8)
#pragma GCC unroll 4
    for (int s = 0; s < streams; ++s) {
      auto const* const line = reinterpret_cast<__m256i const*>(data + std::size_t(s) * part + i);
      if constexpr (prefetched) _mm_prefetch(reinterpret_cast<char const*>(line) + 1024, _MM_HINT_T0);
      sum[2 * s] = _mm256_add_epi64(sum[2 * s], _mm256_load_si256(line));
      sum[2 * s + 1] = _mm256_add_epi64(sum[2 * s + 1], _mm256_load_si256(line + 1));
    }
  for (int s = 1; s < 2 * streams; ++s) sum[0] = _mm256_add_epi64(sum[0], sum[s]);
  alignas(32) std::uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sum[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}
#endif

using Sum = std::uint64_t (*)(std::uint64_t const*, std::size_t);

struct FillShare {
  std::uint64_t* data;
  std::size_t share;
  void operator()(int worker) const {
    for (std::size_t i = share * std::size_t(worker); i < share * std::size_t(worker + 1); ++i)
      data[i] = multiplier * i;
  }
};
struct SumShare {
  Sum sum;
  std::uint64_t const* data;
  std::size_t share;
  std::uint64_t* results;
  void operator()(int worker) const { results[worker * 8] = sum(data + share * std::size_t(worker), share); }
};

double bandwidth(Exec const& exec, long mib) {
  auto const threads = std::size_t(exec.concurrency());
  std::size_t const share = (std::size_t(mib) << 20) / sizeof(std::uint64_t) / threads / 64 * 64; // whole lines
  std::size_t const count = share * threads;
  Kokkos::View<std::uint64_t*, Kokkos::HostSpace> const memory(
      Kokkos::view_alloc(Kokkos::WithoutInitializing, "bench::stream"), count);
  kokomo::detail::host::advise_large_pages(memory.data(), count * sizeof(std::uint64_t)); // as weights have
  on_each_thread(exec, FillShare{memory.data(), share});
  std::uint64_t const expected =
      multiplier * (count % 2 == 0 ? count / 2 * (count - 1) : (count - 1) / 2 * count); // 0 + 1 + ... + (count - 1)
  std::vector<Sum> sums{portable_sum};
#if KOKOMO_HOST_X86
  if (__builtin_cpu_supports("avx2"))
    sums.insert(sums.end(), {avx2_sum<1, true>, avx2_sum<2, false>, avx2_sum<4, true>});
#endif
  std::vector<std::uint64_t> results(threads * 8);
  double best = 0;
  for (Sum const sum : sums) {
    auto const timing = time_calls(0.3, 3, [&] {
      on_each_thread(exec, SumShare{sum, memory.data(), share, results.data()});
      std::uint64_t total = 0;
      for (std::size_t worker = 0; worker < threads; ++worker) total += results[worker * 8];
      if (total != expected) throw std::runtime_error("the loop that measures bandwidth did not read all it should");
    });
    best = std::max(best, double(count) * sizeof(std::uint64_t) / timing.median() / 1e6);
  }
  return best;
}

} // namespace

double Limits::product_gflops(std::string const& dtype) const {
  double best = 0;
  for (auto const& [name, rate] : gflops)
    if (dtype == "bfloat16" || name.find("BF16") == std::string::npos) best = std::max(best, rate);
  return best;
}

Json Limits::json() const {
  Json rates;
  for (auto const& [name, rate] : gflops) rates.add(name, rate);
  return Json().add("gflops", rates).add("bandwidth_gbs", bandwidth);
}

Limits measure_limits(long stream_mib) {
  Exec const exec;
  Limits limits;
#if KOKOMO_HOST_X86
  using kokomo::detail::host::InstructionSet, kokomo::detail::host::supports;
  if (supports(InstructionSet::avx2)) limits.gflops["AVX2+FMA"] = gflops(exec, {12 * 8 * 2, avx2_chains});
  if (supports(InstructionSet::avx512)) limits.gflops["AVX-512F"] = gflops(exec, {20 * 16 * 2, avx512_chains});
  if (__builtin_cpu_supports("avx512bf16"))
    limits.gflops["AVX512-BF16"] = gflops(exec, {20 * 32 * 2, avx512_bf16_chains});
#endif
  if (limits.gflops.empty()) limits.gflops["portable"] = gflops(exec, {32 * 2, portable_chains});
  if (stream_mib > 0) limits.bandwidth = bandwidth(exec, stream_mib);
  return limits;
}

} // namespace bench
