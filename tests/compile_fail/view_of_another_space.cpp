// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// expected-error {{kokomo: the memory space of this View must be accessible from the layer's execution space}}
#include "use.hpp"

using Exec = Kokkos::DefaultExecutionSpace;
using Good = Kokkos::View<float**, Kokkos::LayoutRight, Exec>;

/// Memory that Exec cannot reach; a Kokkos with one backend has none.
struct Elsewhere {
  using memory_space = Elsewhere;
  using execution_space = Exec;
  using device_type = Kokkos::Device<Exec, Elsewhere>;
  using size_type = std::size_t;
  static constexpr char const* name() { return "Elsewhere"; }
};

/// What a layer asks of a View.
struct Remote {
  using value_type = float;
  using memory_space = Elsewhere;
  static constexpr std::size_t rank() { return 2; }
  float* data() const { return nullptr; }
  std::size_t extent(int) const { return 8; }
  std::size_t stride(int) const { return 1; }
};
template <> struct Kokkos::is_view<Remote> : std::true_type {};

#if defined(KOKOMO_CORRECTED)
using Bad = Good;
#else
using Bad = Remote;
#endif

template void use_forward<kokomo::Layer<>>(Bad const&, Good const&);
