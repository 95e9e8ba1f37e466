// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_TENSOR_CORES_HPP
#define KOKOMO_DETAIL_CUDA_TENSOR_CORES_HPP

#include <kokomo/detail/cuda/fragments.hpp>
#include <kokomo/detail/feed_forward_backward.hpp>

#include <string>
#include <type_traits>

/// What experts need to know of tensor cores. The rest, feed_forward.hpp, only a compiler for GPUs reads.
namespace kokomo::inline v0::detail::cuda {

/// Kokkos::Cuda for a device that has mma.sync.m16n8k16 and cp.async, and a 16-bit storage type.
#if defined(KOKKOS_ENABLE_CUDA) && (defined(KOKKOS_ARCH_AMPERE) || defined(KOKKOS_ARCH_ADA89) ||                       \
                                    defined(KOKKOS_ARCH_HOPPER) || defined(KOKKOS_ARCH_BLACKWELL))
template <class T, class Exec>
inline constexpr bool has_tensor_cores_v = std::is_same_v<Exec, Kokkos::Cuda> &&
                                           (std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>);
#else
template <class T, class Exec> inline constexpr bool has_tensor_cores_v = false;
#endif

using ProductTile = DefaultTile; ///< of every product on tiles

/// Which kernels run, in words.
inline std::string describe() {
  using S = ProductTile;
  return "tensor cores: tiles of " + std::to_string(S::rows) + " rows x " + std::to_string(S::columns) + " columns, " +
         std::to_string(S::depth) + " deep, " + std::to_string(S::stages) +
         " stages; for few rows an expert, a warp a column";
}

/// Partial sums along a row of `columns`: one for each warp of each tile.
inline offset_t partial_sums(offset_t columns) {
  return (columns + ProductTile::columns - 1) / ProductTile::columns * ProductTile::across;
}

/// What backward keeps beside what the portable kernels do; nothing where there are no tensor cores.
template <class T, class Exec> struct BackwardScratch {
  Matrix<T, Exec> d_pre;            ///< [rows, 2I or I]
  Matrix<T, Exec> d_out;            ///< [tokens, width] the output's gradient, rounded once a token
  Matrix<compute_t<T>, Exec> along; ///< [rows, partial sums] of the gradient of a row's weight

  BackwardScratch(Arena& arena, offset_t rows, offset_t tokens, offset_t width, offset_t intermediate, int parts)
      : d_pre(arena.matrix<T, Exec>(rows, parts * intermediate)), d_out(arena.matrix<T, Exec>(tokens, width)),
        along(arena.matrix<compute_t<T>, Exec>(rows, partial_sums(intermediate))) {}
};

/// The hidden layer of gathered rows, in one launch. \param[out] pre [rows, (gate) up], or null
template <class T, class Exec, class Activation>
void hidden_layer(Exec const& exec, Activation const& activation, offset_t intermediate,
                  FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in, offset_t width, T* pre,
                  T* hidden);

/// \param[in] pre where pre-activations are kept; null: they are not \param[out] out [rows, width]
template <class T, class Exec, class Activation>
void feed_forward(Exec const& exec, Activation const& activation, offset_t intermediate,
                  FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in, T* pre, T* hidden,
                  Matrix<compute_t<T>, Exec> const& out);

/// \param[in] pre as forward saved them \param[in,out] hidden room for [rows, I]
template <class T, class Exec, class Activation>
void feed_forward_backward(Exec const& exec, Activation const& activation, offset_t intermediate,
                           FeedForwardMatrices<T const> const& weights, ExpertRows<T, Exec> const& in,
                           ExpertRowGradients<T, Exec> const& d, FeedForwardMatrices<T> const& grads, Write write,
                           T const* pre, T* hidden, BackwardScratch<T, Exec> const& scratch);

} // namespace kokomo::inline v0::detail::cuda

#endif
