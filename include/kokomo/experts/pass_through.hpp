// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_PASS_THROUGH_HPP
#define KOKOMO_EXPERTS_PASS_THROUGH_HPP

#include <kokomo/detail/launch.hpp>
#include <kokomo/expert_rows.hpp>

namespace kokomo::inline v0 {
namespace detail {

template <class T, class Exec> struct PassRows {
  using C = compute_t<T>;
  ExpertRows<T, Exec> in;
  C* out;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    for (offset_t h = 0; h < width && in.rows.contains(row); ++h) out[row * width + h] = in.x(row, h);
  }
};

template <class T, class Exec> struct PassRowsBackward {
  using C = compute_t<T>;
  ExpertRows<T, Exec> in;
  ExpertRowGradients<T, Exec> d;
  offset_t width;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!in.rows.contains(row)) return;
    C const weight = d.weight != nullptr ? d.weight[row] : C(1);
    C along = 0;
    for (offset_t h = 0; h < width; ++h) {
      C const g = d.d_out(row, h);
      d.dx(row, h) = weight * g;
      if (d.d_weight != nullptr && g != C(0)) along += g * in.x(row, h);
    }
    if (d.d_weight != nullptr) d.d_weight[row] = along;
  }
};

} // namespace detail

/// expert(x) = x, for a part of several that has to be an expert: the shared one of WithShared, which makes the layer's
/// input one of the two things that combine joins, or a part of MixedExperts. WithIdentity's identities, which stand
/// behind routed experts, are not counted as experts with weights; these are. No parameters.
struct PassThrough {
  index_t routed(index_t weighted) const { return weighted; }

  template <class T, class Exec>
  void forward(Exec const& exec, Nothing const&, ExpertRows<T, Exec> const& in, Matrix<compute_t<T>, Exec> const& out,
               Nothing const&, Nothing const&) const {
    detail::for_each(exec, "kokomo::PassThrough::forward", in.rows.rows,
                     detail::PassRows<T, Exec>{in, out.data(), offset_t(out.extent(1))});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Nothing const&, ExpertRows<T, Exec> const& in, ExpertRowGradients<T, Exec> const& d,
                Nothing const&, Write, Nothing const&, Nothing const&) const {
    detail::for_each(exec, "kokomo::PassThrough::backward", in.rows.rows,
                     detail::PassRowsBackward<T, Exec>{in, d, offset_t(d.dx.extent(1))});
  }
};

} // namespace kokomo::inline v0

#endif
