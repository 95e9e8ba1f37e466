// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_FEED_FORWARD_HPP
#define KOKOMO_DETAIL_HOST_FEED_FORWARD_HPP

#include <kokomo/detail/product.hpp>

/// Experts of two projections on a host: one launch for gate, up and activation, one for down, weight and sum over
/// experts. Neither the gathered inputs nor the experts' outputs ever lie in memory as a whole.

/// Before a loop whose iterations share no memory: a compiler need not prove it.
#if defined(__clang__)
#define KOKOMO_INDEPENDENT _Pragma("clang loop vectorize(assume_safety)")
#else
#define KOKOMO_INDEPENDENT _Pragma("GCC ivdep")
#endif

namespace kokomo::inline v0::detail::host {

/// The matrices of all groups as right operands: as the parameters store them, ...
template <class T, class C> struct UnpackedWeights {
  using Panels = UnpackedPanels<T, C>;
  WeightRef<T const> weight;
  offset_t columns;
  int panel_columns;

  Panels panels(index_t group) const { return {operand<C>(weight, group), columns, 0, panel_columns}; }
};

/// ... or packed: `data` is the first panel of group 0.
template <class T> struct PackedWeights {
  using Panels = PackedPanels<T>;
  T const* data;
  offset_t group_stride, panel_stride;
  int panel_columns;

  Panels panels(index_t group) const { return {data + group * group_stride, panel_stride, panel_columns}; }
};

/// One row of the hidden layer from the sums of both projections. Every step is rounded to T; for float and double that
/// changes nothing. Loops without calls or branches, for the sake of vector code.
template <class T, class C, class Activation>
inline __attribute__((always_inline)) void hidden_row(Activation const& activation, offset_t count, C* gate, C* up,
                                                      BiasRef<T const> gate_bias, BiasRef<T const> up_bias, T* pre_gate,
                                                      T* pre_up, T* hidden) {
  auto const finish = [count](C* sums, BiasRef<T const> const& bias, T* pre) {
    if constexpr (!std::is_same_v<T, C>)
      for (offset_t i = 0; i < count; ++i) sums[i] = rounded_to<T>(sums[i]);
    if (bias.data != nullptr)
      for (offset_t i = 0; i < count; ++i) sums[i] = rounded_to<T>(sums[i] + C(bias.data[i * bias.n_stride]));
    if (pre != nullptr)
      for (offset_t i = 0; i < count; ++i) pre[i] = T(sums[i]);
  };
  finish(up, up_bias, pre_up);
  if constexpr (Activation::gated) finish(gate, gate_bias, pre_gate);
  KOKOMO_INDEPENDENT
  for (offset_t i = 0; i < count; ++i) up[i] = activation.template value<T>(gate[i], up[i]);
  KOKOMO_INDEPENDENT
  for (offset_t i = 0; i < count; ++i) hidden[i] = T(up[i]);
}

#define KOKOMO_DEFINE_HIDDEN_ROW(NAME, TARGET)                                                                         \
  template <class T, class C, class Activation>                                                                        \
  TARGET void NAME(Activation const& activation, offset_t count, C* gate, C* up, BiasRef<T const> gate_bias,           \
                   BiasRef<T const> up_bias, T* pre_gate, T* pre_up, T* hidden) {                                      \
    hidden_row(activation, count, gate, up, gate_bias, up_bias, pre_gate, pre_up, hidden);                             \
  }
KOKOMO_DEFINE_HIDDEN_ROW(portable_hidden_row, )
#if KOKOMO_HOST_X86
KOKOMO_DEFINE_HIDDEN_ROW(avx2_hidden_row, __attribute__((target("avx2,fma"))))
KOKOMO_DEFINE_HIDDEN_ROW(avx512_hidden_row, __attribute__((target("avx512f"))))
#endif
#undef KOKOMO_DEFINE_HIDDEN_ROW

template <class T, class C, class Activation> auto hidden_row_function(InstructionSet set) {
#if KOKOMO_HOST_X86
  if (set == InstructionSet::avx512) return &avx512_hidden_row<T, C, Activation>;
  if (set == InstructionSet::avx2) return &avx2_hidden_row<T, C, Activation>;
#endif
  (void)set;
  return &portable_hidden_row<T, C, Activation>;
}

/// hidden(r, i) = activation(gate(x row r), up(x row r)), and the pre-activations where they are kept.
/// A task is a panel of hidden columns of one expert, gate and up of it together.
template <class T, class Activation, class Weights, class Kernel> struct HiddenLayer {
  using C = compute_t<T>;
  GroupedRows groups;
  RowSource<T, C> x;
  offset_t depth, width; ///< columns of x and of the hidden layer
  Weights gate, up;      ///< gate: unused by plain experts
  BiasRef<T const> gate_bias, up_bias;
  T* pre; ///< [rows, (gate) up], or null
  T* hidden;
  Activation activation;
  WorkerScratch scratch;
  Kernel const* kernel;

  void operator()(int worker) const {
    offset_t const chunk = chunk_rows(groups.used(), width, kernel->columns, scratch.workers, kernel->rows);
    offset_t total = 0;
    for (index_t g = 0; g < groups.groups; ++g) {
      Tasks const tasks = tasks_of(g, chunk);
      total += tasks.count() * tasks.cost;
    }
    Share share(total, worker, scratch.workers);
    for (index_t g = 0; g < groups.groups; ++g) {
      Tasks const tasks = tasks_of(g, chunk);
      Range const mine = share.next(tasks.count(), tasks.cost);
      if (mine.size() == 0) continue;
      tasks.for_each_rectangle(mine, [&](Range rows, Range columns) {
        compute(g, rows, columns, Blocks<C>(scratch.data + worker * scratch.bytes_per_worker));
      });
    }
  }

private:
  static constexpr int parts = Activation::gated ? 2 : 1;

  Tasks tasks_of(index_t g, offset_t chunk) const {
    return {groups.end(g) - groups.begin(g), width, parts * depth, kernel->columns, chunk};
  }

  void compute(index_t g, Range rows, Range columns, Blocks<C> memory) const {
    auto const left = operand(x, groups.begin(g), false);
    offset_t const most_panels = block_columns<C> / kernel->columns / parts;
    offset_t const last = divide_up(columns.last, kernel->columns);
    for (offset_t panel = columns.first / kernel->columns; panel < last;) {
      offset_t const panels = std::min(most_panels, last - panel);
      auto const store = [&](offset_t row, offset_t height, C* sums) {
        store_rows(g, row, height, panel * kernel->columns, panels * kernel->columns, sums);
      };
      auto const right = up.panels(g).from(panel);
      if constexpr (Activation::gated) {
        PairedPanels<typename Weights::Panels> const both{gate.panels(g).from(panel), right, panels};
        block_product(*kernel, rows, left, depth, both, 2 * panels, both.gate.address(panels, 0), store, memory);
      } else {
        block_product(*kernel, rows, left, depth, right, panels, right.address(panels, 0), store, memory);
      }
      panel += panels;
    }
  }

  void store_rows(index_t g, offset_t first, offset_t height, offset_t column, offset_t columns, C* sums) const {
    auto const finish = hidden_row_function<T, C, Activation>(kernel->set);
    auto const bias = [&](BiasRef<T const> all) {
      if (all.data != nullptr) all.data += g * all.group_stride + column * all.n_stride;
      return all;
    };
    for (offset_t i = 0; i < height; ++i) {
      offset_t const row = groups.begin(g) + first + i;
      C* const gates = sums + i * block_columns<C>;
      T* const kept = pre == nullptr ? nullptr : pre + row * parts * width + column;
      finish(activation, std::min(columns, width - column), gates, gates + (parts - 1) * columns, bias(gate_bias),
             bias(up_bias), kept, kept == nullptr ? nullptr : kept + (parts - 1) * width,
             hidden + row * width + column);
    }
  }
};

/// out(token of r, n) += weight of r * (down(hidden row r) + bias)(n), in ascending order of experts.
/// A worker owns columns of the result over all experts, so there are neither atomics nor rows to sum up later.
template <class T, class Weights, class Kernel> struct CombineDown {
  using C = compute_t<T>;
  GroupedRows groups;
  T const* hidden;
  offset_t depth, width; ///< columns of the hidden layer and of the result
  Weights down;
  BiasRef<T const> bias;
  CombinedRows<C> out;
  WorkerScratch scratch;
  Kernel const* kernel;

  void operator()(int worker) const {
    offset_t const all = divide_up(width, kernel->columns);
    Range const mine{all * worker / scratch.workers, all * (worker + 1) / scratch.workers};
    if (mine.size() == 0) return;
    offset_t const column = mine.first * kernel->columns;
    Range const cleared = out.write == Write::add ? Range{0, 0}
                          : out.summed            ? Range{0, out.tokens}
                                                  : Range{groups.begin(0), groups.end(groups.groups - 1)};
    for (offset_t t = cleared.first; t < cleared.last; ++t)
      std::fill_n(out.data + t * width + column, std::min(mine.size() * kernel->columns, width - column), C(0));
    for (index_t g = 0; g < groups.groups; ++g)
      if (groups.end(g) > groups.begin(g))
        compute(g, mine, Blocks<C>(scratch.data + worker * scratch.bytes_per_worker));
  }

private:
  void compute(index_t g, Range mine, Blocks<C> memory) const {
    auto const left = operand(RowSource<T, C>{hidden, depth}, groups.begin(g), false);
    offset_t const most_panels = block_columns<C> / kernel->columns;
    for (offset_t panel = mine.first; panel < mine.last;) {
      offset_t const panels = std::min(most_panels, mine.last - panel);
      auto const right = down.panels(g).from(panel);
      bool const more = panel + panels < mine.last;
      auto const after = more ? right.address(panels, 0) : next_group(g).from(mine.first).address(0, 0);
      block_product(
          *kernel, Range{0, groups.end(g) - groups.begin(g)}, left, depth, right, panels, after,
          [&](offset_t row, offset_t height, C* sums) {
            add_rows(g, row, height, panel * kernel->columns, panels * kernel->columns, sums);
          },
          memory);
      panel += panels;
    }
  }

  auto next_group(index_t g) const {
    index_t next = g + 1;
    while (next < groups.groups && groups.end(next) == groups.begin(next)) ++next;
    return down.panels(next < groups.groups ? next : g);
  }

  void add_rows(index_t g, offset_t first, offset_t height, offset_t column, offset_t columns, C* sums) const {
    offset_t const count = std::min(columns, width - column);
    for (offset_t i = 0; i < height; ++i) {
      offset_t const row = groups.begin(g) + first + i;
      C* const values = sums + i * block_columns<C>;
      if (bias.data != nullptr)
        add_line(bias.data + g * bias.group_stride + column * bias.n_stride, bias.n_stride, count, values);
      C* const line = out.data + (out.summed ? offset_t(out.token_of_row[row]) : row) * width + column;
      C const weight = out.weight_of_row != nullptr ? out.weight_of_row[row] : C(1);
      for (offset_t n = 0; n < count; ++n) line[n] += weight * values[n];
    }
  }
};

/// The weights of experts of two projections, as right operands of their products.
template <class T, class Weights> struct FeedForwardWeights {
  Weights gate, up, down; ///< gate: unused by plain experts
  BiasRef<T const> gate_bias, up_bias, down_bias;
};

/// Experts from their rows to the sum of what they return.
/// \param[in] width, intermediate columns of x and of the hidden layer
/// \param[out] pre [rows, (gate) up], or null
/// \param[out] hidden [rows, intermediate]
template <class T, class Exec, class Activation, class Weights, class Kernel>
void feed_forward(Exec const& exec, Kernel const& kernel, GroupedRows const& rows, RowSource<T, compute_t<T>> const& x,
                  offset_t width, offset_t intermediate, FeedForwardWeights<T, Weights> const& weights,
                  Activation const& activation, T* pre, T* hidden, CombinedRows<compute_t<T>> const& out,
                  WorkerScratch const& workers) {
  launch(exec, "kokomo::FeedForwardExperts::hidden", workers.workers,
         HiddenLayer<T, Activation, Weights, Kernel>{rows, x, width, intermediate, weights.gate, weights.up,
                                                     weights.gate_bias, weights.up_bias, pre, hidden, activation,
                                                     workers, &kernel});
  launch(exec, "kokomo::FeedForwardExperts::combine_down", workers.workers,
         CombineDown<T, Weights, Kernel>{rows, hidden, intermediate, width, weights.down, weights.down_bias, out,
                                         workers, &kernel});
}

} // namespace kokomo::inline v0::detail::host

#endif
