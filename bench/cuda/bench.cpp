// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Times of layers on a GPU, bfloat16: bench/cuda.sh builds and runs it.
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/no_scorer.hpp>

#include <Kokkos_Core.hpp>

#include <cublas_v2.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <stdexcept>
#include <vector>

using namespace kokomo;

namespace {

using Exec = Kokkos::Cuda;
using T = bfloat16;

/// Experts and their sum alone: somebody says where tokens go.
using Given_ = Layer<Router<NoScorer, Given>, ConstantGate, NoBalancer, SwiGluExperts, T, Exec>;
/// A whole layer.
using Routed = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;

struct Row {
  char const* name;
  offset_t tokens, hidden, intermediate, experts;
  int k;
  bool train, whole;
};

void require_success(cudaError_t status) {
  if (status != cudaSuccess) throw std::runtime_error(cudaGetErrorString(status));
}

/// Numbers in (-1/2, 1/2) by position.
template <class S> struct Numbers {
  S* data;
  unsigned seed;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    unsigned h = unsigned(i) * 2654435761u + seed;
    h = (h ^ (h >> 15)) * 2246822519u;
    data[i] = S(float((h ^ (h >> 13)) >> 8) / 16777216.0f - 0.5f);
  }
};

/// k different experts a token, evenly.
struct Choices {
  index_t* data;
  int k;
  offset_t experts;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const token = i / k, choice = i % k;
    data[i] = index_t((token * 40503 + choice * (experts / k)) % experts);
  }
};

/// Median milliseconds of `call`, by events on the instance's stream.
template <class F> double milliseconds(Exec const& exec, F const& call) {
  cudaEvent_t begin, end;
  require_success(cudaEventCreate(&begin));
  require_success(cudaEventCreate(&end));
  call(), call();
  std::vector<double> times;
  for (double total = 0; times.size() < 5 || (total < 300 && times.size() < 50);) {
    require_success(cudaEventRecord(begin, exec.cuda_stream()));
    call();
    require_success(cudaEventRecord(end, exec.cuda_stream()));
    require_success(cudaEventSynchronize(end));
    float ms = 0;
    require_success(cudaEventElapsedTime(&ms, begin, end));
    times.push_back(ms);
    total += ms;
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  std::nth_element(times.begin(), times.begin() + std::ptrdiff_t(times.size() / 2), times.end());
  return times[times.size() / 2];
}

/// TFLOP/s of one large product, what this machine's tensor cores reach.
double large_product(Exec const& exec) {
  constexpr int n = 8192;
  OwnedVector<T, Exec> const a("a", n * std::size_t(n)), b("b", n * std::size_t(n)), c("c", n * std::size_t(n));
  detail::for_each(exec, "fill", offset_t(n) * n, Numbers<T>{a.data(), 1});
  detail::for_each(exec, "fill", offset_t(n) * n, Numbers<T>{b.data(), 2});
  cublasHandle_t handle;
  if (cublasCreate(&handle) != CUBLAS_STATUS_SUCCESS) throw std::runtime_error("cublasCreate failed");
  cublasSetStream(handle, exec.cuda_stream());
  float const one = 1, zero = 0;
  double const ms = milliseconds(exec, [&] {
    if (cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, n, n, n, &one, a.data(), CUDA_R_16BF, n, b.data(), CUDA_R_16BF,
                     n, &zero, c.data(), CUDA_R_16BF, n, CUBLAS_COMPUTE_32F,
                     CUBLAS_GEMM_DEFAULT) != CUBLAS_STATUS_SUCCESS)
      throw std::runtime_error("cublasGemmEx failed");
  });
  cublasDestroy(handle);
  return 2.0 * n * n * n / ms / 1e9;
}

template <class Layer> void measure(Exec const& exec, Row const& row, Products products, double limit) {
  typename Layer::Policies policies;
  policies.router.selector.k = row.k;
  policies.experts.intermediate = row.intermediate;
  policies.experts.products = products;
  Layer const layer({.tokens = row.tokens, .hidden = row.hidden, .experts = row.experts}, policies);
  auto const parameters = layer.make_parameters(exec), grads = row.train ? layer.make_parameters(exec) : parameters;
  unsigned seed = 0;
  parameters.for_each([&](auto const&, auto const& view) {
    using S = typename std::decay_t<decltype(view)>::non_const_value_type;
    detail::for_each(exec, "fill", offset_t(view.size()), Numbers<S>{view.data(), ++seed});
  });
  auto const state = layer.make_state(exec);
  auto const tokens = std::size_t(row.tokens), hidden = std::size_t(row.hidden);
  OwnedMatrix<T, Exec> const x("x", tokens, hidden), y("y", tokens, hidden), dy("dy", tokens, hidden),
      dx("dx", tokens, hidden);
  detail::for_each(exec, "fill", offset_t(x.size()), Numbers<T>{x.data(), ++seed});
  detail::for_each(exec, "fill", offset_t(dy.size()), Numbers<T>{dy.data(), ++seed});
  OwnedMatrix<index_t, Exec> const choices("choices", tokens, std::size_t(row.k));
  detail::for_each(exec, "choose", row.tokens * row.k, Choices{choices.data(), row.k, row.experts});
  typename Layer::Inputs inputs;
  inputs.x = x;
  if constexpr (std::is_same_v<Layer, Given_>) inputs.selector.experts = choices;
  typename Layer::InputGradients d_inputs;
  d_inputs.x = dx;
  auto const plan = layer.plan(exec);
  Workspace<Exec> const workspace(exec, plan);
  Tape<Exec> tape(exec, plan);
  double const forward =
      milliseconds(exec, [&] { layer.forward(exec, parameters, state, inputs, y, workspace, tape); });
  double const flops = 6.0 * double(row.tokens) * row.k * double(row.hidden) * double(row.intermediate);
  // experts that somebody visits, if each token chose its own at random
  double const active = double(row.experts) * (1 - std::pow(1 - double(row.k) / double(row.experts), double(tokens)));
  double const bytes = active * 6.0 * double(row.hidden) * double(row.intermediate);
  std::printf("%-22s %-8s %-12s %7ld %9.3f ms %7.1f TFLOP/s %5.1f %% %8.0f GB/s %7.0f MiB", row.name,
              row.whole ? "layer" : "experts", products == Products::portable ? "portable" : "tensor cores",
              long(row.tokens), forward, flops / forward / 1e9, 100 * flops / forward / 1e9 / limit,
              bytes / forward / 1e6, double(plan.workspace_bytes + plan.tape_bytes) / 1048576);
  if (row.train) {
    double const backward = milliseconds(
        exec, [&] { layer.backward(exec, parameters, state, inputs, dy, d_inputs, grads, workspace, tape); });
    std::printf("   backward %9.3f ms %7.1f TFLOP/s %5.1f %%", backward, 2 * flops / backward / 1e9,
                200 * flops / backward / 1e9 / limit);
  }
  std::printf("\n");
  std::fflush(stdout);
}

void measure(Exec const& exec, Row const& row, Products products, double limit) {
  if (row.whole)
    measure<Routed>(exec, row, products, limit);
  else
    measure<Given_>(exec, row, products, limit);
}

} // namespace

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  Exec const exec;
  double const limit = large_product(exec);
  std::printf("large product: %.1f TFLOP/s\n"
              "forward: time, rate, share of the large product, weights read, workspace and tape\n",
              limit);
  Row const rows[] = {
      {"qwen3-30b-a3b", 512, 2048, 768, 128, 8, true, false},  {"olmoe-1b-7b", 4096, 2048, 1024, 64, 8, true, false},
      {"olmoe-1b-7b", 32768, 2048, 1024, 64, 8, true, false},  {"olmoe-1b-7b", 32768, 2048, 1024, 64, 8, true, true},
      {"qwen3-30b-a3b", 4096, 2048, 768, 128, 8, true, false}, {"qwen3-30b-a3b", 32768, 2048, 768, 128, 8, true, false},
      {"qwen3-30b-a3b", 32768, 2048, 768, 128, 8, true, true}, {"1.4B fine", 40960, 768, 256, 128, 8, true, false},
      {"1.4B", 40960, 768, 512, 64, 4, true, false},           {"1.4B coarse", 40960, 768, 1024, 32, 2, true, false},
      {"7B fine", 24576, 1536, 256, 128, 8, true, false},      {"7B", 24576, 1536, 512, 64, 4, true, false},
      {"7B coarse", 24576, 1536, 1024, 32, 2, true, false},    {"30B fine", 32768, 4096, 256, 256, 16, true, false},
      {"30B", 32768, 4096, 512, 128, 8, true, false},          {"30B coarse", 32768, 4096, 1024, 64, 4, true, false},
      {"120B fine", 32768, 4096, 512, 256, 16, true, false},   {"120B", 32768, 4096, 1024, 128, 8, true, false},
      {"120B coarse", 32768, 4096, 2048, 64, 4, true, false},
  };
  for (Row const& row : rows) measure(exec, row, Products::tensor_cores, limit);
  for (offset_t tokens : {1, 4, 16, 64})
    for (bool whole : {false, true})
      measure(exec, {"qwen3-30b-a3b decode", tokens, 2048, 768, 128, 8, false, whole}, Products::tensor_cores, limit);
  measure(exec, rows[0], Products::portable, limit);
  return 0;
}
