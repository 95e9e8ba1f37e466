// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_SVG_HPP
#define KOKOMO_STATS_SVG_HPP

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <string>

/// What pictures of routing are drawn with. Host only; nothing here needs Kokkos.
namespace kokomo::inline v0::stats {

/// printf into a string.
#if defined(__GNUC__)
std::string formatted(char const* format, ...) __attribute__((format(printf, 1, 2)));
#endif
inline std::string formatted(char const* format, ...) {
  char buffer[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(buffer, sizeof buffer, format, values);
  va_end(values);
  return buffer;
}

/// viridis (matplotlib, CC0) at 0 to 1: even steps look even, in grey and to most colour-blind eyes too.
inline std::string viridis(double share) {
  constexpr std::array<std::array<int, 3>, 9> points = {{{68, 1, 84},
                                                         {71, 44, 122},
                                                         {59, 81, 139},
                                                         {44, 113, 142},
                                                         {33, 144, 141},
                                                         {39, 173, 129},
                                                         {92, 200, 99},
                                                         {170, 220, 50},
                                                         {253, 231, 37}}};
  double const at = std::isfinite(share) ? std::clamp(share, 0.0, 1.0) * (points.size() - 1) : 0;
  auto const i = std::min(std::size_t(at), points.size() - 2);
  auto const mix = [&](std::size_t c) {
    return int(std::lround(points[i][c] + (at - double(i)) * (points[i + 1][c] - points[i][c])));
  };
  return formatted("#%02x%02x%02x", mix(0), mix(1), mix(2));
}

/// Colours of lines that most colour-blind eyes tell apart (Paul Tol's "muted"), black first.
inline std::string line_colour(std::size_t i) {
  constexpr std::array<char const*, 10> colours = {"#222222", "#cc6677", "#332288", "#ddaa33", "#117733",
                                                   "#5bb5d9", "#882255", "#44aa99", "#999933", "#aa4499"};
  return colours[i % colours.size()];
}

inline std::string escaped(std::string const& plain) {
  std::string safe;
  for (char const c : plain) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else if (c == '"')
      safe += "&quot;";
    else
      safe += c;
  }
  return safe;
}

/// The smallest of 1, 2, 5, 10, ... that puts labels `gap` pixels apart or more.
inline int label_step(double pixels_each, double gap) {
  for (int power = 1;; power *= 10)
    for (int const factor : {1, 2, 5})
      if (pixels_each * factor * power >= gap || power >= 100000000) return factor * power;
}

/// A tick distance of 1, 2 or 5 times a power of ten, for about `count` ticks.
inline double tick_distance(double range, int count) {
  if (!(range > 0)) return 1;
  double const rough = range / count, power = std::pow(10.0, std::floor(std::log10(rough)));
  for (double const factor : {1.0, 2.0, 5.0})
    if (factor * power >= rough * 0.999) return factor * power;
  return 10 * power;
}

struct Box {
  double x = 0, y = 0, width = 0, height = 0;
};

struct TextStyle {
  double size = 11;
  char const* anchor = "start"; ///< start, middle, end
  char const* fill = "#333";
  bool bold = false;
};

/// An SVG picture under construction. Coordinates are pixels from the upper left corner.
class Canvas {
public:
  Canvas(double width, double height)
      : m_svg(formatted("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" viewBox=\"0 0 %.0f "
                        "%.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" fill=\"#333\">\n<rect "
                        "width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                        width, height, width, height)) {}

  /// \param tip what a browser shows where the pointer rests
  void rectangle(Box const& box, std::string const& fill, std::string const& tip = "") {
    m_svg += formatted("<rect x=\"%.6g\" y=\"%.6g\" width=\"%.6g\" height=\"%.6g\" fill=\"%s\"", box.x, box.y,
                       box.width, box.height, fill.c_str());
    m_svg += tip.empty() ? "/>\n" : "><title>" + escaped(tip) + "</title></rect>\n";
  }
  void text(double x, double y, std::string const& what, TextStyle const& style = {}) {
    m_svg += formatted("<text x=\"%.1f\" y=\"%.1f\"%s>", x, y, attributes(style).c_str());
    m_svg += escaped(what) + "</text>\n";
  }
  /// Upwards.
  void turned_text(double x, double y, std::string const& what, TextStyle const& style = {}) {
    m_svg += formatted("<text transform=\"translate(%.1f %.1f) rotate(-90)\"%s>", x, y, attributes(style).c_str());
    m_svg += escaped(what) + "</text>\n";
  }
  void line(double x1, double y1, double x2, double y2, std::string const& stroke, double width = 1) {
    m_svg += formatted("<path d=\"M%.1f %.1fL%.1f %.1f\" stroke=\"%s\" stroke-width=\"%.2g\"/>\n", x1, y1, x2, y2,
                       stroke.c_str(), width);
  }
  /// \param d the points, as the attribute d of an SVG path
  void curve(std::string const& d, std::string const& stroke, double width) {
    m_svg += "<path d=\"" + d + "\" fill=\"none\" stroke=\"" + stroke +
             formatted("\" stroke-width=\"%.2g\" stroke-linejoin=\"round\" stroke-linecap=\"round\"/>\n", width);
  }
  /// What is drawn between these two has hard edges: cells that touch show no seams.
  void begin_crisp() { m_svg += "<g shape-rendering=\"crispEdges\">\n"; }
  void end_crisp() { m_svg += "</g>\n"; }
  /// The colours of viridis from 0 at the bottom to 1 at the top.
  void colour_scale(Box const& box) {
    m_svg += "<defs><linearGradient id=\"scale\" x1=\"0\" y1=\"1\" x2=\"0\" y2=\"0\">";
    for (int i = 0; i <= 8; ++i)
      m_svg += formatted("<stop offset=\"%.3f\" stop-color=\"%s\"/>", i / 8.0, viridis(i / 8.0).c_str());
    m_svg += "</linearGradient></defs>\n";
    rectangle(box, "url(#scale)");
  }

  std::string finish() const { return m_svg + "</svg>\n"; }

private:
  static std::string attributes(TextStyle const& style) {
    std::string out;
    if (style.size != 11) out += formatted(" font-size=\"%.3g\"", style.size);
    if (std::string(style.anchor) != "start") out += formatted(" text-anchor=\"%s\"", style.anchor);
    if (std::string(style.fill) != "#333") out += formatted(" fill=\"%s\"", style.fill);
    if (style.bold) out += " font-weight=\"bold\"";
    return out;
  }

  std::string m_svg;
};

} // namespace kokomo::inline v0::stats

#endif
