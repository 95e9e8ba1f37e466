// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_FEED_FORWARD_BACKWARD_HPP
#define KOKOMO_DETAIL_HOST_FEED_FORWARD_BACKWARD_HPP

#include <kokomo/detail/host/feed_forward.hpp>
#include <kokomo/detail/host/wide_panels.hpp>

/// Backward of experts of two projections on a host, one slice of the hidden layer after the other: the hidden layer's
/// gradient with everything that follows from it element by element, the input's gradient summed up by token, and the
/// weights' as outer products of rows. No row as wide as the layer's input is ever stored.

namespace kokomo::inline v0::detail::host {

/// Columns whose products are summed into one number: what a gradient of a row's weight is first cut into, so that the
/// sum does not depend on who computes which columns. A multiple of every kernel's panel.
template <class C> inline constexpr offset_t partial_columns = max_panel_columns<C>;

/// sums[p] = the sum of the p-th partial_columns of `values`
template <class C> inline void add_up(C const* values, offset_t count, C* sums, Write write) {
  for (offset_t first = 0; first < count; first += partial_columns<C>, ++sums) {
    offset_t const last = std::min(count, first + partial_columns<C>), whole = first + (last - first) / 4 * 4;
    auto lanes = Quad<C>::broadcast(C(0));
    for (offset_t i = first; i < whole; i += 4) lanes = lanes + Quad<C>::load(values + i);
    C lane[4];
    lanes.store(lane);
    C sum = (lane[0] + lane[1]) + (lane[2] + lane[3]);
    for (offset_t i = whole; i < last; ++i) sum += values[i];
    *sums = write == Write::add ? *sums + sum : sum;
  }
}

/// One row of the hidden layer's gradient: with dA' = d_out W_down and the row's weight s,
/// d_pre = act'(pre) (s dA'), hidden = s act(pre), d_hidden <- dA' act(pre). Both results are rounded to T.
template <class T, class C, class Activation>
inline __attribute__((always_inline)) void hidden_gradient_row(Activation const& activation, offset_t count, C weight,
                                                               C* d_hidden, T const* gate, T const* up, T* d_gate,
                                                               T* d_up, T* hidden) {
  KOKOMO_INDEPENDENT
  for (offset_t i = 0; i < count; ++i) {
    C const g = C(gate[i]), u = C(up[i]), da = d_hidden[i];
    C const a = activation.template value<T>(g, u);
    C dg = 0, du = 0;
    activation.gradient(g, u, weight * da, dg, du);
    if constexpr (Activation::gated) d_gate[i] = T(dg);
    d_up[i] = T(du);
    hidden[i] = T(weight * a);
    d_hidden[i] = da * a;
  }
}

#define KOKOMO_DEFINE_HIDDEN_GRADIENT_ROW(NAME, TARGET)                                                                \
  template <class T, class C, class Activation>                                                                        \
  TARGET void NAME(Activation const& activation, offset_t count, C weight, C* d_hidden, T const* gate, T const* up,    \
                   T* d_gate, T* d_up, T* hidden) {                                                                    \
    hidden_gradient_row(activation, count, weight, d_hidden, gate, up, d_gate, d_up, hidden);                          \
  }
KOKOMO_DEFINE_HIDDEN_GRADIENT_ROW(portable_hidden_gradient_row, )
#if KOKOMO_HOST_X86
KOKOMO_DEFINE_HIDDEN_GRADIENT_ROW(avx2_hidden_gradient_row, __attribute__((target("avx2,fma"))))
KOKOMO_DEFINE_HIDDEN_GRADIENT_ROW(avx512_hidden_gradient_row, __attribute__((target("avx512f"))))
#endif
#undef KOKOMO_DEFINE_HIDDEN_GRADIENT_ROW

template <class T, class C, class Activation> auto hidden_gradient_row_function(InstructionSet set) {
#if KOKOMO_HOST_X86
  if (set == InstructionSet::avx512) return &avx512_hidden_gradient_row<T, C, Activation>;
  if (set == InstructionSet::avx2) return &avx2_hidden_gradient_row<T, C, Activation>;
#endif
  (void)set;
  return &portable_hidden_gradient_row<T, C, Activation>;
}

/// The columns of both projections' part of the hidden layer: pointers to the first column, and the row stride.
template <class T> struct HiddenColumns {
  T *gate = nullptr, *up = nullptr;
  offset_t stride = 0;
};

/// dA' = d_out W_down and, while it is in the cache, all that comes from it (hidden_gradient_row). A task is a few
/// columns of one expert.
template <class T, class Activation, class Weights, class Kernel> struct HiddenGradient {
  using C = compute_t<T>;
  GroupedRows groups;
  RowSource<C, C> d_out;
  offset_t depth, width; ///< columns of d_out and of this slice of the hidden layer
  Weights down;          ///< transposed
  HiddenColumns<T const> pre;
  HiddenColumns<T> d_pre;
  T* hidden;         ///< [rows, width]
  C const* weight;   ///< [rows], or null
  C* along;          ///< partial sums of dA' act(pre) of each row, or null
  offset_t partials; ///< row stride of `along`
  Activation activation;
  WorkerScratch scratch;
  Kernel const* kernel;
  InstructionSet set;

  void operator()(int worker) const {
    offset_t const chunk = chunk_rows(groups.used(), width, partial_columns<C>, scratch.workers, kernel->rows);
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
  Tasks tasks_of(index_t g, offset_t chunk) const {
    return {groups.end(g) - groups.begin(g), width, depth, partial_columns<C>, chunk};
  }

  void compute(index_t g, Range rows, Range columns, Blocks<C> memory) const {
    auto const left = operand(d_out, groups.begin(g), false);
    alignas(64) C buffer[block_depth<C> * wide_columns<C>];
    for (Range block{columns.first, 0}; block.first < columns.last; block.first = block.last) {
      block.last = std::min(block.first + block_columns<C>, columns.last);
      offset_t const panels = divide_up(block.size(), kernel->columns);
      WidePanels const right(down.panels(g).from(block.first / kernel->columns), panels, buffer);
      block_product(
          *kernel, rows, left, depth, right, panels,
          down.panels(g).address(std::min(block.last, width - 1) / kernel->columns, 0),
          [&](offset_t row, offset_t height, C* sums) { store_rows(g, row, height, block, sums); }, memory);
    }
  }

  void store_rows(index_t g, offset_t first, offset_t height, Range columns, C* sums) const {
    auto const finish = hidden_gradient_row_function<T, C, Activation>(set);
    for (offset_t i = 0; i < height; ++i) {
      offset_t const row = groups.begin(g) + first + i;
      offset_t const at = row * pre.stride + columns.first, d_at = row * d_pre.stride + columns.first;
      C* const values = sums + i * block_columns<C>;
      finish(activation, columns.size(), weight != nullptr ? weight[row] : C(1), values,
             Activation::gated ? pre.gate + at : pre.up + at, pre.up + at,
             Activation::gated ? d_pre.gate + d_at : nullptr, d_pre.up + d_at, hidden + row * width + columns.first);
      if (along != nullptr)
        add_up(values, columns.size(), along + row * partials + columns.first / partial_columns<C>, Write::overwrite);
    }
  }
};

/// d_weight[row] = the sum of its partial sums (+ <d_out, bias of the down projection>).
template <class T> struct WeightGradient {
  using C = compute_t<T>;
  GroupedRows groups;
  C const* along;
  offset_t stride, partials; ///< row stride of `along`, and how many sums of a row there are
  RowSource<C, C> d_out;
  BiasRef<T const> bias;
  offset_t width;
  C* d_weight;

  void operator()(offset_t row) const {
    if (!groups.contains(row)) return;
    C sum = 0;
    for (offset_t p = 0; p < partials; ++p) sum += along[row * stride + p];
    if (bias.data != nullptr) {
      T const* const b = bias.data + groups.group_of(row) * bias.group_stride;
      C lane[8] = {}; // eight sums at once, for the sake of vector code
      for (offset_t h = 0; h < width; ++h) lane[h % 8] += d_out(row, h) * C(b[h * bias.n_stride]);
      for (C const value : lane) sum += value;
    }
    d_weight[row] = sum;
  }
};

/// dx(token of r, h) += scale of r * (d_pre row r W)(h), in ascending order of experts, W gate and up projection one
/// below the other. As in CombineDown a worker owns columns of the result over all experts.
template <class T, bool gated, class Weights, class Kernel> struct InputGradient {
  using C = compute_t<T>;
  GroupedRows groups;
  T const* d_pre;        ///< [rows, (gate) up]
  offset_t depth, width; ///< columns of one part of d_pre and of the result
  Weights gate, up;      ///< transposed; gate: unused by plain experts
  CombinedRows<C> dx;
  Write write;
  RowSource<T, C> x; ///< what `along` is the product with
  C* along;          ///< partial sums of <d_pre row W, x row> of each row, or null
  offset_t partials; ///< row stride of `along`
  Write along_write;
  WorkerScratch scratch;
  Kernel const* kernel;

  void operator()(int worker) const {
    offset_t const all = divide_up(width, partial_columns<C>);
    Range const mine{all * worker / scratch.workers * partial_columns<C>,
                     std::min(width, all * (worker + 1) / scratch.workers * partial_columns<C>)};
    if (mine.size() <= 0) return;
    if (write == Write::overwrite)
      for (offset_t t = 0; t < dx.tokens; ++t) std::fill_n(dx.data + t * width + mine.first, mine.size(), C(0));
    for (index_t g = 0; g < groups.groups; ++g)
      if (groups.end(g) > groups.begin(g))
        compute(g, mine, Blocks<C>(scratch.data + worker * scratch.bytes_per_worker));
  }

private:
  auto panels(index_t g) const {
    if constexpr (gated)
      return StackedPanels<T, C>{gate.panels(g), up.panels(g), depth};
    else
      return up.panels(g);
  }

  void compute(index_t g, Range mine, Blocks<C> memory) const {
    constexpr int parts = gated ? 2 : 1;
    auto const left = operand(RowSource<T, C>{d_pre, parts * depth}, groups.begin(g), false);
    alignas(64) C buffer[block_depth<C> * wide_columns<C>];
    for (Range block{mine.first, 0}; block.first < mine.last; block.first = block.last) {
      block.last = std::min(block.first + block_columns<C>, mine.last);
      offset_t const count = divide_up(block.size(), kernel->columns);
      WidePanels const right(panels(g).from(block.first / kernel->columns), count, buffer);
      auto const after = block.last < mine.last ? panels(g).address(block.last / kernel->columns, 0)
                                                : panels(next_group(g)).address(mine.first / kernel->columns, 0);
      block_product(
          *kernel, Range{0, groups.end(g) - groups.begin(g)}, left, parts * depth, right, count, after,
          [&](offset_t row, offset_t height, C* sums) { add_rows(g, row, height, block, sums); }, memory);
    }
  }

  index_t next_group(index_t g) const {
    index_t next = g + 1;
    while (next < groups.groups && groups.end(next) == groups.begin(next)) ++next;
    return next < groups.groups ? next : g;
  }

  void add_rows(index_t g, offset_t first, offset_t height, Range columns, C* sums) const {
    for (offset_t i = 0; i < height; ++i) {
      offset_t const row = groups.begin(g) + first + i;
      C* const values = sums + i * block_columns<C>;
      C* const line = dx.data + offset_t(dx.token_of_row[row]) * width + columns.first;
      C const scale = dx.weight_of_row != nullptr ? dx.weight_of_row[row] : C(1);
      for (offset_t h = 0; h < columns.size(); ++h) line[h] += scale * values[h];
      if (along == nullptr) continue;
      for (offset_t h = 0; h < columns.size(); ++h) values[h] *= x(row, columns.first + h);
      add_up(values, columns.size(), along + row * partials + columns.first / partial_columns<C>, along_write);
    }
  }
};

} // namespace kokomo::inline v0::detail::host

#endif
