// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TRANSFORM_SPECTRAL_HPP
#define KOKOMO_TRANSFORM_SPECTRAL_HPP

#include <kokomo/argument.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/dot.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

#include <algorithm>

namespace kokomo::inline v0 {

/// Whether a batch's mean is taken out of its second moment.
enum class Centre { none, batch };

/// Uncentred second moment of a router's inputs, C = (a C + sum over the batch of x x^T) / (a + n): what old tasks looked
/// like, in [width, width] numbers. Continues over batches and tasks until `reset`. With Centre::batch x are deviations from
/// their batch's mean.
template <class Exec> struct SecondMoment {
  OwnedMatrix<double, Exec> moment; ///< [width, width]
  OwnedVector<double, Exec> count;  ///< [1] tokens

  SecondMoment() = default;
  SecondMoment(Exec const& exec, offset_t width) {
    Allocator<Exec> const allocate(exec);
    allocate(moment, "kokomo::SecondMoment::moment", width, width);
    allocate(count, "kokomo::SecondMoment::count", 1);
  }
  offset_t width() const { return static_cast<offset_t>(moment.extent(0)); }

  void reset(Exec const& exec) const {
    detail::fill(exec, "kokomo::SecondMoment::reset", moment.data(), offset_t(moment.size()), 0);
    detail::fill(exec, "kokomo::SecondMoment::reset", count.data(), 1, 0);
  }
  /// \param[in] x [tokens, width]
  template <class T>
  void accumulate(Exec const& exec, MatrixArgument<T const, Exec> const& x, Centre centre = Centre::none) const;
};

/// Eigenvalues and vectors of a second moment, largest first, and how many of them carry a share of the energy:
/// the least k with sum_{i < k} s_i^2 >= energy * sum_i s_i^2, or `most`.
template <class Exec> struct Spectrum {
  OwnedVector<double, Exec> values;  ///< [width] descending
  OwnedMatrix<double, Exec> vectors; ///< [width, width] one a row
  OwnedVector<index_t, Exec> rank;   ///< [1]
  OwnedMatrix<double, Exec> work;    ///< [width, width]

  Spectrum() = default;
  Spectrum(Exec const& exec, offset_t width) {
    Allocator<Exec> const allocate(exec);
    allocate(values, "kokomo::Spectrum::values", width);
    allocate(vectors, "kokomo::Spectrum::vectors", width, width);
    allocate(rank, "kokomo::Spectrum::rank", 1);
    allocate(work, "kokomo::Spectrum::work", width, width);
  }
  /// By Jacobi's rotations, on one thread: O(width^3) a sweep. Once a task, not once a step. Asynchronous on exec.
  /// \param[in] most bounds the rank; 0: nothing does
  /// \throws kokomo::Error 201 for a moment of another width, 106 unless 0 <= energy <= 1 and most >= 0
  void decompose(Exec const& exec, SecondMoment<Exec> const& moment, double energy, index_t most = 0) const;
};

namespace detail {

template <class T, class Exec> struct AccumulateMoment {
  Matrix<T const, Exec> x;
  SecondMoment<Exec> target;
  Centre centre;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const width = offset_t(x.extent(1)), row = i / width, column = i % width;
    if (column < row) return;
    double mean = 0, other = 0, sum = 0;
    for (std::size_t t = 0; t < x.extent(0) && centre == Centre::batch; ++t)
      mean += double(x(t, row)) / double(x.extent(0)), other += double(x(t, column)) / double(x.extent(0));
    for (std::size_t t = 0; t < x.extent(0); ++t) sum += (double(x(t, row)) - mean) * (double(x(t, column)) - other);
    double const before = target.count[0], after = before + double(x.extent(0));
    double const value = after > 0 ? (before * target.moment(row, column) + sum) / after : 0;
    target.moment(row, column) = target.moment(column, row) = value;
  }
};

template <class Exec> struct CountTokens {
  SecondMoment<Exec> target;
  double tokens;
  KOKKOS_FUNCTION void operator()(offset_t) const { target.count[0] += tokens; }
};

/// Cyclic Jacobi: rotations in the planes (p, q) until what is off the diagonal vanishes.
template <class Exec> struct DecomposeMoment {
  Spectrum<Exec> s;
  Matrix<double const, Exec> moment;
  double energy;
  index_t most;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    auto const n = static_cast<index_t>(s.values.extent(0));
    auto const& m = s.work;
    auto const& v = s.vectors;
    double total = 0;
    for (index_t i = 0; i < n; ++i)
      for (index_t j = 0; j < n; ++j) {
        m(i, j) = moment(i, j);
        v(i, j) = i == j ? 1 : 0;
        total += m(i, j) * m(i, j);
      }
    for (int sweep = 0; sweep < 60; ++sweep) {
      double off = 0;
      for (index_t p = 0; p < n; ++p)
        for (index_t q = p + 1; q < n; ++q) off += m(p, q) * m(p, q);
      if (!(off > 1e-32 * total)) break; // false for NaN too
      for (index_t p = 0; p < n; ++p)
        for (index_t q = p + 1; q < n; ++q) rotate(p, q, n);
    }
    sort(n);
    double sum = 0, seen = 0;
    for (index_t i = 0; i < n; ++i) sum += s.values[i] * s.values[i];
    index_t k = 0;
    while (k < most && seen < energy * sum) seen += s.values[k] * s.values[k], ++k;
    s.rank[0] = k;
  }
  KOKKOS_FUNCTION void rotate(index_t p, index_t q, index_t n) const {
    auto const& m = s.work;
    double const apq = m(p, q);
    if (apq == 0) return;
    double const theta = (m(q, q) - m(p, p)) / (2 * apq);
    double const t = (theta >= 0 ? 1 : -1) / (Kokkos::abs(theta) + Kokkos::sqrt(theta * theta + 1));
    double const c = 1 / Kokkos::sqrt(t * t + 1), sine = t * c;
    for (index_t k = 0; k < n; ++k) {
      double const kp = m(k, p), kq = m(k, q);
      m(k, p) = c * kp - sine * kq, m(k, q) = sine * kp + c * kq;
    }
    for (index_t k = 0; k < n; ++k) {
      double const pk = m(p, k), qk = m(q, k);
      m(p, k) = c * pk - sine * qk, m(q, k) = sine * pk + c * qk;
      double const vp = s.vectors(p, k), vq = s.vectors(q, k);
      s.vectors(p, k) = c * vp - sine * vq, s.vectors(q, k) = sine * vp + c * vq;
    }
  }
  /// By selection; a covariance has no negative eigenvalue, what rounding makes of zero is cut off.
  KOKKOS_FUNCTION void sort(index_t n) const {
    for (index_t i = 0; i < n; ++i) s.values[i] = Kokkos::max(s.work(i, i), 0.0);
    for (index_t i = 0; i < n; ++i) {
      index_t best = i;
      for (index_t j = i + 1; j < n; ++j)
        if (s.values[j] > s.values[best]) best = j;
      if (best == i) continue;
      Kokkos::kokkos_swap(s.values[i], s.values[best]);
      for (index_t k = 0; k < n; ++k) Kokkos::kokkos_swap(s.vectors(i, k), s.vectors(best, k));
    }
  }
};

} // namespace detail

template <class Exec>
template <class T>
void SecondMoment<Exec>::accumulate(Exec const& exec, MatrixArgument<T const, Exec> const& x, Centre centre) const {
  auto const view = x.checked("x", {x.extent(0), width()});
  detail::for_each(exec, "kokomo::SecondMoment::accumulate", width() * width(),
                   detail::AccumulateMoment<T, Exec>{view, *this, centre});
  detail::for_each(exec, "kokomo::SecondMoment::count", 1, detail::CountTokens<Exec>{*this, double(view.extent(0))});
}

template <class Exec>
void Spectrum<Exec>::decompose(Exec const& exec, SecondMoment<Exec> const& moment, double energy, index_t most) const {
  detail::require(moment.moment.extent(0) == values.extent(0), 201, "the moment has width ", moment.width(),
                  ", expected ", values.extent(0));
  detail::require(energy >= 0 && energy <= 1, 106, "Spectrum energy = ", energy, ", expected 0 to 1");
  detail::require(most >= 0, 106, "Spectrum most = ", most, ", expected >= 0");
  auto const all = static_cast<index_t>(values.extent(0));
  detail::for_each(exec, "kokomo::Spectrum::decompose", 1,
                   detail::DecomposeMoment<Exec>{*this, moment.moment, energy, most > 0 ? std::min(most, all) : all});
}

/// What a SpectralTransform does to a gradient's components along the first `rank` eigenvectors, and to the rest.
enum class SpectralScale {
  null_space, ///< 0, and 1 for the rest: old inputs keep their logits
  smoothed,   ///< (1 / s) / max (1 / s), s the mean of a window of eigenvalues, clamped to [low, high]; 1 for the rest
  inverse     ///< 1 / (s_i + mu), and 1 / mu for the rest: (C + mu)^-1 at low rank
};

namespace detail {

/// row <- c row, then along each kept eigenvector from c to its own scale: vectors are orthonormal, so that one step does
/// not disturb the others.
template <class G, class Exec> struct TransformRow {
  Matrix<G, Exec> grad;
  Spectrum<Exec> spectrum;
  SpectralScale scale;
  double mu, low, high;
  int window;

  KOKKOS_FUNCTION void operator()(offset_t r) const {
    auto const width = static_cast<offset_t>(grad.extent(1));
    G* const g = &grad(r, 0);
    double const rest = scale == SpectralScale::inverse ? 1 / mu : 1;
    double largest = 0;
    for (index_t i = 0; scale == SpectralScale::smoothed && i < spectrum.rank[0]; ++i)
      largest = Kokkos::max(largest, inverse_mean(i));
    for (offset_t h = 0; rest != 1 && h < width; ++h) g[h] = G(double(g[h]) * rest);
    for (index_t i = 0; i < spectrum.rank[0]; ++i) {
      double const* const v = &spectrum.vectors(i, 0);
      double own = 0;
      if (scale == SpectralScale::inverse) own = 1 / (spectrum.values[i] + mu);
      if (scale == SpectralScale::smoothed) own = Kokkos::max(low, Kokkos::min(high, inverse_mean(i) / largest));
      double const along = dot<double>(g, v, width);
      for (offset_t h = 0; h < width; ++h) g[h] = G(double(g[h]) + (own / rest - 1) * along * v[h]);
    }
  }
  /// One over the mean of the eigenvalues around i, of those that are kept.
  KOKKOS_FUNCTION double inverse_mean(index_t i) const {
    index_t const first = Kokkos::max(i - window / 2, 0), last = Kokkos::min(i + window / 2, spectrum.rank[0] - 1);
    double sum = 0;
    for (index_t j = first; j <= last; ++j) sum += spectrum.values[j];
    return sum > 0 ? double(last - first + 1) / sum : 0;
  }
};

} // namespace detail

/// Changes a gradient [rows, width] between backward and optimiser, by the spectrum of what the weight's inputs were:
/// row <- row (c I + sum_{i < rank} (scale_i - c) v_i v_i^T).
///
/// `null_space` for a router: weights move only where old inputs have no component, so that old logits stay. `smoothed`
/// is what the published code does to a router. `inverse` preconditions an expert's matrix.
/// Source: SAME (arXiv 2602.01990), LAMDA-CL/Prism. The paper's scaling of the kept part is not defined there beyond
/// "sliding window": `smoothed` follows the code, which projects nothing out. Paper and code disagree; see the page.
/// \throws kokomo::Error 106 unless mu > 0, window >= 1 and 0 <= low <= high
struct SpectralTransform {
  SpectralScale scale = SpectralScale::null_space;
  float mu = 0.9f;
  int window = 3;
  float low = 0.8f, high = 1.2f;

  /// In place; asynchronous on exec. \param[in,out] grad [rows, width]
  template <class G, class Exec>
  void apply(Exec const& exec, Spectrum<Exec> const& spectrum,
             std::type_identity_t<MatrixArgument<G, Exec>> const& grad) const {
    detail::require(mu > 0, 106, "SpectralTransform mu = ", mu, ", expected > 0");
    detail::require(window >= 1, 106, "SpectralTransform window = ", window, ", expected >= 1");
    detail::require(low >= 0 && high >= low, 106, "SpectralTransform low = ", low, ", high = ", high,
                    ", expected 0 <= low <= high");
    auto const view = grad.checked("grad", {grad.extent(0), offset_t(spectrum.values.extent(0))});
    detail::for_each(
        exec, "kokomo::SpectralTransform::apply", offset_t(view.extent(0)),
        detail::TransformRow<G, Exec>{view, spectrum, scale, double(mu), double(low), double(high), window});
  }
};

} // namespace kokomo::inline v0

#endif
