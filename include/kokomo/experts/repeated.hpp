// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_REPEATED_HPP
#define KOKOMO_EXPERTS_REPEATED_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Rows of a block that is skipped, run once, or run twice: groups 0, 1 and 2. `ranges` are the rows of the first run,
/// then of the second.
template <class Exec> struct RepeatRanges {
  offset_t const* expert_offsets;
  Vector<offset_t, Exec> ranges; // [4]

  KOKKOS_FUNCTION void operator()(offset_t i) const { ranges[i] = expert_offsets[i % 2 == 1 ? 3 : 1 + i / 2]; }
};

template <class T, class Exec> struct RepeatRows {
  using C = compute_t<T>;
  offset_t const* expert_offsets;
  RowSource<T, C> x;
  offset_t width;

  KOKKOS_FUNCTION int runs(offset_t row) const { // -1: nobody's
    return row < expert_offsets[0] || row >= expert_offsets[3] ? -1
           : row < expert_offsets[1]                           ? 0
           : row < expert_offsets[2]                           ? 1
                                                               : 2;
  }
};

/// After the first run: out = x, or x + F(x), which is also what the second run reads.
template <class T, class Exec> struct AfterFirstRun {
  using C = compute_t<T>;
  RepeatRows<T, Exec> r;
  C const* of_run;
  T* between;
  C* out;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    int const runs = r.runs(row);
    for (offset_t h = 0; h < r.width && runs >= 0; ++h) {
      C const value = r.x(row, h) + (runs > 0 ? of_run[row * r.width + h] : C(0));
      out[row * r.width + h] = value;
      if (runs == 2) between[row * r.width + h] = T(value);
    }
  }
};

template <class T, class Exec> struct AfterSecondRun {
  using C = compute_t<T>;
  RepeatRows<T, Exec> r;
  C const* of_run;
  T const* between;
  C* out;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    for (offset_t h = 0; h < r.width && r.runs(row) == 2; ++h)
      out[row * r.width + h] = C(between[row * r.width + h]) + of_run[row * r.width + h];
  }
};

/// The gradient of the rows that come out, and of their weights.
template <class T, class Exec> struct RepeatGradient {
  using C = compute_t<T>;
  RepeatRows<T, Exec> r;
  ExpertRowGradients<T, Exec> d;
  C const* out; // what forward returned
  C* d_row;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    if (r.runs(row) < 0) return;
    C const weight = d.weight != nullptr ? d.weight[row] : C(1);
    C along = 0;
    for (offset_t h = 0; h < r.width; ++h) {
      C const g = d.d_out(row, h);
      d_row[row * r.width + h] = weight * g;
      along += g * out[row * r.width + h];
    }
    if (d.d_weight != nullptr) d.d_weight[row] = along;
  }
};

/// The residual connection of a run that rows with at least `runs` of them took.
template <class T, class Exec> struct AddRunGradient {
  using C = compute_t<T>;
  RepeatRows<T, Exec> r;
  int runs;
  C const* of_run;
  C* d_row;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    for (offset_t h = 0; h < r.width && r.runs(row) >= runs; ++h) d_row[row * r.width + h] += of_run[row * r.width + h];
  }
};

template <class C, class Exec> struct CopyUsedRows {
  C const* from;
  GroupedRows rows;
  Matrix<C, Exec> to;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    auto const width = offset_t(to.extent(1));
    for (offset_t h = 0; h < width && rows.contains(row); ++h) to(row, h) = from[row * width + h];
  }
};

} // namespace detail

/// One block with a residual connection as three experts, that skip it, run it once, or run it twice:
///
///     expert 0: x      expert 1: x + F(x) = h      expert 2: h + F(h)
///
/// F are the experts of Inner, of which there is one (Shape::experts = 1). The layer returns the block's whole output, so no
/// residual connection goes around it. Between the runs rows are of the storage type.
/// Parameters: those of Inner. Source: Dr.LLM, whose blocks are whole transformer layers (docs/policies/experts/repeated.md).
/// \throws kokomo::Error 101 unless the layer has one expert with weights
template <class InnerT = SwiGluExperts> struct RepeatedExperts {
  using Inner = InnerT;
  static_assert(
      !requires { InnerT::reads_activations; },
      "kokomo::RepeatedExperts: the activations that AutonomousExperts continue from are those of the first run only");

  Inner inner{};

  template <class T, class Exec> using Parameters = detail::OfInner<parameters_t<Inner, T, Exec>>;
  template <class T, class Exec> struct Saved {
    saved_t<Inner, T, Exec> first, second;
    Matrix<T, Exec> between;        ///< [rows, width] what the second run reads
    Matrix<compute_t<T>, Exec> out; ///< [rows, width]
    Vector<offset_t, Exec> ranges;  ///< [4] rows of the first, and of the second run

    Saved(detail::Arena& arena, RepeatedExperts const& policy, Sizes const& sizes)
        : first(detail::make<decltype(first)>(arena, policy.inner, sizes)),
          second(detail::make<decltype(second)>(arena, policy.inner, sizes)),
          between(arena.matrix<T, Exec>(sizes.entries, sizes.hidden)),
          out(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)), ranges(arena.vector<offset_t, Exec>(4)) {}
  };
  template <class T, class Exec> struct Scratch {
    scratch_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> of_run; // [rows, width]

    Scratch(detail::Arena& arena, RepeatedExperts const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          of_run(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    backward_scratch_t<Inner, T, Exec> inner;
    Matrix<compute_t<T>, Exec> of_run, d_row; // [rows, width]

    BackwardScratch(detail::Arena& arena, RepeatedExperts const& policy, Sizes const& sizes)
        : inner(detail::make<decltype(inner)>(arena, policy.inner, sizes)),
          of_run(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)),
          d_row(arena.matrix<compute_t<T>, Exec>(sizes.entries, sizes.hidden)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(sizes.weighted == 1, 101, "RepeatedExperts has ", sizes.weighted,
                    " blocks, expected one (shape.experts = 1)");
    detail::check_settings(inner, sizes);
  }
  index_t routed(index_t) const { return 3; }

  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    auto const width = offset_t(out.extent(1)), rows = in.rows.rows;
    auto const all = repeat_rows(in, width);
    detail::for_each(exec, "kokomo::RepeatedExperts::ranges", 4,
                     detail::RepeatRanges<Exec>{in.rows.offsets, saved.ranges});
    inner.template forward<T>(exec, parameters, run(in, in.x, saved, 0), scratch.of_run, saved.first, scratch.inner);
    detail::for_each(
        exec, "kokomo::RepeatedExperts::first", rows,
        detail::AfterFirstRun<T, Exec>{all, scratch.of_run.data(), saved.between.data(), saved.out.data()});
    inner.template forward<T>(exec, parameters, run(in, between(saved, width), saved, 1), scratch.of_run, saved.second,
                              scratch.inner);
    detail::for_each(
        exec, "kokomo::RepeatedExperts::second", rows,
        detail::AfterSecondRun<T, Exec>{all, scratch.of_run.data(), saved.between.data(), saved.out.data()});
    copy<T>(exec, in, saved.out.data(), out);
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    using C = compute_t<T>;
    auto const width = offset_t(d.dx.extent(1)), rows = in.rows.rows;
    auto const all = repeat_rows(in, width);
    C* const d_row = scratch.d_row.data();
    detail::for_each(exec, "kokomo::RepeatedExperts::backward", rows,
                     detail::RepeatGradient<T, Exec>{all, d, saved.out.data(), d_row});
    ExpertRowGradients<T, Exec> const d_run{{d_row, width}, nullptr, scratch.of_run, nullptr};
    auto const add = [&](int runs) {
      detail::for_each(exec, "kokomo::RepeatedExperts::residual", rows,
                       detail::AddRunGradient<T, Exec>{all, runs, scratch.of_run.data(), d_row});
    };
    inner.template backward<T>(exec, parameters, run(in, between(saved, width), saved, 1), d_run, grads, write,
                               saved.second, scratch.inner);
    add(2);
    inner.template backward<T>(exec, parameters, run(in, in.x, saved, 0), d_run, grads, Write::add, saved.first,
                               scratch.inner);
    add(1);
    copy<T>(exec, in, static_cast<C const*>(d_row), d.dx);
  }

private:
  template <class T, class Exec>
  static detail::RepeatRows<T, Exec> repeat_rows(ExpertRows<T, Exec> const& in, offset_t width) {
    return {in.rows.offsets, in.x, width};
  }
  template <class S> static auto between(S const& saved, offset_t width) {
    using T = typename decltype(saved.between)::value_type;
    return detail::RowSource<T, compute_t<T>>{saved.between.data(), width};
  }
  /// The rows of one run, as those of Inner's one expert.
  template <class T, class Exec, class S>
  static ExpertRows<T, Exec> run(ExpertRows<T, Exec> in, detail::RowSource<T, compute_t<T>> const& x, S const& saved,
                                 int second) {
    in.x = x;
    in.rows.offsets = saved.ranges.data() + 2 * second;
    in.rows.group_of_row = nullptr;
    in.rows.groups = 1;
    return in;
  }
  template <class T, class Exec, class C>
  static void copy(Exec const& exec, ExpertRows<T, Exec> const& in, C const* from,
                   Matrix<compute_t<T>, Exec> const& to) {
    detail::for_each(exec, "kokomo::RepeatedExperts::copy", in.rows.rows,
                     detail::CopyUsedRows<compute_t<T>, Exec>{from, in.rows, to});
  }
};

} // namespace kokomo::inline v0

#endif
