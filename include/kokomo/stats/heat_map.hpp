// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_HEAT_MAP_HPP
#define KOKOMO_STATS_HEAT_MAP_HPP

#include <kokomo/stats/svg.hpp>

#include <vector>

namespace kokomo::inline v0::stats {

/// One row of a heat map.
struct HeatRow {
  std::string label;
  std::vector<double> loads;     ///< in units of the balanced load; rows may differ in length
  std::vector<std::string> tips; ///< [loads], or none: what a browser shows over a cell
  double bar = 0;                ///< drawn beside the row, if the map has bars
  bool gap = false;              ///< some space above: a new block begins
};

/// The largest load, unless a few cells would leave all the others in the dark: where the colours end.
inline double colour_top(std::vector<HeatRow> const& rows) {
  std::vector<double> loads;
  for (auto const& row : rows) loads.insert(loads.end(), row.loads.begin(), row.loads.end());
  std::sort(loads.begin(), loads.end());
  if (loads.empty()) return 2;
  double const most = loads.back(), nearly_most = loads[std::size_t(double(loads.size() - 1) * 0.99)];
  double const top = most > 2 * nearly_most ? nearly_most : most;
  double const step = top > 8 ? 2 : top > 4 ? 1 : 0.5;
  return std::max(1.5, std::ceil(top / step) * step);
}

/// The cells alone, stretched over a box. \param top the load of the brightest colour
inline void draw_cells(Canvas& canvas, Box const& box, std::vector<HeatRow> const& rows, double top,
                       double block_gap = 6) {
  std::size_t columns = 1, gaps = 0;
  for (auto const& row : rows) columns = std::max(columns, row.loads.size()), gaps += row.gap ? 1 : 0;
  double const width = box.width / double(columns),
               height = (box.height - block_gap * double(gaps)) / double(std::max<std::size_t>(rows.size(), 1));
  double const space = std::min(width, height) >= 12 ? 1 : 0;
  if (space == 0) canvas.begin_crisp();
  double y = box.y;
  for (auto const& row : rows) {
    y += row.gap ? block_gap : 0;
    for (std::size_t c = 0, run = 1; c < row.loads.size(); c += run, run = 1) {
      double const load = row.loads[c], x = box.x + width * double(c);
      std::string const colour = viridis(std::round(32 * load / top) / 32);
      while (space == 0 && row.tips.empty() && c + run < row.loads.size() &&
             viridis(std::round(32 * row.loads[c + run] / top) / 32) == colour)
        ++run; // one rectangle for neighbours of one colour
      canvas.rectangle({x, y, width * double(run) - space, height - space}, colour,
                       row.tips.empty() ? "" : row.tips[c]);
      if (width >= 30 && height >= 16)
        canvas.text(x + width / 2, y + height / 2 + 4, formatted("%.2f", load),
                    {.anchor = "middle", .fill = load > 0.55 * top ? "#111" : "#fff"});
    }
    y += height;
  }
  if (space == 0) canvas.end_crisp();
}

/// A scale from 0 to `top` with the balanced load marked. \param clipped some loads are above
inline void draw_scale(Canvas& canvas, Box const& box, double top, bool clipped) {
  canvas.text(box.x - 8, box.y - 24, "load", {.size = 12});
  canvas.text(box.x - 8, box.y - 10, "balanced = 1", {.size = 10, .fill = "#666"});
  canvas.colour_scale(box);
  double const tick = top <= 2 ? 0.5 : top <= 4 ? 1 : top <= 10 ? 2 : top <= 25 ? 5 : 10;
  auto const mark = [&](double value, bool balanced, std::string const& what) {
    double const y = box.y + box.height * (1 - value / top);
    canvas.line(box.x + (balanced ? 0 : box.width), y, box.x + box.width + 5, y, "#333", balanced ? 1.6 : 1);
    canvas.text(box.x + box.width + 9, y + 4, what, {.bold = balanced});
  };
  for (double value = 0; value < top - 0.4 * tick; value += tick)
    if (value != 1) mark(value, false, formatted("%.3g", value));
  mark(1, true, "1");
  mark(top, false, formatted(clipped ? "≥ %.3g" : "%.3g", top));
}

/// Loads as colours: rows and columns are what their labels say.
struct HeatMap {
  std::string title, subtitle;
  std::string row_label, column_label;
  std::vector<HeatRow> rows;
  std::vector<std::string> columns; ///< labels, empty ones included, or none: 0, 1, 2, ...
  std::string bars;                 ///< heading of the rows' bars; empty: there are none

  std::string svg() const {
    std::size_t count = columns.size(), gaps = 0;
    for (auto const& row : rows) count = std::max(count, row.loads.size()), gaps += row.gap ? 1 : 0;
    double const n = double(std::max<std::size_t>(rows.size(), 1)), block_gap = 8;
    double const cell_width = std::clamp(880.0 / double(std::max<std::size_t>(count, 1)), 2.0, 56.0);
    double const cell_height = std::clamp(460.0 / n, 4.0, 34.0);
    double const width = std::max(cell_width * double(count), 300.0), cells = cell_width * double(count);
    double const height = cell_height * n + block_gap * double(gaps);
    double const left = 64, above = 84, bar_width = bars.empty() ? 0 : 90, bar_left = left + width + 16;
    double const scale_left = bar_left + bar_width + 40, scale_height = std::max(height, 110.0);
    double const top = colour_top(rows);

    Canvas canvas(scale_left + 76, above + scale_height + 62);
    canvas.text(left, 30, title, {.size = 17, .fill = "#111", .bold = true});
    canvas.text(left, 49, subtitle, {.size = 12, .fill = "#666"});
    draw_cells(canvas, {left, above, cells, height}, rows, top, block_gap);

    double y = above, most = 0;
    for (auto const& row : rows) most = std::max(most, row.bar);
    auto const row_step = std::size_t(label_step(cell_height, 12));
    if (!bars.empty()) canvas.text(bar_left, above - 10, bars, {.size = 12});
    std::size_t in_block = 0;
    for (auto const& row : rows) {
      if (row.gap) y += block_gap, in_block = 0;
      bool const labelled = in_block++ % row_step == 0;
      if (labelled) canvas.text(left - 8, y + cell_height / 2 + 4, row.label, {.anchor = "end"});
      if (!bars.empty()) {
        double const length = most > 0 ? row.bar / most * (bar_width - 36) : 0;
        double const thick = std::min(cell_height - 1, 14.0);
        canvas.rectangle({bar_left, y + (cell_height - thick) / 2, std::max(length, 0.5), thick}, "#9aa5b1");
        if (labelled)
          canvas.text(bar_left + length + 5, y + cell_height / 2 + 4, formatted("%.2f", row.bar), {.size = 10});
      }
      y += cell_height;
    }
    auto const column_step = std::size_t(columns.empty() ? label_step(cell_width, 26) : 1);
    for (std::size_t c = 0; c < count; c += column_step) {
      std::string const label = columns.empty() ? std::to_string(c) : columns[c];
      if (!label.empty())
        canvas.text(left + cell_width * (double(c) + 0.5), above + height + 15, label, {.anchor = "middle"});
    }
    canvas.text(left + width / 2, above + height + 36, column_label, {.size = 13, .anchor = "middle"});
    canvas.turned_text(22, above + height / 2, row_label, {.size = 13, .anchor = "middle"});

    bool clipped = false;
    for (auto const& row : rows)
      for (double const load : row.loads) clipped = clipped || load > top;
    draw_scale(canvas, {scale_left, above, 14, scale_height}, top, clipped);
    return canvas.finish();
  }
};

} // namespace kokomo::inline v0::stats

#endif
