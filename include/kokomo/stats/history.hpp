// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_HISTORY_HPP
#define KOKOMO_STATS_HISTORY_HPP

#include <kokomo/stats/heat_map.hpp>
#include <kokomo/stats/line_chart.hpp>
#include <kokomo/stats/loads.hpp>

namespace kokomo::inline v0::stats {

/// Loads of several layers over steps, with what is drawn and written of them.
class History {
public:
  struct Record {
    std::uint64_t step = 0;
    Loads loads;
  };

  /// \param layers their names, in the order of pictures
  explicit History(std::vector<std::string> layers) : m_names(std::move(layers)), m_records(m_names.size()) {}

  /// Steps of a layer are added in ascending order.
  void add(std::uint64_t step, std::size_t layer, Loads const& loads) { m_records.at(layer).push_back({step, loads}); }

  std::vector<std::string> const& layers() const { return m_names; }
  std::vector<Record> const& records(std::size_t layer) const { return m_records.at(layer); }

  /// {"layers": [{"name": ..., "steps": [{"step", "tokens", "loads", "max_vio", ...}]}]}
  std::string json() const {
    std::string out = "{\n  \"layers\": [";
    for (std::size_t l = 0; l < m_names.size(); ++l) {
      out += (l > 0 ? ",\n    {\"name\": \"" : "\n    {\"name\": \"") + quoted(m_names[l]) + "\", \"steps\": [";
      for (std::size_t i = 0; i < m_records[l].size(); ++i) {
        auto const& [step, loads] = m_records[l][i];
        out += formatted("%s\n      {\"step\": %llu, \"tokens\": %lld, ", i > 0 ? "," : "",
                         static_cast<unsigned long long>(step), static_cast<long long>(loads.tokens));
        out += formatted("\"max_vio\": %.6g, \"entropy\": %.6g, \"dead\": %lld, \"experts_per_token\": %.6g, ",
                         loads.max_violation(), loads.entropy(), static_cast<long long>(loads.dead()),
                         loads.experts_per_token());
        out += formatted("\"dropped\": %lld, \"loads\": [", static_cast<long long>(loads.status.dropped));
        for (std::size_t e = 0; e < loads.rows.size(); ++e)
          out += formatted(e > 0 ? ", %lld" : "%lld", static_cast<long long>(loads.rows[e]));
        out += "]}";
      }
      out += "\n    ]}";
    }
    return out + "\n  ]\n}\n";
  }

  /// Loads over steps as a heat map: a block of rows for each layer, a row for each expert. Where there are more steps
  /// than columns, a column is the mean of those that fall into it.
  std::string load_picture(std::string const& title, std::size_t columns = 120) const {
    HeatMap map;
    map.title = title;
    map.row_label = m_names.size() > 1 ? "experts of each layer" : "expert";
    map.column_label = "step";
    for (std::size_t l = 0; l < m_names.size(); ++l) {
      auto rows = load_rows(l, columns);
      if (!rows.empty()) rows[0].gap = l > 0;
      map.rows.insert(map.rows.end(), rows.begin(), rows.end());
      map.subtitle += (l == 0 ? "from top to bottom: " : ", ") + m_names[l];
    }
    if (m_names.size() == 1) map.subtitle = m_names[0];
    if (!m_names.empty()) map.columns = step_labels(m_records[0], columns);
    return map.svg();
  }

  /// MaxVio over steps, a line for each layer.
  std::string balance_picture(std::string const& title) const {
    LineChart chart;
    chart.title = title;
    chart.subtitle = "(most - balanced) / balanced; 0 is perfect balance";
    chart.x_label = "step", chart.y_label = "MaxVio";
    chart.y_from = 0;
    for (std::size_t l = 0; l < m_names.size(); ++l) chart.series.push_back(max_violations(l));
    return chart.svg();
  }

  Series max_violations(std::size_t layer) const {
    Series series;
    series.name = m_names.at(layer);
    for (auto const& [step, loads] : m_records.at(layer)) {
      series.x.push_back(double(step));
      series.y.push_back(loads.max_violation());
    }
    return series;
  }

  /// A row an expert, in units of the balanced load.
  std::vector<HeatRow> load_rows(std::size_t layer, std::size_t columns) const {
    auto const& records = m_records.at(layer);
    std::size_t experts = 0;
    for (auto const& record : records) experts = std::max(experts, record.loads.rows.size());
    std::size_t const width = std::min(columns, records.size());
    std::vector<HeatRow> rows(experts);
    for (std::size_t e = 0; e < experts; ++e) {
      rows[e].label = std::to_string(e);
      for (std::size_t c = 0; c < width; ++c) {
        auto const begin = records.size() * c / width, end = records.size() * (c + 1) / width;
        double sum = 0;
        for (auto i = begin; i < end; ++i) {
          auto const& loads = records[i].loads;
          if (e < loads.rows.size() && loads.balanced() > 0) sum += double(loads.rows[e]) / loads.balanced();
        }
        rows[e].loads.push_back(sum / double(end - begin));
      }
    }
    return rows;
  }

private:
  /// A round number where the steps pass it.
  static std::vector<std::string> step_labels(std::vector<Record> const& records, std::size_t columns) {
    std::size_t const width = std::min(columns, records.size());
    std::vector<std::string> labels(width);
    if (width == 0) return labels;
    double const distance = tick_distance(double(records.back().step - records[0].step), 8);
    double last = -1;
    for (std::size_t c = 0; c < width; ++c) {
      double const passed = std::floor(double(records[records.size() * c / width].step) / distance);
      if (passed > last) labels[c] = formatted("%.0f", passed * distance);
      last = passed;
    }
    return labels;
  }
  static std::string quoted(std::string const& plain) {
    std::string safe;
    for (char const c : plain) {
      if (c == '"' || c == '\\')
        safe += '\\', safe += c;
      else if (static_cast<unsigned char>(c) < 0x20)
        safe += formatted("\\u%04x", unsigned(c));
      else
        safe += c;
    }
    return safe;
  }

  std::vector<std::string> m_names;
  std::vector<std::vector<Record>> m_records; ///< by layer
};

} // namespace kokomo::inline v0::stats

#endif
