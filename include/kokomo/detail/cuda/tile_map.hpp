// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_CUDA_TILE_MAP_HPP
#define KOKOMO_DETAIL_CUDA_TILE_MAP_HPP

#include <kokomo/detail/operands.hpp>

/// Which block works on which tile. The host knows the number of groups and an upper bound of their rows; what each group
/// has is read where the kernel runs, so nothing waits for the device.
namespace kokomo::inline v0::detail::cuda {

/// Rows first .. first + rows of one group. No rows: the block has nothing to do.
struct RowTile {
  index_t group = 0;
  offset_t first = 0;
  int rows = 0;
};

/// Row tiles of `height` rows that cover any partition of `rows` rows into `groups` groups: the blocks of a launch.
KOKKOS_INLINE_FUNCTION offset_t row_slots(offset_t rows, index_t groups, int height) {
  return rows / height + groups;
}

/// The slot of a group's first tile. Groups have room enough, since a group that ends at row f after beginning at b has
/// ceil((f - b) / height) tiles and floor(f / height) - floor(b / height) + 1 slots, which is never less.
KOKKOS_INLINE_FUNCTION offset_t first_slot(GroupedRows const& rows, index_t group, int height) {
  return rows.begin(group) / height + group;
}

/// The tile of a slot in [0, row_slots): a binary search over the groups' offsets, and no table to be computed before.
KOKKOS_INLINE_FUNCTION RowTile row_tile(GroupedRows const& rows, offset_t slot, int height) {
  index_t group = 0, after = rows.groups;
  while (after - group > 1) {
    index_t const middle = group + (after - group) / 2;
    (first_slot(rows, middle, height) <= slot ? group : after) = middle;
  }
  offset_t const tile = slot - first_slot(rows, group, height); // negative before the first group, if it begins later
  offset_t const first = rows.begin(group) + tile * height, left = tile < 0 ? 0 : rows.end(group) - first;
  return {group, first, static_cast<int>(left < 0 ? 0 : left < height ? left : height)};
}

/// Order of a launch's blocks: eight row tiles side by side go through the column tiles together, so that what they read
/// of the weights, and of their rows again, is still in the second-level cache.
struct Raster {
  static constexpr offset_t band = 8;
  offset_t slot, column_tile;

  KOKKOS_FUNCTION Raster(offset_t block, offset_t slots, offset_t column_tiles) {
    offset_t const first = block / (band * column_tiles) * band, in_band = block % (band * column_tiles);
    offset_t const height = slots - first < band ? slots - first : band;
    slot = first + in_band % height;
    column_tile = in_band / height;
  }
};

KOKKOS_INLINE_FUNCTION offset_t tiles_of(offset_t extent, int tile) {
  return (extent + tile - 1) / tile;
}

} // namespace kokomo::inline v0::detail::cuda

#endif
