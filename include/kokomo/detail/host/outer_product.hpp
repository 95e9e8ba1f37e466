// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_HOST_OUTER_PRODUCT_HPP
#define KOKOMO_DETAIL_HOST_OUTER_PRODUCT_HPP

#include <kokomo/detail/host/outer_kernel.hpp>
#include <kokomo/detail/host/product.hpp>

namespace kokomo::inline v0::detail::host {

/// to[r * pitch + i] = element column + i of row first + r: gathered, scaled, in the compute type.
template <class S, class C>
void gather_rows(RowSource<S, C> const& source, offset_t first, offset_t rows, offset_t column, offset_t columns, C* to,
                 offset_t pitch) {
  offset_t const whole = columns - columns % 4;
  for (offset_t r = 0; r < rows; ++r, to += pitch) {
    offset_t const at = source.index != nullptr ? offset_t(source.index[first + r]) : first + r;
    S const* const line = source.data + at * source.stride + column;
    C const factor = source.scale != nullptr ? source.scale[first + r] : C(1);
    if (source.scale != nullptr)
      for (offset_t i = 0; i < whole; i += 4) (Quad<C>::load(line + i) * Quad<C>::broadcast(factor)).store(to + i);
    else
      for (offset_t i = 0; i < whole; i += 4) Quad<C>::load(line + i).store(to + i);
    for (offset_t i = whole; i < columns; ++i) to[i] = factor * static_cast<C>(line[i]);
  }
}

/// w(g, i, j) (=|+=) sum over the rows r of group g of left(r, i) * right(r, j). j is the dimension in which w is
/// contiguous, if any. Nothing is transposed, and only blocks of a worker's own are copied.
template <class SL, class SR, class C, class SW> struct GroupedOuterProduct {
  GroupedRows groups;
  RowSource<SL, C> left;
  offset_t rows;
  RowSource<SR, C> right;
  offset_t columns;
  WeightRef<SW> w;
  Write write;
  WorkerScratch scratch;
  OuterKernel<C, SW> const* kernel;

  void operator()(int worker) const {
    offset_t const chunk = chunk_rows(rows, columns, kernel->columns, scratch.workers, kernel->rows);
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
      Blocks<C> const memory(scratch.data + worker * scratch.bytes_per_worker);
      tasks.for_each_rectangle(mine, [&](Range from, Range to) {
        if (depth_of(g) <= block_depth<C>)
          shallow_rectangle(g, from, to, memory);
        else
          deep_rectangle(g, from, to, memory);
      });
    }
    fence_streamed_stores();
  }

private:
  offset_t depth_of(index_t g) const { return groups.end(g) - groups.begin(g); }
  Tasks tasks_of(index_t g, offset_t chunk) const {
    bool const untouched = write == Write::add && depth_of(g) == 0;
    return {untouched ? 0 : rows, columns, depth_of(g), kernel->columns, chunk};
  }

  /// The rows of a block of the left operand of `steps` steps, so that it stays in the L2 cache.
  offset_t most_rows(offset_t steps) const {
    return std::max<offset_t>(kernel->rows, Blocks<C>::left_size / 2 / std::max<offset_t>(steps, 1));
  }

  /// Rows of an operand that are cut together: each is read as a whole, and the next piece of a tile or panel is
  /// written before the one before it has left the L1 cache.
  static constexpr offset_t rows_together = 16;

  /// How many panels of the right operand fit into so many elements.
  offset_t panels_in(offset_t elements, offset_t steps) const {
    return std::max<offset_t>(1, elements / (std::max<offset_t>(steps, 1) * kernel->columns));
  }

  /// All rows of the group at once: sums stay in registers.
  void shallow_rectangle(index_t g, Range mine, Range to, Blocks<C> memory) const {
    offset_t const depth = depth_of(g);
    offset_t const blocks = divide_up(mine.size(), most_rows(depth));
    for (offset_t b = 0; b < blocks; ++b) {
      Range const block{mine.first + mine.size() * b / blocks, mine.first + mine.size() * (b + 1) / blocks};
      pack_tiles(g, 0, depth, block, memory.left);
      multiply(g, 0, depth, block, to, {.add = write == Write::add}, memory);
    }
  }

  /// Block after block of the group's rows, with the sums in between in memory.
  void deep_rectangle(index_t g, Range mine, Range to, Blocks<C> memory) const {
    offset_t const depth = depth_of(g),
                   blocks = divide_up(mine.size(), std::min(block_rows, most_rows(block_depth<C>)));
    for (offset_t b = 0; b < blocks; ++b) {
      Range const block{mine.first + mine.size() * b / blocks, mine.first + mine.size() * (b + 1) / blocks};
      for (Range part{to.first, 0}; part.first < to.last; part.first = part.last) {
        part.last = std::min(part.first + block_columns<C>, to.last);
        for (offset_t k = 0; k < depth; k += block_depth<C>) {
          offset_t const steps = std::min(block_depth<C>, depth - k);
          pack_tiles(g, k, steps, block, memory.left);
          multiply(g, k, steps, block, part, {.resume = k > 0, .keep = k + steps < depth, .add = write == Write::add},
                   memory);
        }
      }
    }
  }

  /// The tiles of a block of rows of the result, of equal heights rather than full ones and a remainder.
  struct Tiling {
    offset_t rows, count;
    Range operator[](offset_t tile) const { return {rows * tile / count, rows * (tile + 1) / count}; }
  };
  Tiling tiling(Range block) const { return {block.size(), divide_up(block.size(), kernel->rows)}; }

  /// Cuts a block of the left operand into its tiles: each lies side by side, as the L1 cache wants it.
  void pack_tiles(index_t g, offset_t k, offset_t steps, Range block, C* to) const {
    Tiling const tiles = tiling(block);
    for (offset_t s = 0; s < steps; s += rows_together)
      for (offset_t tile = 0; tile < tiles.count; ++tile) {
        Range const at = tiles[tile];
        gather_rows(left, groups.begin(g) + k + s, std::min(rows_together, steps - s), block.first + at.first,
                    at.size(), to + steps * at.first + s * at.size(), at.size());
      }
  }

  /// Copies columns of the right operand into `count` panels. The first of them begins at column `first`.
  void pack_panels(index_t g, offset_t k, offset_t steps, offset_t first, offset_t last, offset_t count, C* to) const {
    offset_t const width = kernel->columns;
    if (last - first < count * width) std::fill_n(to + (count - 1) * steps * width, steps * width, C(0));
    for (offset_t s = 0; s < steps; s += rows_together)
      for (offset_t p = 0; p < count; ++p) {
        offset_t const column = first + p * width;
        gather_rows(right, groups.begin(g) + k + s, std::min(rows_together, steps - s), column,
                    std::min(width, last - column), to + (p * steps + s) * width, width);
      }
  }

  /// A packed block of the left operand times columns of the right one.
  void multiply(index_t g, offset_t k, offset_t steps, Range block, Range to, OuterTileMode mode,
                Blocks<C> memory) const {
    offset_t const width = kernel->columns, panels = divide_up(to.size(), width);
    Tiling const tiles = tiling(block);
    bool const sums_by_column = mode.resume || mode.keep;
    // All panels that there is room for are packed together, and those that fit into half of the L1 cache multiplied
    // together: their columns of one row of the result are stored shortly one after the other.
    offset_t const room = panels_in(Blocks<C>::panel_size, steps), group = panels_in(Blocks<C>::panel_size / 4, steps);
    mode.stream = streams();
    for (offset_t first = 0; first < panels; first += room) {
      offset_t const end = std::min(panels, first + room);
      pack_panels(g, k, steps, to.first + first * width, to.last, end - first, memory.panel);
      for (offset_t begin = first; begin < end; begin += group)
        for (offset_t tile = 0; tile < tiles.count; ++tile) {
          Range const at = tiles[tile];
          for (offset_t p = begin; p < std::min(end, begin + group); ++p) {
            offset_t const column = to.first + p * width, used = std::min(width, to.last - column);
            C* const sums = memory.sums + (sums_by_column ? at.first * block_columns<C> + p * width : 0);
            auto tile_mode = mode;
            bool const direct = used == width && w.k_stride == 1;
            tile_mode.keep = mode.keep || !direct;
            SW* const target = &w(g, block.first + at.first, column);
            kernel->tile[std::size_t(at.size())](steps, memory.left + steps * at.first,
                                                 memory.panel + (p - first) * steps * width, sums, target, w.n_stride,
                                                 tile_mode);
            if (direct || mode.keep) continue;
            for (offset_t i = 0; i < at.size(); ++i)
              write_line(sums + i * block_columns<C>, used, target + i * w.n_stride, w.k_stride, write);
          }
        }
    }
  }

  /// Whether results go past the caches: whole lines only, and where they are too many for anyone to find them there.
  bool streams() const {
    constexpr offset_t many = offset_t(1) << 24;
    offset_t const size = sizeof(SW);
    auto const at = reinterpret_cast<std::uintptr_t>(w.data);
    return write == Write::overwrite && w.k_stride == 1 && kernel->columns * size % 64 == 0 && at % 64 == 0 &&
           w.n_stride * size % 64 == 0 && w.group_stride * size % 64 == 0 &&
           groups.groups * rows * columns * size >= many;
  }
};

} // namespace kokomo::inline v0::detail::host

#endif
