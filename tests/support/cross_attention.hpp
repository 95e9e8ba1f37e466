// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_CROSS_ATTENTION_HPP
#define KOKOMO_TESTS_SUPPORT_CROSS_ATTENTION_HPP

#include <support/views.hpp>

#include <cmath>

namespace kokomo::test {

/// W x, W the m-th [rows, x.size()] of w.
inline Row product(Row const& w, std::size_t m, std::size_t rows, Row const& x) {
  Row y(rows, 0.0);
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < x.size(); ++j) y[i] += w[(m * rows + i) * x.size() + j] * x[j];
  return y;
}

/// One token: its experts, primary first, what they return, and their weights.
struct Thoughts {
  std::vector<std::size_t> experts;
  Rows outputs;
  Row weights;
};

/// What the primary expert makes of them; parameters by name, as the library has them.
template <class P>
Row primary_cross_attention(P const& parameters, std::size_t width, std::size_t heads, bool weighted,
                            Thoughts const& token) {
  auto const read = [](auto const& view) { return in_double(to_host(view)); };
  Row y = token.outputs[0];
  Rows keys, values;
  Row const query = product(read(parameters.query), token.experts[0], width, y);
  for (std::size_t i = 0; i < token.experts.size(); ++i) {
    Row const down = product(read(parameters.down), token.experts[i], width, token.outputs[i]);
    keys.push_back(product(read(parameters.key), 0, width, down));
    values.push_back(product(read(parameters.value), 0, width, down));
  }
  std::size_t peers = 0;
  for (std::size_t i = 1; i < token.experts.size(); ++i) peers += !weighted || token.weights[i] > 0;
  if (peers == 0) return y;
  Row attended(width, 0.0);
  std::size_t const columns = width / heads;
  for (std::size_t head = 0; head < heads; ++head) {
    Row shares;
    double sum = 0;
    for (std::size_t i = 0; i < keys.size(); ++i) {
      double z = 0;
      for (std::size_t c = head * columns; c < (head + 1) * columns; ++c) z += query[c] * keys[i][c];
      z = std::exp(z / std::sqrt(double(columns)));
      if (weighted) z *= std::max(token.weights[i], 0.0); // exp(z + log w)
      shares.push_back(z), sum += z;
    }
    for (std::size_t i = 0; i < keys.size(); ++i)
      for (std::size_t c = head * columns; c < (head + 1) * columns; ++c) attended[c] += shares[i] / sum * values[i][c];
  }
  Row const change = product(read(parameters.back), token.experts[0], y.size(), attended);
  for (std::size_t h = 0; h < y.size(); ++h) y[h] += change[h];
  return y;
}

} // namespace kokomo::test

#endif
