// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/reference.hpp>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <tuple>

namespace kokomo::test::reference {

double sigmoid(double z) {
  return 1 / (1 + std::exp(-z));
}

double dot(double const* a, Row const& b) {
  return std::inner_product(b.begin(), b.end(), a, 0.0);
}

Row softmax(Row const& z) {
  double const max = *std::max_element(z.begin(), z.end());
  double sum = 0;
  for (double const value : z) sum += std::exp(value - max);
  Row s;
  for (double const value : z) s.push_back(std::exp(value - max) / sum);
  return s;
}

Row scores(Row const& z, Score score) {
  if (score == Score::softmax) return softmax(z);
  Row s = z;
  for (double& value : s) {
    if (score == Score::sigmoid) value = sigmoid(value);
    if (score == Score::sqrt_softplus) value = std::sqrt(std::log1p(std::exp(value)));
  }
  return s;
}

Row rms_norm(Row const& x, Norm const& norm, Row const& weight) {
  double const mean = dot(x.data(), x) / double(x.size());
  Row y;
  for (std::size_t h = 0; h < x.size(); ++h)
    y.push_back(x[h] / std::sqrt(mean + norm.epsilon) * (norm.offset + weight[h]) * norm.factor);
  return y;
}

std::vector<int> largest(Row const& values, int k) {
  std::vector<int> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return values[a] > values[b]; });
  order.resize(std::size_t(k));
  return order;
}

Row sparse_mixer_softmax(Row const& z, int removed, double epsilon) {
  double max = -infinity;
  for (int e = 0; e < int(z.size()); ++e)
    if (e != removed) max = std::max(max, z[e]);
  Row masked = z;
  for (int e = 0; e < int(z.size()); ++e)
    if (e == removed || (max - z[e]) / std::max(std::abs(z[e]), max) > 2 * epsilon) masked[e] = -infinity;
  return softmax(masked);
}

Result Layer::forward() const {
  Result r;
  for (std::size_t t = 0; t < in.x.size(); ++t) {
    r.logits.push_back(logits(t));
    r.choice.push_back(choose(t, routed(r.logits[t])));
    r.kept.emplace_back();
    for (int const e : r.choice[t]) r.kept[t].push_back(e >= 0);
  }
  if (s.capacity.used) drop(r);
  for (std::size_t t = 0; t < in.x.size(); ++t) {
    weigh(r, t);
    r.y.push_back(compute(r, t));
    if (std::find(r.kept[t].begin(), r.kept[t].end(), true) == r.kept[t].end()) ++r.tokens_without_expert;
  }
  for (Loss const& loss : s.losses) r.loss += loss.coefficient * (loss.z ? z_loss(r) : balancing_loss(r, loss));
  return r;
}

Row Layer::expert(int e, Row const& x) const {
  if (e >= s.experts) return e < s.experts + s.identity ? x : Row(x.size(), 0.0);
  Row y = feed_forward(s.routed, "experts.", e, x);
  if (!s.row_norm.used) return y;
  Row const& gain = in["experts.norm"];
  double squares = 0;
  for (std::size_t h = 0; h < y.size(); ++h) {
    y[h] *= s.row_norm.offset + gain[h];
    squares += y[h] * y[h];
  }
  for (double& value : y) value /= std::sqrt(squares / double(y.size()) + s.row_norm.epsilon);
  return y;
}

Row Layer::logits(std::size_t t) const {
  Row r = in.router_input.empty() ? in.x[t] : in.router_input[t];
  if (s.scorer.norm.used) r = rms_norm(r, s.scorer.norm, in["router.scale"]);
  Row const &weight = in["router.weight"], &bias = in["router.bias"];
  Row z;
  for (std::size_t c = 0; c < weight.size() / r.size(); ++c) {
    double value = dot(&weight[c * r.size()], r) + (bias.empty() ? 0.0 : bias[c]);
    value *= s.scorer.multiplier;
    z.push_back(s.scorer.softcap > 0 ? s.scorer.softcap * std::tanh(value / s.scorer.softcap) : value);
  }
  return z;
}

std::vector<int> Layer::choose(std::size_t t, Row const& z) const {
  auto const& selector = s.selector;
  if (in.masked(t)) return std::vector<int>(std::size_t(selector.k), -1);
  if (selector.kind == Selection::given || selector.kind == Selection::table) return in.choice[t];
  if (selector.kind == Selection::sparse_mixer) {
    int const first = largest(z, 1)[0];
    Row rest = z;
    rest[first] = -infinity;
    return {first, largest(rest, 1)[0]};
  }
  Row rank = scores(z, selector.by_logits ? Score::identity : s.gate.score);
  Row const& bias = in["balancer.bias"];
  for (std::size_t e = 0; e < bias.size(); ++e) rank[e] += bias[e];
  if (selector.kind == Selection::group_limited) {
    std::size_t const width = rank.size() / std::size_t(selector.groups);
    Row of_group;
    for (int g = 0; g < selector.groups; ++g) {
      Row members(&rank[g * width], &rank[g * width] + width);
      std::sort(members.rbegin(), members.rend());
      of_group.push_back(members[0] + (selector.top2_sum && width > 1 ? members[1] : 0.0));
    }
    auto const allowed = largest(of_group, selector.allowed_groups);
    for (std::size_t e = 0; e < rank.size(); ++e)
      if (std::find(allowed.begin(), allowed.end(), int(e / width)) == allowed.end())
        rank[e] = selector.outside_is_zero ? 0.0 : -infinity;
  }
  return largest(rank, selector.k);
}

void Layer::drop(Result& r) const {
  auto const& c = s.capacity;
  int const tokens = int(in.x.size());
  int const sequence = c.tokens_per_sequence > 0 ? c.tokens_per_sequence : tokens;
  double const share = c.fraction > 0 ? c.fraction * sequence : c.factor * sequence * s.selector.k / s.choosable();
  int const places = std::max(c.minimum, c.places > 0 ? c.places : int(std::ceil(share)));
  for (int begin = 0; begin < tokens; begin += sequence)
    for (int e = 0; e < s.choosable(); ++e) {
      std::vector<std::tuple<double, double, int, int>> queue; // smallest first: keys, then token, then choice
      for (int t = begin; t < std::min(tokens, begin + sequence); ++t)
        for (int j = 0; j < int(r.choice[t].size()); ++j) {
          if (r.choice[t][j] != e) continue;
          Row const score = scores(routed(r.logits[t]), s.gate.score);
          if (c.order == Order::score)
            queue.emplace_back(-score[e], 0, t, j);
          else
            queue.emplace_back(j, c.order == Order::token_priority ? -score[r.choice[t][0]] : 0, t, j);
        }
      std::sort(queue.begin(), queue.end());
      for (std::size_t i = std::size_t(places); i < queue.size(); ++i) {
        r.kept[std::get<2>(queue[i])][std::get<3>(queue[i])] = false;
        ++r.dropped;
      }
    }
}

void Layer::weigh(Result& r, std::size_t t) const {
  auto const& gate = s.gate;
  auto const& choice = r.choice[t];
  Row const z = routed(r.logits[t]);
  Row weight(choice.size(), 0.0), raw(choice.size(), 0.0);
  auto const counts = [&](std::size_t j) { return choice[j] >= 0 && (!gate.renormalize || r.kept[t][j]); };

  Row const score = scores(z, gate.score);
  double divisor = 0;
  for (std::size_t j = 0; j < choice.size(); ++j) {
    if (!counts(j)) continue;
    switch (gate.kind) {
    case Weight::score:
      raw[j] = score[choice[j]];
      break;
    case Weight::selected_softmax:
      raw[j] = std::exp(z[choice[j]]);
      break;
    case Weight::joint:
      raw[j] = sigmoid(z[choice[j]]);
      break;
    case Weight::constant:
      raw[j] = 1;
      break;
    case Weight::sparse_mixer:
      raw[j] = sparse_mixer_softmax(z, j == 0 ? -1 : choice[0], gate.epsilon)[choice[j]];
      if (!in.factors.empty()) raw[j] *= in.factors[t][j];
    }
    divisor += gate.divisor == Divisor::p_norm ? std::pow(std::abs(raw[j]), gate.p) : raw[j];
  }
  Row joint;
  if (gate.kind == Weight::joint)
    for (std::size_t c = z.size(); c < r.logits[t].size(); ++c) joint.push_back(sigmoid(r.logits[t][c]));
  divisor += std::accumulate(joint.begin(), joint.end(), 0.0);

  switch (gate.kind == Weight::score ? gate.divisor : Divisor::one) {
  case Divisor::one:
    break;
  case Divisor::sum:
    break;
  case Divisor::sum_plus_epsilon:
    divisor += gate.epsilon;
    break;
  case Divisor::sum_at_least_epsilon:
    divisor = std::max(divisor, gate.epsilon);
    break;
  case Divisor::p_norm:
    divisor = std::pow(divisor, 1 / gate.p);
    break;
  }
  bool const plain = gate.kind == Weight::constant || gate.kind == Weight::sparse_mixer ||
                     (gate.kind == Weight::score && gate.divisor == Divisor::one);
  double const factor = gate.scale * (in["gate.global_scale"].empty() ? 1.0 : in["gate.global_scale"][0]);
  Row const& expert_scale = in["gate.expert_scale"];
  for (std::size_t j = 0; j < choice.size(); ++j) {
    if (!counts(j)) continue;
    weight[j] = raw[j] / (plain ? 1.0 : divisor) * factor;
    if (!expert_scale.empty()) weight[j] *= expert_scale[choice[j]];
  }
  for (double& value : joint) value *= factor / divisor;
  r.weights.push_back(weight);
  r.shared_weights.push_back(joint);
}

double Layer::element(Row const& w, int e, int rows, int columns, bool exchanged, int n, int k) {
  return w[std::size_t((e * rows + (exchanged ? 0 : n)) * columns + (exchanged ? k * rows + n : k))];
}

Row Layer::feed_forward(FeedForward const& f, std::string const& prefix, int e, Row const& x) const {
  int const width = f.intermediate, columns = int(x.size());
  bool const fused = f.gated && f.gate_up != GateUp::separate;
  auto const project = [&](int part, int i) { // part 0: gate, 1: up
    int const n = !fused ? i : f.gate_up == GateUp::interleaved ? 2 * i + part : part * width + i;
    int const rows = fused ? 2 * width : width;
    std::string const name = prefix + (fused ? "gate_up" : part == 0 ? "gate" : "up");
    Row const& weight = in[name];
    double sum = f.bias ? in[name + "_bias"][std::size_t(e * rows + n)] : 0.0;
    for (int k = 0; k < columns; ++k) sum += element(weight, e, rows, columns, f.up_in_out, n, k) * x[k];
    return sum;
  };
  Row hidden;
  for (int i = 0; i < width; ++i) hidden.push_back(f.activation(f.gated ? project(0, i) : 0.0, project(1, i)));
  Row y;
  Row const& down = in[prefix + "down"];
  for (int h = 0; h < columns; ++h) {
    double sum = f.bias ? in[prefix + "down_bias"][std::size_t(e * columns + h)] : 0.0;
    for (int i = 0; i < width; ++i) sum += element(down, e, columns, width, f.down_in_out, h, i) * hidden[i];
    y.push_back(sum);
  }
  return y;
}

Row Layer::product(Row const& w, Row const& x) {
  Row y;
  for (std::size_t n = 0; n < w.size() / x.size(); ++n) y.push_back(dot(&w[n * x.size()], x));
  return y;
}

Row Layer::compute(Result const& r, std::size_t t) const {
  Row const& x = in.x[t];
  Row h = s.space.latent > 0 ? product(in["space.in"], x) : x;
  if (s.space.norm.used) h = rms_norm(h, s.space.norm, in["space.norm"]);
  Row sum(h.size(), 0.0);
  for (std::size_t j = 0; j < r.choice[t].size(); ++j) {
    if (!r.kept[t][j]) continue;
    double const w = r.weights[t][j];
    Row weighted = h;
    for (double& value : weighted) value *= s.gate.on_input ? w : 1.0;
    Row const out = expert(r.choice[t][j], weighted);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += (s.gate.on_input ? 1.0 : w) * out[i];
  }
  if (s.space.latent > 0) sum = product(in["space.out"], sum);

  for (double& value : sum) value *= s.combine.routed_scale;
  for (int j = 0; s.share != Share::none && j < s.shared_count; ++j) {
    double share = 1;
    if (s.share == Share::sigmoid) share = sigmoid(dot(x.data(), in["shared.shared_gate"]));
    if (s.share == Share::joint) share = r.shared_weights[t][std::size_t(j)];
    Row const out = feed_forward(s.shared, "shared.", j, x);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += share * out[i];
  }
  if (s.combine.norm.used) return rms_norm(sum, s.combine.norm, in["combine.norm"]);
  Row const& bias = in["combine.bias"];
  for (std::size_t i = 0; i < sum.size(); ++i) sum[i] = sum[i] * s.combine.scale + (bias.empty() ? 0.0 : bias[i]);
  return sum;
}

double Layer::balancing_loss(Result const& r, Loss const& loss) const {
  int const tokens = int(in.x.size()), experts = s.choosable();
  int const sequence = loss.tokens_per_sequence > 0 ? loss.tokens_per_sequence : tokens;
  double total = 0;
  int sequences = 0;
  for (int begin = 0; begin < tokens; begin += sequence, ++sequences) {
    Row f(std::size_t(experts), 0.0), p(std::size_t(experts), 0.0);
    int n = 0;
    for (int t = begin; t < std::min(tokens, begin + sequence); ++t) {
      if (in.masked(std::size_t(t))) continue;
      ++n;
      Row const z = routed(r.logits[t]), probability = softmax(z);
      for (int const e : largest(z, loss.top_k)) f[e] += loss.divide_by_k ? 1.0 / loss.top_k : 1.0;
      for (int e = 0; e < experts; ++e) p[e] += probability[e];
    }
    for (int e = 0; n > 0 && e < experts; ++e) total += f[e] / n * p[e] / n;
  }
  return sequences > 0 ? experts * total / sequences : 0.0;
}

double Layer::z_loss(Result const& r) const {
  double total = 0;
  int n = 0;
  for (std::size_t t = 0; t < in.x.size(); ++t) {
    if (in.masked(t)) continue;
    ++n;
    double sum = 0;
    for (double const z : routed(r.logits[t])) sum += std::exp(z);
    total += std::log(sum) * std::log(sum);
  }
  return n > 0 ? total / n : 0.0;
}

} // namespace kokomo::test::reference
