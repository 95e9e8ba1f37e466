// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "body.hpp"

#include <random>

namespace {

using Range = Kokkos::RangePolicy<Exec, Kokkos::IndexType<int>>;
constexpr float epsilon = 1e-6f;

struct Embed {
  Bytes text; // [sequences, length + 1]
  Matrix embedding, out;
  int length, hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    int const at = token % length, first = token / length * (length + 1);
    float* const row = &out(token, 0);
    for (int h = 0; h < hidden; ++h) row[h] = 0;
    for (int j = 0; j < Body::context && j <= at; ++j) {
      float const* const e = &embedding(j * Body::bytes + text(first + at - j), 0);
      for (int h = 0; h < hidden; ++h) row[h] += e[h];
    }
  }
};

/// One table of one distance and a few columns: tokens in their order, so that sums do not depend on threads.
struct EmbedBackward {
  static constexpr int columns = 8;
  Bytes text;
  Matrix d, d_embedding;
  int tokens, length, hidden;

  KOKKOS_FUNCTION void operator()(int i) const {
    int const slices = hidden / columns, j = i / slices, first_column = i % slices * columns;
    for (int b = 0; b < Body::bytes; ++b)
      for (int h = 0; h < columns; ++h) d_embedding(j * Body::bytes + b, first_column + h) = 0;
    for (int token = 0; token < tokens; ++token) {
      int const at = token % length;
      if (j > at) continue;
      float* const row = &d_embedding(j * Body::bytes + text(token / length * (length + 1) + at - j), first_column);
      for (int h = 0; h < columns; ++h) row[h] += d(token, first_column + h);
    }
  }
};

struct Norm {
  Matrix x, out;
  int hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    float sum = 0;
    for (int h = 0; h < hidden; ++h) sum += x(token, h) * x(token, h);
    float const scale = 1 / Kokkos::sqrt(sum / float(hidden) + epsilon);
    for (int h = 0; h < hidden; ++h) out(token, h) = scale * x(token, h);
  }
};

/// Adds the gradient through the norm to dx.
struct NormBackward {
  Matrix x, d_out, dx;
  int hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    float sum = 0, along = 0;
    for (int h = 0; h < hidden; ++h) sum += x(token, h) * x(token, h), along += x(token, h) * d_out(token, h);
    float const scale = 1 / Kokkos::sqrt(sum / float(hidden) + epsilon);
    float const pull = scale * scale * scale * along / float(hidden);
    for (int h = 0; h < hidden; ++h) dx(token, h) += scale * d_out(token, h) - pull * x(token, h);
  }
};

struct Add {
  Matrix a, b, out;
  int hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    for (int h = 0; h < hidden; ++h) out(token, h) = a(token, h) + b(token, h);
  }
};

struct Mix {
  Matrix x, mixing, out;
  int length, hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    int const at = token % length;
    for (int h = 0; h < hidden; ++h) out(token, h) = x(token, h);
    for (int j = 1; j <= Body::mixed && j <= at; ++j)
      for (int h = 0; h < hidden; ++h) out(token, h) += mixing(j - 1, h) * x(token - j, h);
  }
};

struct MixBackward {
  Matrix d_out, mixing, dx;
  int length, hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    int const at = token % length;
    for (int h = 0; h < hidden; ++h) dx(token, h) = d_out(token, h);
    for (int j = 1; j <= Body::mixed && at + j < length; ++j)
      for (int h = 0; h < hidden; ++h) dx(token, h) += mixing(j - 1, h) * d_out(token + j, h);
  }
};

struct MixingGradient {
  Matrix d_out, x, d_mixing;
  int tokens, length, hidden;

  KOKKOS_FUNCTION void operator()(int i) const {
    int const j = i / hidden + 1, h = i % hidden;
    float sum = 0;
    for (int token = 0; token < tokens; ++token)
      if (token % length >= j) sum += d_out(token, h) * x(token - j, h);
    d_mixing(j - 1, h) = sum;
  }
};

/// Logits of a token, its loss, and in their place the gradient of the mean loss.
struct Predict {
  Bytes text;
  Matrix x, head, logits;
  Vector losses;
  int tokens, length, hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    float* const z = &logits(token, 0);
    for (int v = 0; v < Body::bytes; ++v) z[v] = 0;
    for (int h = 0; h < hidden; ++h) {
      float const factor = x(token, h);
      float const* const w = &head(h, 0);
      for (int v = 0; v < Body::bytes; ++v) z[v] += factor * w[v];
    }
    float most = z[0], sum = 0;
    for (int v = 1; v < Body::bytes; ++v) most = z[v] > most ? z[v] : most;
    int const next = text(token / length * (length + 1) + token % length + 1);
    float const correct = z[next];
    for (int v = 0; v < Body::bytes; ++v) sum += z[v] = Kokkos::exp(z[v] - most);
    losses(token) = Kokkos::log(sum) + most - correct;
    float const scale = 1 / (sum * float(tokens));
    for (int v = 0; v < Body::bytes; ++v) z[v] *= scale;
    z[next] -= 1 / float(tokens);
  }
};

struct Transpose {
  Matrix head, of_byte;

  KOKKOS_FUNCTION void operator()(int v) const {
    for (std::size_t h = 0; h < head.extent(0); ++h) of_byte(v, h) = head(h, v);
  }
};

struct PredictBackward {
  Matrix d_logits, head_of_byte, dx;
  int hidden;

  KOKKOS_FUNCTION void operator()(int token) const {
    for (int h = 0; h < hidden; ++h) dx(token, h) = 0;
    for (int v = 0; v < Body::bytes; ++v) {
      float const d = d_logits(token, v);
      float const* const w = &head_of_byte(v, 0);
      for (int h = 0; h < hidden; ++h) dx(token, h) += d * w[h];
    }
  }
};

struct HeadGradient {
  Matrix d_logits, x, d_head;
  int tokens;

  KOKKOS_FUNCTION void operator()(int h) const {
    float* const row = &d_head(h, 0);
    for (int v = 0; v < Body::bytes; ++v) row[v] = 0;
    for (int token = 0; token < tokens; ++token) {
      float const factor = x(token, h);
      float const* const d = &d_logits(token, 0);
      for (int v = 0; v < Body::bytes; ++v) row[v] += factor * d[v];
    }
  }
};

struct AdamStep {
  float* parameter;
  float const* gradient;
  float *first, *second;
  float rate, first_correction, second_correction;

  KOKKOS_FUNCTION void operator()(int i) const {
    float const g = gradient[i];
    float const m = first[i] = 0.9f * first[i] + 0.1f * g;
    float const v = second[i] = 0.99f * second[i] + 0.01f * g * g;
    parameter[i] -= rate * m * first_correction / (Kokkos::sqrt(v * second_correction) + 1e-8f);
  }
};

} // namespace

Body::Body(Exec const& exec, Options const& options) : m_exec(exec), m_options(options) {
  auto const tokens = std::size_t(options.tokens()), hidden = std::size_t(options.hidden);
  auto const matrix = [](std::size_t rows, std::size_t columns) { return Matrix("body", rows, columns); };
  for (int l = 0; l < 2; ++l) {
    moe_input[l] = matrix(tokens, hidden), moe_output[l] = matrix(tokens, hidden);
    d_moe_input[l] = matrix(tokens, hidden), d_moe_output[l] = matrix(tokens, hidden);
  }
  for (Matrix* const m : {&m_h0, &m_h1, &m_mixed, &m_h2, &m_normed, &m_d_h, &m_d_mixed}) *m = matrix(tokens, hidden);
  m_logits = matrix(tokens, bytes);
  m_losses = Vector("losses", tokens);
  embedding = matrix(context * bytes, hidden), d_embedding = matrix(context * bytes, hidden);
  mixing = matrix(mixed, hidden), d_mixing = matrix(mixed, hidden);
  head = matrix(hidden, bytes), d_head = matrix(hidden, bytes);
  m_head_of_byte = matrix(bytes, hidden);
  fill(embedding.data(), embedding.size(), 0.5f, options.seed + 1);
  fill(mixing.data(), mixing.size(), 0.3f, options.seed + 2);
  fill(head.data(), head.size(), 0.1f, options.seed + 3);
}

void Body::embed(Bytes const& text) {
  int const tokens = m_options.tokens(), hidden = m_options.hidden;
  Kokkos::parallel_for("embed", Range(m_exec, 0, tokens), Embed{text, embedding, m_h0, m_options.length, hidden});
  Kokkos::parallel_for("norm", Range(m_exec, 0, tokens), Norm{m_h0, moe_input[0], hidden});
}

void Body::mix() {
  int const tokens = m_options.tokens(), hidden = m_options.hidden;
  Kokkos::parallel_for("add", Range(m_exec, 0, tokens), Add{m_h0, moe_output[0], m_h1, hidden});
  Kokkos::parallel_for("mix", Range(m_exec, 0, tokens), Mix{m_h1, mixing, m_mixed, m_options.length, hidden});
  Kokkos::parallel_for("norm", Range(m_exec, 0, tokens), Norm{m_mixed, moe_input[1], hidden});
}

double Body::loss(Bytes const& text, bool with_gradient) {
  int const tokens = m_options.tokens(), hidden = m_options.hidden;
  Kokkos::parallel_for("add", Range(m_exec, 0, tokens), Add{m_mixed, moe_output[1], m_h2, hidden});
  Kokkos::parallel_for("norm", Range(m_exec, 0, tokens), Norm{m_h2, m_normed, hidden});
  Kokkos::parallel_for("predict", Range(m_exec, 0, tokens),
                       Predict{text, m_normed, head, m_logits, m_losses, tokens, m_options.length, hidden});
  if (with_gradient)
    Kokkos::parallel_for("head_gradient", Range(m_exec, 0, hidden), HeadGradient{m_logits, m_normed, d_head, tokens});
  auto const losses = kokomo::stats::to_host(m_exec, m_losses);
  double sum = 0;
  for (float const value : losses) sum += value;
  return sum / tokens;
}

void Body::finish_backward() {
  int const tokens = m_options.tokens(), hidden = m_options.hidden;
  Kokkos::parallel_for("transpose", Range(m_exec, 0, bytes), Transpose{head, m_head_of_byte});
  Kokkos::parallel_for("predict_backward", Range(m_exec, 0, tokens),
                       PredictBackward{m_logits, m_head_of_byte, m_d_h, hidden});
  Kokkos::deep_copy(m_exec, d_moe_output[1], 0);
  Kokkos::parallel_for("norm_backward", Range(m_exec, 0, tokens), NormBackward{m_h2, m_d_h, d_moe_output[1], hidden});
}

void Body::mix_backward() {
  int const tokens = m_options.tokens(), hidden = m_options.hidden, length = m_options.length;
  Kokkos::deep_copy(m_exec, m_d_mixed, d_moe_output[1]); // what passes by the layer
  Kokkos::parallel_for("norm_backward", Range(m_exec, 0, tokens),
                       NormBackward{m_mixed, d_moe_input[1], m_d_mixed, hidden});
  Kokkos::parallel_for("mixing_gradient", Range(m_exec, 0, mixed * hidden),
                       MixingGradient{m_d_mixed, m_h1, d_mixing, tokens, length, hidden});
  Kokkos::parallel_for("mix_backward", Range(m_exec, 0, tokens),
                       MixBackward{m_d_mixed, mixing, d_moe_output[0], length, hidden});
}

void Body::embed_backward(Bytes const& text) {
  int const tokens = m_options.tokens(), hidden = m_options.hidden, length = m_options.length;
  Kokkos::deep_copy(m_exec, m_d_h, d_moe_output[0]);
  Kokkos::parallel_for("norm_backward", Range(m_exec, 0, tokens), NormBackward{m_h0, d_moe_input[0], m_d_h, hidden});
  Kokkos::parallel_for("embed_backward", Range(m_exec, 0, context * hidden / EmbedBackward::columns),
                       EmbedBackward{text, m_d_h, d_embedding, tokens, length, hidden});
}

void Adam::add(float* parameter, float const* gradient, std::size_t count) {
  m_parts.push_back({parameter, gradient, count, Vector("first", count), Vector("second", count)});
}

void Adam::step() {
  ++m_steps;
  float const rate = m_rate * std::min(1.0f, float(m_steps) / 20); // a short warm-up
  auto const correction = [&](double beta) { return float(1 / (1 - std::pow(beta, m_steps))); };
  for (auto const& p : m_parts)
    Kokkos::parallel_for(
        "adam", Range(m_exec, 0, int(p.count)),
        AdamStep{p.parameter, p.gradient, p.first.data(), p.second.data(), rate, correction(0.9), correction(0.99)});
}

void fill(float* data, std::size_t count, float size, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  std::vector<float> values(count);
  for (float& value : values) value = size * float(double(engine() >> 11) / (1ull << 52) - 1);
  Kokkos::View<float*, Exec::memory_space, Kokkos::MemoryUnmanaged> const target(data, count);
  Kokkos::View<float const*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged> const source(values.data(), count);
  Kokkos::deep_copy(target, source);
}
