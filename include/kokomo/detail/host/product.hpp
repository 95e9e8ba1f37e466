// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_PRODUCT_HPP
#define KOKOMO_DETAIL_HOST_PRODUCT_HPP

#include <kokomo/detail/host/panels.hpp>

#include <iterator>

namespace kokomo::inline v0::detail::host {

struct Range {
  offset_t first = 0, last = 0;
  offset_t size() const { return last - first; }
};

/// The memory of one worker, on cache lines: a block of the left operand, two panels of the right one, the
/// accumulators.
template <class C> struct Blocks {
  static constexpr offset_t left_size =
      256 * 1024 / sizeof(C); ///< block_rows * left_pitch, and more where rows are few
  static_assert(left_size >= block_rows * left_pitch<C>);
  static constexpr offset_t panel_size = 2 * block_depth<C> * max_panel_columns<C>;
  static constexpr offset_t sums_size = block_rows * block_columns<C>;
  static constexpr offset_t bytes = offset_t(sizeof(C)) * (left_size + panel_size + sums_size) + 64;

  C *left, *panel, *sums;

  explicit Blocks(std::byte* memory)
      : left(reinterpret_cast<C*>(memory + (64 - reinterpret_cast<std::uintptr_t>(memory) % 64) % 64)),
        panel(left + left_size), sums(panel + panel_size) {}
};

/// sums(i, j) = sum_k left(row + i, k) * right(k, j) for a block of rows and of at most block_columns columns: `panels` of
/// the right operand. Hands each finished block of rows to store(first row, height, sums), which may change the sums.
/// Each element is summed in ascending k; where blocks and tiles end does not matter.
/// \param[in] after address of the panel that will be packed or read after these
template <class C, class S, class Left, class Right, class Store>
void block_product(Microkernel<C, S> const& kernel, Range rows, Left const& left, offset_t depth, Right const& right,
                   offset_t panels, std::uintptr_t after, Store const& store, Blocks<C> memory) {
  constexpr offset_t most_rows = Right::packed ? deep_block_rows : block_rows;
  constexpr offset_t most_steps = Right::packed ? deep_block_depth<C> : block_depth<C>;
  // While a panel is multiplied, the next one is prefetched: a share of its cache lines by each tile.
  offset_t line_offsets[Right::packed ? 1 : Blocks<C>::panel_size / 2 * sizeof(C) / 64];
  offset_t lines = 0;
  if constexpr (!Right::packed)
    lines = right.list_lines(std::min(depth, most_steps), line_offsets, offset_t(std::size(line_offsets)));
  // Blocks and tiles of rows have equal heights, rather than full ones and a remainder.
  offset_t const row_blocks = divide_up(rows.size(), most_rows);
  for (offset_t row_block = 0; row_block < row_blocks; ++row_block) {
    offset_t const row = rows.first + rows.size() * row_block / row_blocks;
    offset_t const height = rows.first + rows.size() * (row_block + 1) / row_blocks - row;
    offset_t const tiles = divide_up(height, kernel.rows);
    offset_t const at_once = height <= kernel.wide_rows ? 2 : 1; // panels of a tile
    if (depth == 0) std::fill_n(memory.sums, height * block_columns<C>, C(0));
    for (offset_t k = 0; k < depth; k += most_steps) {
      offset_t const steps = std::min(most_steps, depth - k);
      if constexpr (Right::packed)
        // One tile takes a panel as fast as memory gives it, and a processor foresees such a stream by itself, better.
        lines = tiles > 1 ? divide_up(right.bytes(steps), 64) : 0;
      offset_t const lines_of_tile = divide_up(lines, tiles);
      left.pack_rows(row, height, k, steps, memory.left);
      for (offset_t p = 0; p < panels; p += at_once) {
        bool const wide = p + 1 < panels && at_once == 2;
        S const* const panel = right.panel(p, k, steps, memory.panel);
        S const* const second = wide ? right.panel(p + 1, k, steps, memory.panel + Blocks<C>::panel_size / 2) : nullptr;
        bool const more_panels = p + at_once < panels, more_depth = k + steps < depth,
                   more_rows = row_block + 1 < row_blocks;
        std::uintptr_t const next = more_panels  ? right.address(p + at_once, k)
                                    : more_depth ? right.address(0, k + steps)
                                    : more_rows  ? right.address(0, 0)
                                                 : after;
        Prefetch ahead{.base = next, .count = int(divide_up(lines_of_tile, divide_up(steps, prefetch_steps)))};
        if (wide && more_panels) ahead.second = right.address(std::min(p + 3, panels - 1), k);
        if (wide && !more_panels && more_depth) ahead.second = right.address(1, k + steps);
        for (offset_t tile = 0; tile < tiles; ++tile) {
          offset_t const top = height * tile / tiles, bottom = height * (tile + 1) / tiles;
          offset_t const line = std::min(lines, tile * lines_of_tile), end = std::min(lines, line + lines_of_tile);
          if constexpr (Right::packed)
            ahead.base = next + std::uintptr_t(64 * line), ahead.last = next + std::uintptr_t(64 * end);
          else
            ahead.line = line_offsets + line, ahead.end = line_offsets + end;
          auto const function =
              wide ? kernel.wide_tile[std::size_t(bottom - top)] : kernel.tile[std::size_t(bottom - top)];
          function(steps, memory.left + top * left_pitch<C>, panel, second,
                   memory.sums + top * block_columns<C> + p * kernel.columns, k > 0, ahead);
        }
      }
    }
    store(row, height, memory.sums);
  }
}

/// store(row, column, count, values) for rows x columns of left * right: all blocks of columns of a rectangle. Its
/// first column begins a panel.
template <class C, class Left, class SR, class Store>
void rectangle_product(Microkernel<C> const& kernel, Range rows, Range columns, offset_t depth, Left const& left,
                       Operand<SR, C> const& right, offset_t all_columns, Store const& store, Blocks<C> memory) {
  UnpackedPanels<SR, C> const panels{right, all_columns, 0, kernel.columns};
  for (Range block{columns.first, 0}; block.first < columns.last; block.first = block.last) {
    block.last = std::min(block.first + block_columns<C>, columns.last);
    offset_t const first = block.first / kernel.columns;
    auto const after = panels.address((block.last < columns.last ? block.last : columns.first) / kernel.columns, 0);
    block_product(
        kernel, rows, left, depth, panels.from(first), divide_up(block.size(), kernel.columns), after,
        [&](offset_t row, offset_t height, C* sums) {
          for (offset_t i = 0; i < height; ++i) store(row + i, block.first, block.size(), sums + i * block_columns<C>);
        },
        memory);
  }
}

/// Cuts a sequence of tasks into consecutive shares of equal cost, one a worker. Every worker walks the same sequence
/// and finds its own share, so no task list is built and nothing is shared while they run.
class Share {
public:
  Share(offset_t total, int worker, int workers)
      : m_first(cut(total, worker, workers)), m_last(cut(total, worker + 1, workers)) {}

  /// Those of the next `count` tasks, each of cost `cost`, that are this worker's: the ones that start in its share.
  Range next(offset_t count, offset_t cost) {
    Range const mine{clamp(m_first, count, cost), clamp(m_last, count, cost)};
    m_at += count * cost;
    return mine;
  }

private:
  static offset_t cut(offset_t total, offset_t worker, offset_t workers) {
    return total / workers * worker + total % workers * worker / workers;
  }
  offset_t clamp(offset_t bound, offset_t count, offset_t cost) const {
    return bound <= m_at ? 0 : std::min(count, divide_up(bound - m_at, cost));
  }

  offset_t m_first, m_last, m_at = 0;
};

/// The result of one group cut into tasks: chunks of rows times panels of columns, panels first.
struct Tasks {
  offset_t rows = 0, columns = 0, panel = 1, chunks = 0, panels = 0, cost = 1;

  /// `chunk` is the largest number of rows of a task. A panel is packed once a task, which costs as much as the
  /// multiply-adds of some 16 rows; beginning and storing a row as much as those of some 16 steps of the sum.
  Tasks(offset_t rows_, offset_t columns_, offset_t depth, offset_t panel_, offset_t chunk)
      : rows(rows_), columns(columns_), panel(panel_), chunks(divide_up(rows_, chunk)),
        panels(divide_up(columns_, panel_)) {
    if (chunks > 0) cost = (divide_up(rows, chunks) + 16) * (depth + 16);
  }
  offset_t count() const { return chunks * panels; }

  /// Calls f(rows, columns) for the rectangles that the tasks `range` make up, as few as possible.
  template <class F> void for_each_rectangle(Range range, F const& f) const {
    for (offset_t task = range.first; task < range.last;) {
      offset_t const chunk = task / panels, from = task % panels;
      bool const whole = from == 0 && range.last - task >= panels;
      offset_t const next_chunk = whole ? range.last / panels : chunk + 1;
      offset_t const next = whole ? next_chunk * panels : std::min(range.last, next_chunk * panels);
      offset_t const to = whole ? panels : from + next - task;
      f(Range{rows * chunk / chunks, rows * next_chunk / chunks}, Range{from * panel, std::min(columns, to * panel)});
      task = next;
    }
  }
};

/// The largest number of rows of a task such that even one group of `rows` gives every worker some 8 tasks.
inline offset_t chunk_rows(offset_t rows, offset_t columns, offset_t panel, int workers, int tile_rows) {
  offset_t const chunks = divide_up(8 * offset_t(workers), std::max<offset_t>(1, divide_up(columns, panel)));
  return std::max<offset_t>(tile_rows, divide_up(rows, chunks));
}

// The functors below run on host execution spaces only; their call operators are not KOKKOS_FUNCTIONs.

template <class SA, class C, class SB, class SO> struct GroupedProduct {
  GroupedRows groups;
  RowSource<SA, C> a;
  offset_t depth;
  WeightRef<SB const> b;
  BiasRef<SB const> bias;
  offset_t columns;
  RowTarget<SO> out;
  Write write;
  WorkerScratch scratch;
  Microkernel<C> const* kernel;

  void operator()(int worker) const {
    offset_t const chunk = chunk_rows(groups.used(), columns, kernel->columns, scratch.workers, kernel->rows);
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
      auto const left = operand(a, groups.begin(g), false);
      auto const right = operand<C>(b, g);
      tasks.for_each_rectangle(mine, [&](Range rows, Range cols) {
        rectangle_product(*kernel, rows, cols, depth, left, right, columns, StoreRow{*this, g},
                          Blocks<C>(scratch.data + worker * scratch.bytes_per_worker));
      });
    }
  }

private:
  Tasks tasks_of(index_t g, offset_t chunk) const {
    return {groups.end(g) - groups.begin(g), columns, depth, kernel->columns, chunk};
  }

  struct StoreRow {
    GroupedProduct const& product;
    index_t group;

    void operator()(offset_t row, offset_t column, offset_t count, C* values) const {
      auto const& [data, group_stride, n_stride] = product.bias;
      if (data != nullptr) add_line(data + group * group_stride + column * n_stride, n_stride, count, values);
      SO* const line = product.out.data + (product.groups.begin(group) + row) * product.out.stride;
      write_line(values, count, line + column, 1, product.write);
    }
  };
};

/// One task sums `block` columns of one group.
template <class SD, class C, class SW> struct GroupedRowSum {
  static constexpr offset_t block = 64;
  GroupedRows groups;
  RowSource<SD, C> d;
  offset_t columns;
  BiasRef<SW> bias;
  Write write;
  int workers;

  void operator()(int worker) const {
    offset_t const blocks = divide_up(columns, block);
    offset_t total = 0;
    for (index_t g = 0; g < groups.groups; ++g) total += blocks * cost(g);
    Share share(total, worker, workers);
    for (index_t g = 0; g < groups.groups; ++g) {
      Range const mine = share.next(blocks, cost(g));
      for (offset_t i = mine.first; i < mine.last; ++i) sum_block(g, i * block, std::min(block, columns - i * block));
    }
  }

private:
  offset_t cost(index_t g) const { return groups.end(g) - groups.begin(g) + 1; }

  void sum_block(index_t g, offset_t column, offset_t count) const {
    offset_t const rows = groups.end(g) - groups.begin(g);
    if (rows == 0 && write == Write::add) return;
    C sum[block] = {};
    C line[block];
    auto const lines = operand(d, groups.begin(g), false);
    for (offset_t r = 0; r < rows; ++r) {
      lines.pack_rows(r, 1, column, count, line);
      add_line(line, 1, count, sum);
    }
    write_line(sum, count, bias.data + g * bias.group_stride + column * bias.n_stride, bias.n_stride, write);
  }
};

} // namespace kokomo::inline v0::detail::host

#endif
