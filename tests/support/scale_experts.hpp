// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SCALE_EXPERTS_HPP
#define KOKOMO_TESTS_SUPPORT_SCALE_EXPERTS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::test {

/// Experts for tests of routing in a whole layer, cheap to compile: expert e multiplies its input by its own vector.
struct ScaleExperts {
  template <class T, class Exec> struct Parameters {
    OwnedMatrix<T, Exec> scale; ///< [experts, hidden]

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, ScaleExperts const&, Sizes const& sizes) {
      allocate(scale, "scale", sizes.weighted, sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "scale"}, scale); }
  };

  index_t routed(index_t weighted) const { return weighted; }

  template <class T, class Exec> struct Forward {
    using C = compute_t<T>;
    ExpertRows<T, Exec> in;
    T const* scale;
    C* out;
    offset_t width;

    KOKKOS_FUNCTION void operator()(offset_t row) const {
      if (!in.rows.contains(row)) return;
      T const* const s = scale + offset_t(in.rows.group_of(row)) * width;
      for (offset_t h = 0; h < width; ++h) out[row * width + h] = C(s[h]) * in.x(row, h);
    }
  };

  template <class T, class Exec> struct Backward {
    using C = compute_t<T>;
    ExpertRows<T, Exec> in;
    ExpertRowGradients<T, Exec> d;
    T const* scale;
    offset_t width;

    KOKKOS_FUNCTION void operator()(offset_t row) const {
      if (!in.rows.contains(row)) return;
      T const* const s = scale + offset_t(in.rows.group_of(row)) * width;
      C const weight = d.weight != nullptr ? d.weight[row] : C(1);
      C along = 0;
      for (offset_t h = 0; h < width; ++h) {
        d.dx(row, h) = weight * C(s[h]) * d.d_out(row, h);
        along += d.d_out(row, h) * C(s[h]) * in.x(row, h);
      }
      if (d.d_weight != nullptr) d.d_weight[row] = along;
    }
  };

  template <class T, class Exec> struct ScaleGradient {
    using C = compute_t<T>;
    ExpertRows<T, Exec> in;
    ExpertRowGradients<T, Exec> d;
    T* grad;
    offset_t width;
    Write write;

    KOKKOS_FUNCTION void operator()(offset_t i) const {
      auto const e = index_t(i / width);
      offset_t const h = i % width;
      C sum = write == Write::add ? C(grad[i]) : C(0);
      for (offset_t row = in.rows.begin(e); row < in.rows.end(e); ++row)
        sum += (d.weight != nullptr ? d.weight[row] : C(1)) * d.d_out(row, h) * in.x(row, h);
      grad[i] = T(sum);
    }
  };

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Nothing const&, Nothing const&) const {
    detail::for_each(exec, "kokomo::test::ScaleExperts::forward", in.rows.rows,
                     Forward<T, Exec>{in, parameters.scale.data(), out.data(), offset_t(out.extent(1))});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write, Nothing const&,
                Nothing const&) const {
    auto const width = offset_t(d.dx.extent(1));
    detail::for_each(exec, "kokomo::test::ScaleExperts::backward", in.rows.rows,
                     Backward<T, Exec>{in, d, parameters.scale.data(), width});
    detail::for_each(exec, "kokomo::test::ScaleExperts::gradient", offset_t(grads.scale.size()),
                     ScaleGradient<T, Exec>{in, d, grads.scale.data(), width, write});
  }
};

} // namespace kokomo::test

#endif
