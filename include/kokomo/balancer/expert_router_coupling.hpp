// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_EXPERT_ROUTER_COUPLING_HPP
#define KOKOMO_BALANCER_EXPERT_ROUTER_COUPLING_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/detail/dot.hpp>
#include <kokomo/detail/operands.hpp>
#include <kokomo/detail/random.hpp>
#include <kokomo/error.hpp>
#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// What the kernels of the coupling share: n experts, rows of width d, gate projections of `hidden` units.
template <class T, class Exec> struct CouplingData {
  using C = compute_t<T>;
  Matrix<C const, Exec> rows;    // [n, d] the router's
  WeightRef<T const> gate;       // (expert, unit, k)
  offset_t hidden;               // units
  Matrix<C, Exec> proxy;         // [n, d] disturbed rows
  Matrix<C, Exec> d_proxy;       // [n, d]
  Vector<C, Exec> radius;        // [n] epsilon_i
  Vector<C, Exec> distance;      // [n] to the nearest other row
  Vector<index_t, Exec> nearest; // [n]
  Matrix<C, Exec> norm;          // [n, n] M_ij = ||W_j proxy_i||
  Matrix<C, Exec> d_norm;        // [n, n]
  Matrix<C, Exec> term;          // [n, n]

  KOKKOS_FUNCTION offset_t experts() const { return offset_t(rows.extent(0)); }
  KOKKOS_FUNCTION offset_t width() const { return offset_t(rows.extent(1)); }
  /// <W_j[unit], proxy_i>
  KOKKOS_FUNCTION C activation(offset_t i, offset_t j, offset_t unit) const {
    T const* const w = &gate(j, unit, 0);
    C const* const p = &proxy(i, 0);
    offset_t const stride = gate.k_stride;
    if (stride == 1) return dot<C>(w, p, width());
    return sum_in_lanes<C>(width(), [=](offset_t k) { return static_cast<C>(w[k * stride]) * p[k]; });
  }
};

struct CouplingNoise {
  bool on;
  std::uint64_t seed, step;
  /// In (-1, 1).
  KOKKOS_FUNCTION double draw(offset_t row, offset_t k) const {
    return on ? 2 * uniform(seed, step, row, index_t(k)) - 1 : 0;
  }
};

template <class T, class Exec> struct MakeProxies {
  using C = compute_t<T>;
  CouplingData<T, Exec> data;
  CouplingNoise noise;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C const* const r = &data.rows(i, 0);
    C best = Kokkos::Experimental::infinity_v<C>;
    index_t nearest = none;
    for (offset_t j = 0; j < data.experts(); ++j) {
      C const* const other = &data.rows(j, 0);
      if (j == i) continue;
      C const squared =
          sum_in_lanes<C>(data.width(), [=](offset_t k) { return (r[k] - other[k]) * (r[k] - other[k]); });
      if (squared < best) best = squared, nearest = index_t(j);
    }
    C const length = Kokkos::sqrt(dot<C>(r, r, data.width()));
    bool const defined = nearest != none && length > C(0);
    data.nearest[i] = defined ? nearest : none;
    data.distance[i] = defined ? Kokkos::sqrt(best) : C(0);
    data.radius[i] = defined ? data.distance[i] / (C(2) * length) : C(0);
    for (offset_t k = 0; k < data.width(); ++k) data.proxy(i, k) = r[k] * (C(1) + data.radius[i] * C(noise.draw(i, k)));
  }
};

template <class T, class Exec> struct CouplingNorm {
  CouplingData<T, Exec> data;
  KOKKOS_FUNCTION void operator()(offset_t pair) const {
    using C = compute_t<T>;
    offset_t const i = pair % data.experts(), j = pair / data.experts(); // neighbours read the same weights
    C sum = 0;
    for (offset_t u = 0; u < data.hidden; ++u) {
      C const a = data.activation(i, j, u);
      sum += a * a;
    }
    data.norm(i, j) = Kokkos::sqrt(sum);
  }
};

/// Row i and column i of the hinge terms around M_ii: sum over j of max(M_ij - a M_ii, 0) + max(M_ji - a M_ii, 0).
template <class T, class Exec> struct CouplingHinge {
  using C = compute_t<T>;
  CouplingData<T, Exec> data;
  C alpha;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    C const own = alpha * data.norm(i, i);
    C hinged = 0;
    for (offset_t j = 0; j < data.experts(); ++j) {
      C const row = data.norm(i, j) - own, column = data.norm(j, i) - own;
      bool const other = j != i;
      data.term(i, j) = other ? Kokkos::max(row, C(0)) + Kokkos::max(column, C(0)) : C(0);
      hinged += other ? C(row > C(0)) + C(column > C(0)) : C(0);
      // M_ij is also what j's column is hinged by
      C const of_j = data.norm(i, j) - alpha * data.norm(j, j);
      if (other) data.d_norm(i, j) = C(row > C(0)) + C(of_j > C(0));
    }
    data.d_norm(i, i) = -alpha * hinged;
  }
};

/// d proxy_i = sum_j dM_ij / M_ij sum_u <W_j[u], proxy_i> W_j[u]
template <class T, class Exec> struct ProxyGradient {
  using C = compute_t<T>;
  CouplingData<T, Exec> data;
  C factor;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    for (offset_t k = 0; k < data.width(); ++k) data.d_proxy(i, k) = 0;
    for (offset_t j = 0; j < data.experts(); ++j) {
      if (data.d_norm(i, j) == C(0) || data.norm(i, j) == C(0)) continue;
      C const scale = factor * data.d_norm(i, j) / data.norm(i, j);
      for (offset_t u = 0; u < data.hidden; ++u) {
        C const a = scale * data.activation(i, j, u);
        for (offset_t k = 0; k < data.width(); ++k) data.d_proxy(i, k) += a * C(data.gate(j, u, k));
      }
    }
  }
};

/// The router's rows: through the proxy, and through the radius, in which the row itself and the nearest one stand.
template <class T, class Exec> struct RowGradient {
  using C = compute_t<T>;
  CouplingData<T, Exec> data;
  CouplingNoise noise;
  bool through_radius;
  Matrix<C, Exec> d_rows;

  KOKKOS_FUNCTION void operator()(offset_t r) const {
    for (offset_t k = 0; k < data.width(); ++k)
      d_rows(r, k) += data.d_proxy(r, k) * (C(1) + data.radius[r] * C(noise.draw(r, k)));
    if (!through_radius || !noise.on) return;
    for (offset_t i = 0; i < data.experts(); ++i) {
      index_t const near = data.nearest[i];
      if (near == none || data.distance[i] == C(0) || (i != r && near != r)) continue;
      C d_radius = 0; // d proxy_i = rows_i * draw * d radius
      for (offset_t k = 0; k < data.width(); ++k)
        d_radius += data.d_proxy(i, k) * data.rows(i, k) * C(noise.draw(i, k));
      C const length = data.distance[i] / (C(2) * data.radius[i]);
      C const along = d_radius / (C(2) * data.distance[i] * length);
      C const across = d_radius * data.radius[i] / (length * length);
      for (offset_t k = 0; k < data.width(); ++k) {
        C const apart = data.rows(i, k) - data.rows(near, k);
        d_rows(r, k) += i == r ? along * apart - across * data.rows(i, k) : -along * apart;
      }
    }
  }
};

/// One unit of one expert: dW_j[u] += sum_i dM_ij / M_ij <W_j[u], proxy_i> proxy_i
template <class T, class Exec> struct GateGradientOfCoupling {
  using C = compute_t<T>;
  CouplingData<T, Exec> data;
  WeightRef<T> d_gate;
  C factor;
  KOKKOS_FUNCTION void operator()(offset_t index) const {
    offset_t const j = index / data.hidden, u = index % data.hidden;
    for (offset_t i = 0; i < data.experts(); ++i) {
      if (data.d_norm(i, j) == C(0) || data.norm(i, j) == C(0)) continue;
      C const scale = factor * data.d_norm(i, j) / data.norm(i, j) * data.activation(i, j, u);
      for (offset_t k = 0; k < data.width(); ++k) {
        T& d = d_gate(j, u, k);
        d = T(C(d) + scale * data.proxy(i, k));
      }
    }
  }
};

} // namespace detail

/// Couples each router row to its expert: what a row points to shall excite its own expert most, and an expert shall be
/// excited most by its own row.
///
///     proxy_i = R_i * (1 + epsilon_i u),  u uniform in (-1, 1) by element, in training;   epsilon_i = |R_i - R_near| / (2 |R_i|)
///     M_ij    = || W_gate^j proxy_i ||
///     loss    = coefficient / n^2 * sum_i sum_{j != i} max(M_ij - alpha M_ii, 0) + max(M_ji - alpha M_ii, 0)
///
/// The gradient reaches the router's `weight` and the experts' gate projections (the up projection of experts without a
/// gate); forward itself is not touched, and the cost does not depend on tokens. Experts of the FeedForwardExperts kind
/// that see what the router sees; `gate_up` and `up_order` must be theirs. u depends on (seed, step) alone.
/// Source: ERC loss (arXiv 2512.23447), by agreement of three third-party texts and codes. The coefficient was not found.
/// \throws kokomo::Error 106 for a negative alpha or coefficient, 107 unless router and experts have the same width
struct ExpertRouterCoupling {
  float coefficient = 0.1f;
  float alpha = 1;            ///< 0 to 1; 1 for 64 experts, 0.5 for 256 in the source
  bool noise = true;          ///< in training
  bool detach_radius = false; ///< epsilon is a constant for the gradient
  GateUp gate_up = GateUp::concatenated;
  WeightOrder up_order = WeightOrder::out_in;
  std::uint64_t seed = 0;

  template <class T, class Exec> struct Saved {
    using C = compute_t<T>;
    Matrix<C, Exec> proxy, d_proxy, norm, d_norm, term;
    Vector<C, Exec> radius, distance;
    Vector<index_t, Exec> nearest;

    Saved(detail::Arena& arena, ExpertRouterCoupling const&, Sizes const& sizes) {
      offset_t const n = sizes.weighted;
      proxy = arena.matrix<C, Exec>(n, sizes.router_width);
      d_proxy = arena.matrix<C, Exec>(n, sizes.router_width);
      norm = arena.matrix<C, Exec>(n, n);
      d_norm = arena.matrix<C, Exec>(n, n);
      term = arena.matrix<C, Exec>(n, n);
      radius = arena.vector<C, Exec>(n);
      distance = arena.vector<C, Exec>(n);
      nearest = arena.vector<index_t, Exec>(n);
    }
  };

  void check(Sizes const& sizes) const {
    detail::require(alpha >= 0, 106, "ExpertRouterCoupling alpha = ", alpha, ", expected >= 0");
    detail::require(coefficient >= 0, 106, "ExpertRouterCoupling coefficient = ", coefficient, ", expected >= 0");
    detail::require(sizes.router_width == sizes.hidden, 107, "ExpertRouterCoupling: the router's rows have width ",
                    sizes.router_width, ", expected the experts' ", sizes.hidden);
  }

  template <class T, class Exec, class Parameters>
  void observe_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const& routing,
                          Saved<T, Exec> const& saved, Vector<compute_t<T>, Exec> const& loss) const {
    using C = compute_t<T>;
    auto const data = this->data<T, Exec>(parameters, saved);
    offset_t const n = data.experts();
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::proxies", n,
                     detail::MakeProxies<T, Exec>{data, draws(routing)});
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::norms", n * n, detail::CouplingNorm<T, Exec>{data});
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::hinge", n, detail::CouplingHinge<T, Exec>{data, C(alpha)});
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::add", 1,
                     detail::AddLoss<C, Exec>{saved.term, factor<C>(n), loss});
  }

  template <class T, class Exec, class Parameters>
  void backward_parameters(Exec const& exec, Parameters const& parameters, Routing<T, Exec> const& routing,
                           Saved<T, Exec> const& saved, Parameters const& grads) const {
    using C = compute_t<T>;
    auto const data = this->data<T, Exec>(parameters, saved);
    offset_t const n = data.experts();
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::proxy_gradient", n,
                     detail::ProxyGradient<T, Exec>{data, factor<C>(n)});
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::row_gradient", n,
                     detail::RowGradient<T, Exec>{data, draws(routing), !detach_radius, grads.router.weight});
    detail::for_each(exec, "kokomo::ExpertRouterCoupling::gate_gradient", n * data.hidden,
                     detail::GateGradientOfCoupling<T, Exec>{data, gate(grads.experts, data.width()), factor<C>(n)});
  }

private:
  template <class C> C factor(offset_t n) const { return C(coefficient) / C(n * n); }
  template <class T, class Exec> detail::CouplingNoise draws(Routing<T, Exec> const& routing) const {
    return {noise && routing.mode == Mode::training, seed, routing.step};
  }
  template <class T, class Exec, class Parameters>
  detail::CouplingData<T, Exec> data(Parameters const& parameters, Saved<T, Exec> const& s) const {
    auto const width = offset_t(parameters.router.weight.extent(1));
    auto const ref = gate(parameters.experts, width);
    detail::require(offset_t(stored(parameters.experts).extent(up_order == WeightOrder::out_in ? 2 : 1)) == width, 107,
                    "ExpertRouterCoupling: the router's rows have width ", width,
                    ", expected that of the experts' inputs");
    // The router may have columns for experts without weights and for shared ones behind these.
    Matrix<compute_t<T> const, Exec> const rows(parameters.router.weight.data(), s.norm.extent(0), std::size_t(width));
    return {rows,
            {ref.data, ref.group_stride, ref.n_stride, ref.k_stride},
            units(parameters.experts, width),
            s.proxy,
            s.d_proxy,
            s.radius,
            s.distance,
            s.nearest,
            s.norm,
            s.d_norm,
            s.term};
  }
  /// The projection whose norm is taken: gate where there is one, else up.
  template <class Experts> auto const& stored(Experts const& experts) const {
    return experts.gate_up.extent(0) > 0 ? experts.gate_up : experts.gate.extent(0) > 0 ? experts.gate : experts.up;
  }
  template <class Experts> offset_t units(Experts const& experts, offset_t width) const {
    return offset_t(stored(experts).size()) / offset_t(stored(experts).extent(0)) / width /
           (experts.gate_up.extent(0) > 0 ? 2 : 1);
  }
  template <class Experts> auto gate(Experts const& experts, offset_t width) const {
    auto const& view = stored(experts);
    using T = typename std::remove_cvref_t<decltype(view)>::value_type;
    bool const out_in = up_order == WeightOrder::out_in;
    offset_t const matrix = offset_t(view.size()) / offset_t(view.extent(0)), rows = matrix / width;
    bool const interleaved = experts.gate_up.extent(0) > 0 && gate_up == GateUp::interleaved;
    offset_t const unit = out_in ? width : 1;
    return detail::WeightRef<T>{view.data(), matrix, interleaved ? 2 * unit : unit, out_in ? offset_t(1) : rows};
  }
};

} // namespace kokomo::inline v0

#endif
