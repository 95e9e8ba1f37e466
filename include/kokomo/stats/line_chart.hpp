// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_LINE_CHART_HPP
#define KOKOMO_STATS_LINE_CHART_HPP

#include <kokomo/stats/svg.hpp>

#include <limits>
#include <vector>

namespace kokomo::inline v0::stats {

/// One line of a chart.
struct Series {
  std::string name;
  std::vector<double> x, y;
  std::string colour; ///< empty: that of its place among the series
};

/// Lines over a common axis, each named at its end.
struct LineChart {
  std::string title, subtitle, x_label, y_label;
  std::vector<Series> series;
  double y_from = std::numeric_limits<double>::quiet_NaN(); ///< NaN: what the lines need
  double y_to = std::numeric_limits<double>::quiet_NaN();   ///< what is above is not drawn

  std::string svg() const {
    Canvas canvas(900, 420);
    draw(canvas, {0, 0, 900, 420});
    return canvas.finish();
  }

  /// The chart with its title, axes and names within a box.
  void draw(Canvas& canvas, Box const& outer) const {
    std::size_t longest = 0;
    for (auto const& s : series) longest = std::max(longest, s.name.size());
    Box const box{outer.x + 58, outer.y + 66, outer.width - 58 - 14 - 6.3 * double(longest), outer.height - 66 - 48};
    auto const [x0, x1] = range(&Series::x);
    auto [y0, y1] = range(&Series::y);
    if (y_from == y_from) y0 = y_from;
    if (y_to == y_to) y1 = y_to;
    if (!(y1 > y0)) y1 = y0 + 1;
    double const from_x = x0, to_x = x1 > x0 ? x1 : x0 + 1, from_y = y0, to_y = y1;
    auto const at_x = [&](double x) { return box.x + box.width * (x - from_x) / (to_x - from_x); };
    auto const at_y = [&](double y) {
      return box.y + box.height * (1 - std::clamp((y - from_y) / (to_y - from_y), 0.0, 1.0));
    };

    canvas.text(outer.x + 58, outer.y + 30, title, {.size = 15, .fill = "#111", .bold = true});
    canvas.text(outer.x + 58, outer.y + 48, subtitle, {.size = 11, .fill = "#666"});
    double const y_tick = tick_distance(to_y - from_y, 5), x_tick = tick_distance(to_x - from_x, 6);
    for (double y = std::ceil(from_y / y_tick - 1e-9) * y_tick; y <= to_y + 1e-9 * y_tick; y += y_tick) {
      canvas.line(box.x, at_y(y), box.x + box.width, at_y(y), "#e4e4e4");
      canvas.text(box.x - 7, at_y(y) + 4, formatted("%.3g", std::abs(y) < 1e-9 * y_tick ? 0 : y), {.anchor = "end"});
    }
    for (double x = std::ceil(from_x / x_tick - 1e-9) * x_tick; x <= to_x + 1e-9 * x_tick; x += x_tick) {
      canvas.line(at_x(x), box.y + box.height, at_x(x), box.y + box.height + 4, "#999");
      canvas.text(at_x(x), box.y + box.height + 17, formatted("%.6g", std::abs(x) < 1e-9 * x_tick ? 0 : x),
                  {.anchor = "middle"});
    }
    canvas.line(box.x, box.y + box.height, box.x + box.width, box.y + box.height, "#999");
    canvas.text(box.x + box.width / 2, box.y + box.height + 36, x_label, {.size = 12, .anchor = "middle"});
    canvas.turned_text(outer.x + 16, box.y + box.height / 2, y_label, {.size = 12, .anchor = "middle"});

    struct End {
      double y;
      std::size_t series;
    };
    std::vector<End> ends;
    for (std::size_t i = 0; i < series.size(); ++i) {
      auto const& s = series[i];
      std::string d;
      bool drawing = false;
      double last = std::numeric_limits<double>::quiet_NaN();
      for (std::size_t p = 0; p < std::min(s.x.size(), s.y.size()); ++p) {
        if (!std::isfinite(s.y[p])) continue;
        bool const visible = s.y[p] <= to_y;
        if (visible) d += formatted("%s%.1f %.1f", drawing ? "L" : "M", at_x(s.x[p]), at_y(s.y[p]));
        drawing = visible;
        last = at_y(s.y[p]);
      }
      if (d.empty()) continue;
      canvas.curve(d, colour(i), 1.6);
      ends.push_back({last, i});
    }
    // names beside the ends of their lines, pushed apart where they would overlap
    double const apart = 12.5;
    std::stable_sort(ends.begin(), ends.end(), [](End const& a, End const& b) { return a.y < b.y; });
    for (std::size_t i = 1; i < ends.size(); ++i) ends[i].y = std::max(ends[i].y, ends[i - 1].y + apart);
    double limit = box.y + box.height + 4;
    for (std::size_t i = ends.size(); i-- > 0;) limit = (ends[i].y = std::min(ends[i].y, limit)) - apart;
    for (auto const& end : ends) {
      auto const fill = colour(end.series);
      canvas.text(box.x + box.width + 7, end.y + 4, series[end.series].name, {.fill = fill.c_str(), .bold = true});
    }
  }

private:
  std::string colour(std::size_t i) const { return series[i].colour.empty() ? line_colour(i) : series[i].colour; }
  std::pair<double, double> range(std::vector<double> Series::*values) const {
    double least = std::numeric_limits<double>::infinity(), most = -least;
    for (auto const& s : series)
      for (double const value : s.*values)
        if (std::isfinite(value)) least = std::min(least, value), most = std::max(most, value);
    return least <= most ? std::pair(least, most) : std::pair(0.0, 1.0);
  }
};

} // namespace kokomo::inline v0::stats

#endif
