// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_DEVICE_HPP
#define KOKOMO_DETAIL_CUDA_DEVICE_HPP

#include <kokomo/detail/cuda/sources.hpp>

#include <Kokkos_Profiling_ScopedRegion.hpp>

#include <stdexcept>
#include <string>

/// The machine of tile_product.hpp that is a block of threads on a GPU, and the launch of a kernel.
namespace kokomo::inline v0::detail::cuda {

class DeviceMachine {
public:
  template <class X> struct Lanes {
    X value;
    KOKKOS_FUNCTION X& operator[](int) { return value; }
  };
  template <class X> struct Warps {
    X value;
    KOKKOS_FUNCTION explicit Warps(DeviceMachine const&) {}
    KOKKOS_FUNCTION X& operator[](int) { return value; }
  };

  KOKKOS_FUNCTION DeviceMachine(unsigned shared, int thread) : m_shared(shared), m_thread(thread) {}

  template <class F> KOKKOS_FUNCTION void phase(F const& f) {
    f(m_thread / warp_size);
#if defined(__CUDA_ARCH__)
    __syncthreads();
#endif
  }
  template <class F> KOKKOS_FUNCTION void lanes(F const& f) {
    f(m_thread % warp_size);
  }

  KOKKOS_FUNCTION void copy_async([[maybe_unused]] int to, [[maybe_unused]] void const* from,
                                  [[maybe_unused]] int bytes) {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(m_shared + unsigned(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
#endif
  }
  KOKKOS_FUNCTION void commit() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.commit_group;\n" ::: "memory");
#endif
  }
  template <int groups> KOKKOS_FUNCTION void wait() {
#if defined(__CUDA_ARCH__)
    asm volatile("cp.async.wait_group %0;\n" ::"n"(groups) : "memory");
#endif
  }

  template <class T> KOKKOS_FUNCTION void store([[maybe_unused]] int to, [[maybe_unused]] Elements<T> const& elements) {
#if defined(__CUDA_ARCH__)
    auto const& v = reinterpret_cast<unsigned const(&)[4]>(elements);
    asm volatile("st.shared.v4.b32 [%0], {%1, %2, %3, %4};\n" ::"r"(m_shared + unsigned(to)), "r"(v[0]), "r"(v[1]),
                 "r"(v[2]), "r"(v[3])
                 : "memory");
#endif
  }

  template <bool transposed, class F>
  KOKKOS_FUNCTION void load_matrices([[maybe_unused]] Lanes<Quad<std::uint32_t>>& to,
                                     [[maybe_unused]] F const& line_of_lane) {
#if defined(__CUDA_ARCH__)
    auto& r = to.value.v;
    unsigned const from = m_shared + unsigned(line_of_lane(m_thread % warp_size));
    if constexpr (transposed)
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from)
                   : "memory");
    else
      asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                   : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                   : "r"(from)
                   : "memory");
#endif
  }

  /// sums += a b, with registers `half` and half + 1 of b.
  template <class T>
  KOKKOS_FUNCTION void multiply([[maybe_unused]] Lanes<Quad<float>>& sums,
                                [[maybe_unused]] Lanes<Quad<std::uint32_t>>& a,
                                [[maybe_unused]] Lanes<Quad<std::uint32_t>>& b, [[maybe_unused]] int half) {
#if defined(__CUDA_ARCH__)
    auto& d = sums.value.v;
    auto const &l = a.value.v, &r = b.value.v;
    if constexpr (std::is_same_v<T, bfloat16>)
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                   "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[half]), "r"(r[half + 1]));
    else
      asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                   "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};\n"
                   : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                   : "r"(l[0]), "r"(l[1]), "r"(l[2]), "r"(l[3]), "r"(r[half]), "r"(r[half + 1]));
#endif
  }

  KOKKOS_FUNCTION void quad_sum([[maybe_unused]] Lanes<float>& v) {
    sum_over<4>(v);
  }
  KOKKOS_FUNCTION void warp_sum([[maybe_unused]] Lanes<float>& v) {
    sum_over<warp_size>(v);
  }

private:
  template <int width> KOKKOS_FUNCTION void sum_over([[maybe_unused]] Lanes<float>& v) {
#if defined(__CUDA_ARCH__)
    for (int apart = width / 2; apart > 0; apart /= 2) v.value += __shfl_xor_sync(0xffffffffu, v.value, apart);
#endif
  }

  [[maybe_unused]] unsigned m_shared;
  int m_thread;
};

#if defined(KOKKOS_ENABLE_CUDA) && defined(__CUDACC__)

template <class Kernel>
__global__ void __launch_bounds__(Kernel::Shape::threads, Kernel::Shape::blocks) run(Kernel const kernel) {
  extern __shared__ __align__(128) unsigned char shared[];
  DeviceMachine machine(static_cast<unsigned>(__cvta_generic_to_shared(shared)), int(threadIdx.x));
  kernel(machine, offset_t(blockIdx.x));
}

inline void check_launch(cudaError_t status, std::string const& label) {
  if (status != cudaSuccess) throw std::runtime_error(label + ": " + cudaGetErrorString(status));
}

/// Enqueues all blocks of a kernel on `exec`. Nothing is launched for nothing.
template <class Kernel> void launch(Kokkos::Cuda const& exec, std::string const& label, Kernel const& kernel) {
  offset_t const blocks = kernel.blocks();
  if (blocks <= 0) return;
  Kokkos::Profiling::ScopedRegion const region(label);
  check_launch(cudaSetDevice(exec.cuda_device()), label);
  check_launch(
      cudaFuncSetAttribute(run<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize, Kernel::Shape::shared_bytes),
      label);
  run<Kernel>
      <<<static_cast<unsigned>(blocks), Kernel::Shape::threads, Kernel::Shape::shared_bytes, exec.cuda_stream()>>>(
          kernel);
  check_launch(cudaGetLastError(), label);
}

#endif

} // namespace kokomo::inline v0::detail::cuda

#endif
