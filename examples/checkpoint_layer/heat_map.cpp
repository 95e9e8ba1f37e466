// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "report.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdarg>
#include <cstdio>

namespace {

/// viridis (matplotlib, CC0), nine points of it: even steps look even, in grey and to most colour-blind eyes too.
constexpr std::array<std::array<int, 3>, 9> viridis = {{{68, 1, 84},
                                                        {71, 44, 122},
                                                        {59, 81, 139},
                                                        {44, 113, 142},
                                                        {33, 144, 141},
                                                        {39, 173, 129},
                                                        {92, 200, 99},
                                                        {170, 220, 50},
                                                        {253, 231, 37}}};

std::string text(char const* format, ...) __attribute__((format(printf, 1, 2)));
std::string text(char const* format, ...) {
  char buffer[512];
  va_list values;
  va_start(values, format);
  std::vsnprintf(buffer, sizeof buffer, format, values);
  va_end(values);
  return buffer;
}

/// \param share 0 to 1
std::string colour(double share) {
  double const at = std::clamp(share, 0.0, 1.0) * (viridis.size() - 1);
  auto const i = std::min(std::size_t(at), viridis.size() - 2);
  auto const mix = [&](std::size_t c) {
    return int(std::lround(viridis[i][c] + (at - double(i)) * (viridis[i + 1][c] - viridis[i][c])));
  };
  return text("#%02x%02x%02x", mix(0), mix(1), mix(2));
}

std::string escaped(std::string const& plain) {
  std::string safe;
  for (char const c : plain) {
    if (c == '&')
      safe += "&amp;";
    else if (c == '<')
      safe += "&lt;";
    else if (c == '>')
      safe += "&gt;";
    else
      safe += c;
  }
  return safe;
}

std::string label(double x, double y, char const* style, std::string const& what) {
  return text("<text x=\"%.1f\" y=\"%.1f\" %s>", x, y, style) + escaped(what) + "</text>\n";
}

/// The smallest of 1, 2, 5, 10, ... that puts labels `gap` pixels apart or more.
int step_of(double pixels_each, double gap) {
  for (int power = 1;; power *= 10)
    for (int const factor : {1, 2, 5})
      if (pixels_each * factor * power >= gap) return factor * power;
}

double share_of(Result const& r, std::size_t expert) {
  return r.balanced() > 0 ? double(r.load[expert]) / r.balanced() : 0;
}

/// Where the colours end: the largest load, unless a few experts would leave all the others in the dark.
double top_of(std::vector<Result> const& results) {
  std::vector<double> shares;
  for (auto const& r : results)
    for (std::size_t e = 0; e < r.load.size(); ++e) shares.push_back(share_of(r, e));
  std::sort(shares.begin(), shares.end());
  if (shares.empty()) return 2;
  double const most = shares.back(), nearly_most = shares[std::size_t(double(shares.size() - 1) * 0.99)];
  double const top = most > 2 * nearly_most ? nearly_most : most;
  double const step = top > 8 ? 2 : top > 4 ? 1 : 0.5;
  return std::max(1.5, std::ceil(top / step) * step);
}

} // namespace

std::string heat_map(Run const& run, std::vector<Result> const& results) {
  std::size_t experts = 0;
  kokomo::offset_t tokens = 0;
  for (auto const& r : results) experts = std::max(experts, r.load.size()), tokens = std::max(tokens, r.tokens);
  auto const layers = results.size();
  double const top = top_of(results);

  double const cell_width = std::clamp(880.0 / double(std::max<std::size_t>(experts, 1)), 2.0, 56.0);
  double const cell_height = std::clamp(460.0 / double(std::max<std::size_t>(layers, 1)), 4.0, 34.0);
  double const gap = std::min(cell_width, cell_height) >= 12 ? 1 : 0;
  double const width = std::max(cell_width * double(experts), 300.0), height = cell_height * double(layers);
  double const left = 64, above = 84, bars = 90, bar_left = left + width + 16, scale_left = bar_left + bars + 40;
  double const scale_height = std::max(height, 110.0);
  double const whole_width = scale_left + 76, whole_height = above + scale_height + 62;

  std::string svg = text("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%.0f\" height=\"%.0f\" "
                         "viewBox=\"0 0 %.0f %.0f\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"11\" "
                         "fill=\"#333\">\n<rect width=\"100%%\" height=\"100%%\" fill=\"#fff\"/>\n",
                         whole_width, whole_height, whole_width, whole_height);
  svg +=
      label(left, 30, "font-size=\"17\" font-weight=\"bold\" fill=\"#111\"", "Load of the experts: " + run.model_type);
  std::string const source = run.check ? "from activations.safetensors" : "generated, seed " + std::to_string(run.seed);
  int const k = layers > 0 ? results[0].k : 0;
  svg += label(left, 49, "font-size=\"12\" fill=\"#666\"",
               text("%zu MoE block%s, up to %zu experts, top-%d, %lld tokens ", layers, layers == 1 ? "" : "s", experts,
                    k, static_cast<long long>(tokens)) +
                   source + ", " + run.dtype);

  for (std::size_t row = 0; row < layers; ++row) {
    auto const& r = results[row];
    double const y = above + cell_height * double(row);
    for (std::size_t e = 0; e < r.load.size(); ++e) {
      double const share = share_of(r, e);
      svg += text("<rect x=\"%.2f\" y=\"%.2f\" width=\"%.2f\" height=\"%.2f\" fill=\"%s\">"
                  "<title>layer %d, expert %zu: %lld rows, %.2f x balanced</title></rect>\n",
                  left + cell_width * double(e), y, cell_width - gap, cell_height - gap, colour(share / top).c_str(),
                  r.layer, e, static_cast<long long>(r.load[e]), share);
      if (cell_width >= 30 && cell_height >= 16)
        svg +=
            label(left + cell_width * (double(e) + 0.5), y + cell_height / 2 + 4,
                  share > 0.55 * top ? "text-anchor=\"middle\" fill=\"#111\"" : "text-anchor=\"middle\" fill=\"#fff\"",
                  text("%.2f", share));
    }
  }

  // axes
  char const* const middle = "text-anchor=\"middle\"";
  auto const layer_step = std::size_t(step_of(cell_height, 12));
  for (std::size_t row = 0; row < layers; row += layer_step)
    svg += label(left - 8, above + cell_height * (double(row) + 0.5) + 4, "text-anchor=\"end\"",
                 std::to_string(results[row].layer));
  auto const expert_step = std::size_t(step_of(cell_width, 26));
  for (std::size_t e = 0; e < experts; e += expert_step)
    svg += label(left + cell_width * (double(e) + 0.5), above + height + 15, middle, std::to_string(e));
  svg += label(left + width / 2, above + height + 36, "text-anchor=\"middle\" font-size=\"13\"", "expert");
  svg +=
      text("<text transform=\"translate(22 %.1f) rotate(-90)\" text-anchor=\"middle\" font-size=\"13\">layer</text>\n",
           above + height / 2);

  // MaxVio of each layer
  double most = 0;
  for (auto const& r : results) most = std::max(most, r.max_violation());
  svg += label(bar_left, above - 10, "font-size=\"12\"", "MaxVio");
  for (std::size_t row = 0; row < layers; ++row) {
    double const y = above + cell_height * double(row), share = most > 0 ? results[row].max_violation() / most : 0;
    double const thickness = std::min(cell_height - gap, 14.0);
    svg += text("<rect x=\"%.1f\" y=\"%.2f\" width=\"%.1f\" height=\"%.2f\" fill=\"#9aa5b1\"/>\n", bar_left,
                y + (cell_height - gap - thickness) / 2, std::max(share * (bars - 36), 0.5), thickness);
    if (row % layer_step == 0)
      svg += label(bar_left + share * (bars - 36) + 5, y + cell_height / 2 + 4, "font-size=\"10\"",
                   text("%.2f", results[row].max_violation()));
  }

  // colour scale
  svg += label(scale_left - 8, above - 24, "font-size=\"12\"", "load");
  svg += label(scale_left - 8, above - 10, "font-size=\"10\" fill=\"#666\"", "balanced = 1");
  svg += "<defs><linearGradient id=\"scale\" x1=\"0\" y1=\"1\" x2=\"0\" y2=\"0\">";
  for (std::size_t i = 0; i < viridis.size(); ++i) {
    double const share = double(i) / (viridis.size() - 1);
    svg += text("<stop offset=\"%.3f\" stop-color=\"%s\"/>", share, colour(share).c_str());
  }
  svg += text("</linearGradient></defs>\n<rect x=\"%.1f\" y=\"%.1f\" width=\"14\" height=\"%.1f\" "
              "fill=\"url(#scale)\"/>\n",
              scale_left, above, scale_height);
  bool clipped = false;
  for (auto const& r : results)
    for (std::size_t e = 0; e < r.load.size(); ++e) clipped = clipped || share_of(r, e) > top;
  double const tick = top <= 2 ? 0.5 : top <= 4 ? 1 : top <= 10 ? 2 : top <= 25 ? 5 : 10;
  auto const mark = [&](double value, bool balanced, std::string const& what) {
    double const y = above + scale_height * (1 - value / top);
    svg += text("<path d=\"M%.1f %.1fh%d\" stroke=\"%s\" stroke-width=\"%s\"/>\n", scale_left + (balanced ? 0 : 14), y,
                balanced ? 19 : 5, "#333", balanced ? "1.6" : "1");
    svg += label(scale_left + 23, y + 4, balanced ? "font-weight=\"bold\"" : "", what);
  };
  for (double value = 0; value < top - 0.4 * tick; value += tick)
    if (value != 1) mark(value, false, text("%.3g", value));
  mark(1, true, "1");
  mark(top, false, text(clipped ? "≥ %.3g" : "%.3g", top));
  return svg + "</svg>\n";
}
