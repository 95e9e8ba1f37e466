// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TRANSFORM_FREEZE_BY_SCORE_HPP
#define KOKOMO_TRANSFORM_FREEZE_BY_SCORE_HPP

#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/dot.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {

/// What FreezeByScore knows of the experts; Views, so copies share it.
template <class Exec> struct ExpertUsage {
  OwnedVector<double, Exec> utilization; ///< [experts] average weight of a token
  OwnedVector<double, Exec> importance;  ///< [experts] average of weight * |x|^2
  OwnedVector<double, Exec> count;       ///< [1] tokens (running mean) or updates (decay)
  OwnedVector<index_t, Exec> frozen;     ///< [experts] 1: frozen

  ExpertUsage() = default;
  ExpertUsage(Exec const& exec, index_t experts) {
    Allocator<Exec> const allocate(exec);
    allocate(utilization, "kokomo::ExpertUsage::utilization", experts);
    allocate(importance, "kokomo::ExpertUsage::importance", experts);
    allocate(count, "kokomo::ExpertUsage::count", 1);
    allocate(frozen, "kokomo::ExpertUsage::frozen", experts);
  }
};

namespace detail {

template <class T, class Exec> struct UpdateUsage {
  Matrix<T const, Exec> x;
  Assignment<T, Exec> a;
  ExpertUsage<Exec> usage;
  double decay;

  KOKKOS_FUNCTION void operator()(offset_t e) const {
    double weight = 0, energy = 0;
    auto const width = static_cast<offset_t>(x.extent(1));
    for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1]; ++row) {
      T const* const values = &x(a.token_of_row[row], 0);
      double const w = double(a.weight_of_row[row]);
      weight += w;
      energy += w * double(dot<double>(values, values, width));
    }
    auto const tokens = double(a.tokens);
    average(usage.utilization[e], weight, tokens);
    average(usage.importance[e], energy, tokens);
  }
  KOKKOS_FUNCTION void average(double& value, double sum, double tokens) const {
    double const before = usage.count[0];
    if (decay > 0)
      value = before == 0 ? sum / tokens : decay * value + (1 - decay) * sum / tokens;
    else
      value = (before * value + sum) / (before + tokens);
  }
};

template <class Exec> struct CountUsage {
  ExpertUsage<Exec> usage;
  double by;
  KOKKOS_FUNCTION void operator()(offset_t) const { usage.count[0] += by; }
};

template <class Exec> struct DecideFrozen {
  ExpertUsage<Exec> usage;
  double threshold;
  index_t keep;

  KOKKOS_FUNCTION void operator()(offset_t) const {
    auto const experts = static_cast<index_t>(usage.frozen.extent(0));
    for (index_t e = 0; e < experts; ++e) {
      double const score = place(usage.utilization, e) - place(usage.importance, e);
      usage.frozen[e] = score < threshold && e != keep ? 1 : 0;
    }
  }
  /// Between the smallest (0) and the largest (1) of all; 0 where they are equal.
  KOKKOS_FUNCTION double place(OwnedVector<double, Exec> const& values, index_t e) const {
    double low = values[0], high = values[0];
    for (std::size_t i = 1; i < values.extent(0); ++i) {
      low = Kokkos::min(low, values[i]);
      high = Kokkos::max(high, values[i]);
    }
    return high > low ? (values[e] - low) / (high - low) : 0;
  }
};

template <class G, class Exec> struct ClearFrozen {
  Vector<index_t const, Exec> frozen;
  G* grad;
  offset_t each;
  KOKKOS_FUNCTION void operator()(offset_t i) const {
    if (frozen[i / each] != 0) grad[i] = G(0);
  }
};

} // namespace detail

/// Freezes experts whose share of the work is small for what rests on them:
///
///     score_e = minmax(U)_e - minmax(F)_e,   U: average weight,  F: average of weight * |x|^2;   frozen if score < threshold
///
/// `update` after each forward of a task, `decide` when a task begins, `clear` between backward and optimiser. A gradient of
/// zero alone does not freeze: an optimiser with moments or weight decay must leave out the experts that `frozen` names.
/// Source: SAME (arXiv 2602.01990): running means in the paper (`decay` 0), 0.95 in LAMDA-CL/Prism; threshold 0.1 there.
/// \throws kokomo::Error 106 unless 0 <= decay < 1
struct FreezeByScore {
  float threshold = 0.1f;
  float decay = 0;     ///< > 0: exponential average over updates; 0: mean over all tokens
  index_t keep = none; ///< an expert that is never frozen (the task's own, in the code)

  /// \param[in] x [tokens, hidden] what forward saw
  /// \param[in] a its assignment: Layer::saved(tape).assignment
  template <class T, class Exec>
  void update(Exec const& exec, ExpertUsage<Exec> const& usage,
              std::type_identity_t<MatrixArgument<T const, Exec>> const& x, Assignment<T, Exec> const& a) const {
    detail::require(decay >= 0 && decay < 1, 106, "FreezeByScore decay = ", decay, ", expected 0 <= decay < 1");
    detail::require(offset_t(usage.utilization.extent(0)) == a.experts, 202, "ExpertUsage of ",
                    usage.utilization.extent(0), " experts, expected ", a.experts);
    if (a.tokens == 0) return;
    auto const view = x.checked("x", {a.tokens, x.extent(1)});
    detail::for_each(exec, "kokomo::FreezeByScore::update", a.experts,
                     detail::UpdateUsage<T, Exec>{view, a, usage, double(decay)});
    detail::for_each(exec, "kokomo::FreezeByScore::count", 1,
                     detail::CountUsage<Exec>{usage, decay > 0 ? 1.0 : double(a.tokens)});
  }

  template <class Exec> void decide(Exec const& exec, ExpertUsage<Exec> const& usage) const {
    detail::for_each(exec, "kokomo::FreezeByScore::decide", 1,
                     detail::DecideFrozen<Exec>{usage, double(threshold), keep});
  }

  /// Zeroes the gradients of frozen experts in all Views [experts, ...] of an experts policy's parameters.
  template <class Exec, class Gradients>
  void clear(Exec const& exec, ExpertUsage<Exec> const& usage, Gradients const& experts) const {
    auto const each_view = [&](auto const&, auto const& view) {
      using G = typename std::remove_cvref_t<decltype(view)>::value_type;
      auto const count = static_cast<offset_t>(view.size());
      // experts without weights stand behind those with
      if (view.extent(0) == 0 || view.extent(0) > usage.frozen.extent(0)) return;
      detail::for_each(exec, "kokomo::FreezeByScore::clear", count,
                       detail::ClearFrozen<G, Exec>{usage.frozen, view.data(), count / offset_t(view.extent(0))});
    };
    experts.for_each(each_view, "");
  }
};

} // namespace kokomo::inline v0

#endif
