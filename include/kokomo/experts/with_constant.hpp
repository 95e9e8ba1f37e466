// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_WITH_CONSTANT_HPP
#define KOKOMO_EXPERTS_WITH_CONSTANT_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// The rows of constant experts: groups first .. groups - 1 of `rows`.
template <class T, class Exec> struct ConstantRows {
  using C = compute_t<T>;
  GroupedRows rows;
  index_t first;
  RowSource<T, C> x;
  T const* router;   // [constants, 2, width]
  T const* constant; // [constants, width]
  C* share;          // [rows] of x; the constant has the rest
  offset_t width;

  KOKKOS_FUNCTION bool contains(offset_t row) const {
    return row >= rows.begin(first) && row < rows.end(rows.groups - 1);
  }
  KOKKOS_FUNCTION offset_t expert(offset_t row) const { return rows.group_of(row) - first; }
  KOKKOS_FUNCTION T const* constant_of(offset_t row) const { return constant + expert(row) * width; }
  /// The difference of the two router rows decides: a softmax over two is a sigmoid.
  KOKKOS_FUNCTION C slope(offset_t row, offset_t h) const {
    T const* const w = router + 2 * expert(row) * width;
    return C(w[h]) - C(w[width + h]);
  }
};

template <class T, class Exec> struct ConstantShare {
  using C = compute_t<T>;
  ConstantRows<T, Exec> r;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!r.contains(row)) return;
    C z = 0;
    for (offset_t h = 0; h < r.width; ++h) z += r.slope(row, h) * r.x(row, h);
    r.share[row] = sigmoid(z);
  }
};

template <class T, class Exec> struct MixConstant {
  using C = compute_t<T>;
  ConstantRows<T, Exec> r;
  C* out;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!r.contains(row)) return;
    C const share = r.share[row];
    T const* const v = r.constant_of(row);
    for (offset_t h = 0; h < r.width; ++h) out[row * r.width + h] = share * r.x(row, h) + (C(1) - share) * C(v[h]);
  }
};

/// The same rows, weighted and added to their tokens' sums. A worker owns columns of all of them, on a host.
template <class T, class Exec> struct AddConstantRows {
  using C = compute_t<T>;
  ConstantRows<T, Exec> r;
  CombinedRows<C> out;
  int workers;

  void operator()(int worker) const {
    offset_t const first = r.width * worker / workers, last = r.width * (worker + 1) / workers;
    for (offset_t row = r.rows.begin(r.first); row < r.rows.end(r.rows.groups - 1); ++row) {
      C* const sum = out.data + (out.summed ? offset_t(out.token_of_row[row]) : row) * r.width;
      C const weight = out.weight_of_row != nullptr ? out.weight_of_row[row] : C(1), share = r.share[row];
      T const* const v = r.constant_of(row);
      for (offset_t h = first; h < last; ++h) {
        C const value = weight * (share * r.x(row, h) + (C(1) - share) * C(v[h]));
        sum[h] = out.summed ? sum[h] + value : value;
      }
    }
  }
};

template <class T, class Exec> struct MixConstantBackward {
  using C = compute_t<T>;
  ConstantRows<T, Exec> r;
  ExpertRowGradients<T, Exec> d;
  C* d_z; // [rows]

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (!r.contains(row)) return;
    C const share = r.share[row], weight = d.weight != nullptr ? d.weight[row] : C(1);
    T const* const v = r.constant_of(row);
    C along_x = 0, along_v = 0;
    for (offset_t h = 0; h < r.width; ++h) {
      C const g = d.d_out(row, h);
      along_x += g * r.x(row, h);
      along_v += g * C(v[h]);
    }
    C const dz = weight * share * (C(1) - share) * (along_x - along_v);
    for (offset_t h = 0; h < r.width; ++h) d.dx(row, h) = weight * share * d.d_out(row, h) + dz * r.slope(row, h);
    if (d.d_weight != nullptr) d.d_weight[row] = share * along_x + (C(1) - share) * along_v;
    d_z[row] = dz;
  }
};

/// One column of one constant expert's parameters, over its rows in order.
template <class T, class Exec> struct ConstantGradient {
  using C = compute_t<T>;
  ConstantRows<T, Exec> r;
  ExpertRowGradients<T, Exec> d;
  C const* d_z;
  T *d_router, *d_constant;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const e = i / r.width, h = i % r.width;
    T *const to_x = d_router + 2 * e * r.width + h, *const to_constant = to_x + r.width;
    bool const add = write == Write::add;
    C of_slope = 0, of_constant = 0;
    for (offset_t row = r.rows.begin(r.first + index_t(e)); row < r.rows.end(r.first + index_t(e)); ++row) {
      C const weight = d.weight != nullptr ? d.weight[row] : C(1);
      of_constant += weight * (C(1) - r.share[row]) * d.d_out(row, h);
      of_slope += d_z[row] * r.x(row, h);
    }
    *to_x = T((add ? C(*to_x) : C(0)) + of_slope);
    *to_constant = T((add ? C(*to_constant) : C(0)) - of_slope);
    d_constant[i] = T((add ? C(d_constant[i]) : C(0)) + of_constant);
  }
};

} // namespace detail

/// Constant experts behind those with feed-forward weights: expert j of them mixes its input with a vector of its own,
///
///     (a, b) = softmax(router_j x),   expert(x) = a x + b constant_j
///
/// for the price of three products of vectors. Expert ids weighted .. weighted + count - 1 are constant. Outside of it
/// stands WithIdentity, whose experts copy their input or return nothing: MoE++ has them in this order.
/// Parameters: those of Inner; `constant_router` [count, 2, width], the row of x first; `constant` [count, width]. Mixing
/// is in the compute type. Source: MoE++, SkyworkAI/MoE-plus-plus (docs/policies/experts/with_constant.md).
/// \throws kokomo::Error 101 for a negative count
template <class InnerT> struct WithConstant {
  using Inner = InnerT;
  static_assert(
      !requires { InnerT::reads_activations; },
      "kokomo::WithConstant: the activations that AutonomousExperts continue from are of experts with weights only");

  Inner inner{};
  index_t count = 2; ///< >= 0

  template <class T, class Exec> struct Parameters : parameters_t<Inner, T, Exec> {
    using Base = parameters_t<Inner, T, Exec>;
    OwnedTensor<T, Exec> constant_router;
    OwnedMatrix<T, Exec> constant;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, WithConstant const& policy, Sizes const& sizes)
        : Base(detail::make<Base>(allocate, policy.inner, sizes)) {
      allocate(constant_router, "kokomo::WithConstant::constant_router", policy.count, 2, sizes.hidden);
      allocate(constant, "kokomo::WithConstant::constant", policy.count, sizes.hidden);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      Base::for_each(f, prefix);
      f(Name{prefix, "constant_router"}, constant_router);
      f(Name{prefix, "constant"}, constant);
    }
  };
  template <class T, class Exec> struct Saved {
    saved_t<Inner, T, Exec> inner;
    Vector<compute_t<T>, Exec> share; ///< [entries] of the input in a constant expert's row

    Saved(detail::Arena& arena, WithConstant const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          share(arena.vector<compute_t<T>, Exec>(sizes.entries)) {}
  };
  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Inner, T, Exec>>;
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<Inner, T, Exec> inner;
    Vector<compute_t<T>, Exec> d_z; // [entries]

    BackwardScratch(detail::Arena& arena, WithConstant const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          d_z(arena.vector<compute_t<T>, Exec>(sizes.entries)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(count >= 0, 101, "WithConstant count = ", count, ", expected >= 0");
    detail::check_settings(inner, sizes);
  }
  index_t routed(index_t weighted) const { return inner.routed(weighted) + count; }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    inner.template forward<T>(exec, parameters, of_inner(in), out, saved.inner, scratch);
    if (count == 0) return;
    auto const rows = constant_rows<T, Exec>(parameters, in, saved, offset_t(out.extent(1)));
    find_shares(exec, rows);
    detail::for_each(exec, "kokomo::WithConstant::forward", in.rows.rows,
                     detail::MixConstant<T, Exec>{rows, out.data()});
  }

  /// The same, each row weighted and added to its token's sum, where the inner experts do so.
  template <class T, class Exec>
  requires(detail::CombinesRows<Inner, T, Exec>) void forward_combined(Exec const& exec,
                                                                       Parameters<T, Exec> const& parameters,
                                                                       ExpertRows<T, Exec> const& in,
                                                                       detail::CombinedRows<compute_t<T>> const& out,
                                                                       offset_t width, Saved<T, Exec> const& saved,
                                                                       Scratch<T, Exec> const& scratch) const {
    inner.template forward_combined<T>(exec, parameters, of_inner(in), out, width, saved.inner, scratch);
    if (count == 0) return;
    auto const rows = constant_rows<T, Exec>(parameters, in, saved, width);
    find_shares(exec, rows);
    detail::host::launch(exec, "kokomo::WithConstant::add", in.workers.workers,
                         detail::AddConstantRows<T, Exec>{rows, out, in.workers.workers});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    inner.template backward<T>(exec, parameters, of_inner(in), d, grads, write, saved.inner, scratch.inner);
    if (count == 0) return;
    auto const rows = constant_rows<T, Exec>(parameters, in, saved, offset_t(d.dx.extent(1)));
    detail::for_each(exec, "kokomo::WithConstant::backward", in.rows.rows,
                     detail::MixConstantBackward<T, Exec>{rows, d, scratch.d_z.data()});
    detail::for_each(exec, "kokomo::WithConstant::gradient", offset_t(grads.constant.size()),
                     detail::ConstantGradient<T, Exec>{rows, d, scratch.d_z.data(), grads.constant_router.data(),
                                                       grads.constant.data(), write});
  }

private:
  template <class T, class Exec> ExpertRows<T, Exec> of_inner(ExpertRows<T, Exec> in) const {
    in.rows.groups -= count;
    return in;
  }
  template <class T, class Exec>
  detail::ConstantRows<T, Exec> constant_rows(Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                                              Saved<T, Exec> const& saved, offset_t width) const {
    return {in.rows,
            in.rows.groups - count,
            in.x,
            parameters.constant_router.data(),
            parameters.constant.data(),
            saved.share.data(),
            width};
  }
  template <class T, class Exec> static void find_shares(Exec const& exec, detail::ConstantRows<T, Exec> const& rows) {
    detail::for_each(exec, "kokomo::WithConstant::share", rows.rows.rows, detail::ConstantShare<T, Exec>{rows});
  }
};

} // namespace kokomo::inline v0

#endif
