// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_GIVEN_OUTPUTS_HPP
#define KOKOMO_EXPERTS_GIVEN_OUTPUTS_HPP

#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/expert_rows.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// What a row stands for: its expert's output for its token.
template <class T, class Exec> struct GivenRows {
  using C = compute_t<T>;
  ExpertRows<T, Exec> in;
  T const* outputs; // [experts, tokens, width]
  offset_t tokens, width;

  KOKKOS_FUNCTION T const* of(offset_t row) const {
    offset_t const token = in.x.index != nullptr ? offset_t(in.x.index[row]) : row;
    return outputs + (offset_t(in.rows.group_of(row)) * tokens + token) * width;
  }
};

template <class T, class Exec> struct CopyGivenRows {
  using C = compute_t<T>;
  GivenRows<T, Exec> given;
  C* out;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!given.in.rows.contains(row)) return;
    T const* const from = given.of(row);
    for (offset_t h = 0; h < given.width; ++h) out[row * given.width + h] = C(from[h]);
  }
};

template <class T, class Exec> struct GivenRowsBackward {
  using C = compute_t<T>;
  GivenRows<T, Exec> given;
  ExpertRowGradients<T, Exec> d;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!given.in.rows.contains(row)) return;
    T const* const from = given.of(row);
    C along = 0;
    for (offset_t h = 0; h < given.width; ++h) {
      C const g = d.d_out(row, h);
      d.dx(row, h) = 0;
      if (g != C(0)) along += g * C(from[h]); // an output may be -infinity where nothing moves it
    }
    if (d.d_weight != nullptr) d.d_weight[row] = along;
  }
};

} // namespace detail

/// Frozen experts that have run already: expert(x) of token t is `outputs`(e, t, :), the caller's, read by forward and
/// backward. x is not read and gets no gradient; weights do. No parameters. For a choice among whole models, whose outputs
/// are logits over a vocabulary ([experts, tokens or more, hidden]).
/// \tparam T the layer's storage type
/// \throws kokomo::Error 107 for outputs of other extents
template <class T = float, class Exec = Kokkos::DefaultExecutionSpace> struct GivenOutputs {
  OwnedTensor<T, Exec> outputs{};

  void check(Sizes const& sizes) const {
    detail::require(offset_t(outputs.extent(0)) == sizes.weighted && offset_t(outputs.extent(1)) >= sizes.tokens &&
                        offset_t(outputs.extent(2)) == sizes.hidden,
                    107, "GivenOutputs outputs has extents [", outputs.extent(0), ", ", outputs.extent(1), ", ",
                    outputs.extent(2), "], expected [", sizes.weighted, ", ", sizes.tokens, " or more, ", sizes.hidden,
                    "]");
  }
  index_t routed(index_t weighted) const { return weighted; }

  template <class S>
  void forward(Exec const& exec, Nothing const&, ExpertRows<S, Exec> const& in, Matrix<compute_t<S>, Exec> const& out,
               Nothing const&, Nothing const&) const {
    detail::for_each(exec, "kokomo::GivenOutputs::forward", in.rows.rows,
                     detail::CopyGivenRows<T, Exec>{given(in), out.data()});
  }

  template <class S>
  void backward(Exec const& exec, Nothing const&, ExpertRows<S, Exec> const& in, ExpertRowGradients<S, Exec> const& d,
                Nothing const&, Write, Nothing const&, Nothing const&) const {
    detail::for_each(exec, "kokomo::GivenOutputs::backward", in.rows.rows,
                     detail::GivenRowsBackward<T, Exec>{given(in), d});
  }

private:
  detail::GivenRows<T, Exec> given(ExpertRows<T, Exec> const& in) const {
    return {in, outputs.data(), offset_t(outputs.extent(1)), offset_t(outputs.extent(2))};
  }
};

} // namespace kokomo::inline v0

#endif
