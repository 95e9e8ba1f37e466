// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "race.hpp"

#include <numeric>

namespace stats = kokomo::stats;
using stats::formatted;

namespace {

double mean_of_last(std::vector<double> const& values, std::size_t count) {
  count = std::min(count, values.size());
  return count > 0 ? std::accumulate(values.end() - long(count), values.end(), 0.0) / double(count) : 0;
}

/// A mean over both layers and the last steps.
template <class F> double recent(Result const& r, F const& of_loads) {
  double sum = 0, count = 0;
  for (std::size_t l = 0; l < r.history.layers().size(); ++l) {
    auto const& records = r.history.records(l);
    for (auto i = records.size() - std::min(Result::window, records.size()); i < records.size(); ++i, ++count)
      sum += of_loads(records[i].loads);
  }
  return count > 0 ? sum / count : 0;
}

/// Means over the steps before, so that lines can be told apart.
std::vector<double> smooth(std::vector<double> const& values, std::size_t window = 20) {
  std::vector<double> out;
  for (std::size_t i = 0; i < values.size(); ++i) {
    auto const begin = i + 1 - std::min(window, i + 1);
    out.push_back(std::accumulate(values.begin() + long(begin), values.begin() + long(i) + 1, 0.0) /
                  double(i + 1 - begin));
  }
  return out;
}

std::vector<double> steps_of(std::size_t count) {
  std::vector<double> steps(count);
  std::iota(steps.begin(), steps.end(), 0.0);
  return steps;
}

std::vector<double> violations(Result const& r) {
  auto const a = r.history.max_violations(0).y, b = r.history.max_violations(1).y;
  std::vector<double> mean;
  for (std::size_t i = 0; i < a.size(); ++i) mean.push_back((a[i] + b[i]) / 2);
  return mean;
}

} // namespace

double Result::recent_loss() const {
  return mean_of_last(loss, window);
}
double Result::max_violation() const {
  return recent(*this, [](stats::Loads const& loads) { return loads.max_violation(); });
}
double Result::experts_per_token() const {
  return recent(*this, [](stats::Loads const& loads) { return loads.experts_per_token(); });
}
int Result::dead() const {
  int count = 0;
  for (std::size_t l = 0; l < history.layers().size(); ++l) {
    std::vector<kokomo::offset_t> sum;
    auto const& records = history.records(l);
    for (auto i = records.size() - std::min(window, records.size()); i < records.size(); ++i) {
      auto const& rows = records[i].loads.rows;
      sum.resize(rows.size(), 0);
      for (std::size_t e = 0; e < rows.size(); ++e) sum[e] += rows[e];
    }
    count += int(std::count(sum.begin(), sum.end(), 0));
  }
  return count;
}

std::string picture(Text const& text, Options const& options, std::vector<Result> const& results) {
  double const width = 1180, chart_height = 380;
  std::size_t const per_row = 3, map_rows = (results.size() + per_row - 1) / per_row;
  double const cell = 5, map_height = cell * options.experts, block = map_height + 62;
  double const maps_top = 76 + chart_height + 60, height = maps_top + block * double(map_rows) + 12;
  stats::Canvas canvas(width, height);
  canvas.text(58, 38, "Balancer race", {.size = 22, .fill = "#111", .bold = true});
  canvas.text(
      58, 60,
      formatted("One small language model over bytes, two MoE layers of %d experts, about %d a token, %d tokens a "
                "batch, the same seed; only the routing differs. Text: ",
                options.experts, options.active, options.tokens()) +
          text.name + ".",
      {.size = 12, .fill = "#666"});

  stats::LineChart loss, balance;
  loss.title = "Loss", loss.subtitle = "nats a byte, mean over 20 steps";
  balance.title = "Imbalance",
  balance.subtitle = "MaxVio = (most - balanced) / balanced, mean over both layers and 20 steps";
  loss.x_label = balance.x_label = "step";
  balance.y_from = 0;
  double least = 1e9;
  for (auto const& r : results) {
    loss.series.push_back({r.name, steps_of(r.loss.size()), smooth(r.loss), ""});
    least = std::min(least, *std::min_element(loss.series.back().y.begin(), loss.series.back().y.end()));
    balance.series.push_back({r.name, steps_of(r.loss.size()), smooth(violations(r)), ""});
  }
  loss.y_from = std::floor(10 * least) / 10;
  loss.y_to = loss.y_from + 1.5; // the first steps look alike and would press the rest together
  loss.draw(canvas, {0, 76, width / 2, chart_height});
  balance.draw(canvas, {width / 2, 76, width / 2, chart_height});

  // loads of layer 1 over the steps, one map a contestant
  std::vector<std::vector<stats::HeatRow>> maps;
  for (auto const& r : results) maps.push_back(r.history.load_rows(1, 60));
  double const top = 3;
  canvas.text(58, maps_top - 22, "Who does the work", {.size = 15, .fill = "#111", .bold = true});
  canvas.text(58, maps_top - 5,
              "load of each expert (rows) of the second layer over the steps (left to right), in units of the balanced "
              "load; dark: no work",
              {.fill = "#666"});
  double const map_width = (width - 58 - 120) / double(per_row) - 24;
  for (std::size_t i = 0; i < results.size(); ++i) {
    auto const& r = results[i];
    double const x = 58 + double(i % per_row) * (map_width + 24), y = maps_top + 40 + double(i / per_row) * block;
    auto const colour = stats::line_colour(i);
    canvas.text(x, y - 20, r.name, {.size = 13, .fill = colour.c_str(), .bold = true});
    canvas.text(x, y - 6,
                formatted("loss %.3f · MaxVio %.2f · dead %d of %d · %.2f a token", r.recent_loss(), r.max_violation(),
                          r.dead(), 2 * options.experts, r.experts_per_token()),
                {.size = 10, .fill = "#555"});
    stats::draw_cells(canvas, {x, y, map_width, map_height}, maps[i], top);
  }
  stats::draw_scale(canvas, {width - 96, maps_top + 54, 14, std::max(map_height + block, 120.0)}, top, true);
  return canvas.finish();
}

std::string to_json(Text const& text, Options const& options, std::vector<Result> const& results) {
  auto const list = [](std::vector<double> const& values) {
    std::string out = "[";
    for (std::size_t i = 0; i < values.size(); ++i) out += formatted(i > 0 ? ", %.5g" : "%.5g", values[i]);
    return out + "]";
  };
  std::string out = formatted("{\n  \"seed\": %llu, \"steps\": %d, \"tokens\": %d, \"experts\": %d, \"bytes_of_text\": "
                              "%zu,\n  \"contestants\": [",
                              static_cast<unsigned long long>(options.seed), options.steps, options.tokens(),
                              options.experts, text.train.size() + text.held_out.size());
  for (std::size_t i = 0; i < results.size(); ++i) {
    auto const& r = results[i];
    out += formatted(
        "%s\n    {\"name\": \"%s\", \"loss\": %.5g, \"held_out_loss\": %.5g, \"max_vio\": %.4g, \"dead\": %d, "
        "\"experts_per_token\": %.4g, \"seconds_per_step\": %.4g,\n",
        i > 0 ? "," : "", r.name.c_str(), r.recent_loss(), r.held_out, r.max_violation(), r.dead(),
        r.experts_per_token(), r.seconds);
    out += "     \"losses\": " + list(r.loss) + ",\n     \"max_vios\": " + list(violations(r)) + "}";
  }
  return out + "\n  ]\n}\n";
}
