// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_STATS_CHOICES_HPP
#define KOKOMO_STATS_CHOICES_HPP

#include <kokomo/stats/loads.hpp>

namespace kokomo::inline v0::stats {

/// Which experts the tokens of one forward pass had, on the host.
struct Choices {
  struct Entry {
    index_t expert;
    double weight;
  };
  index_t experts = 0;
  std::vector<std::vector<Entry>> of_token; ///< executed entries, best choice first where the selector ranks

  offset_t tokens() const { return offset_t(of_token.size()); }
};

/// Copies the Assignment of the last forward pass, O(entries), and fences.
template <class T, class Exec> Choices choices(Exec const& exec, Assignment<T, Exec> const& a) {
  auto const offsets = to_host(exec, a.token_offsets);
  auto const expert = to_host(exec, a.expert), row = to_host(exec, a.row);
  auto const weight = to_host(exec, a.weight);
  Choices choices;
  choices.experts = a.experts;
  choices.of_token.resize(std::size_t(a.tokens));
  for (std::size_t t = 0; t < choices.of_token.size(); ++t)
    for (auto i = std::size_t(offsets[t]); i < std::size_t(offsets[t + 1]); ++i)
      if (row[i] != none) choices.of_token[t].push_back({expert[i], double(weight[i])});
  return choices;
}

/// How unsure a layer's router is of what it chose: the mean over tokens of -(1/k) sum over its chosen experts of log p,
/// p = softmax(z). The larger, the less sure. Tokens without an expert do not count. Copies logits and entries, and fences.
/// Source: Rewiring Experts on the Fly (arXiv 2510.14853), which calls a large value confident.
template <class T, class Exec>
double uncertainty(Exec const& exec, Matrix<compute_t<T>, Exec> const& logits, Assignment<T, Exec> const& a) {
  auto const z = to_host(exec, logits);
  auto const chosen = choices(exec, a);
  auto const columns = std::size_t(logits.extent(1)), experts = std::size_t(a.experts);
  double sum = 0, tokens = 0;
  for (std::size_t t = 0; t < chosen.of_token.size(); ++t) {
    if (chosen.of_token[t].empty()) continue;
    double max = double(z[t * columns]), total = 0, of_chosen = 0;
    for (std::size_t e = 0; e < experts; ++e) max = std::max(max, double(z[t * columns + e]));
    for (std::size_t e = 0; e < experts; ++e) total += std::exp(double(z[t * columns + e]) - max);
    for (auto const& entry : chosen.of_token[t])
      of_chosen += max + std::log(total) - double(z[t * columns + std::size_t(entry.expert)]);
    sum += of_chosen / double(chosen.of_token[t].size());
    ++tokens;
  }
  return tokens > 0 ? sum / tokens : 0;
}

/// Which layers to adapt at test time.
enum class AdaptedLayers {
  most_uncertain, ///< those with the largest uncertainty
  least_uncertain
};

/// The share of layers that `which` names, rounded up, in ascending order; ties go to the lower layer.
inline std::vector<std::size_t> adapted_layers(std::vector<double> const& uncertainty_of_layer, double share,
                                               AdaptedLayers which) {
  std::vector<std::size_t> layers(uncertainty_of_layer.size());
  std::iota(layers.begin(), layers.end(), std::size_t(0));
  double const sign = which == AdaptedLayers::most_uncertain ? 1 : -1;
  std::stable_sort(layers.begin(), layers.end(),
                   [&](auto a, auto b) { return sign * uncertainty_of_layer[a] > sign * uncertainty_of_layer[b]; });
  double const all = double(layers.size());
  layers.resize(std::size_t(std::min(std::max(std::ceil(share * all), 0.0), all)));
  std::sort(layers.begin(), layers.end());
  return layers;
}

/// How many tokens had both of two experts: a symmetric matrix [experts][experts], on its diagonal the tokens of each.
inline std::vector<std::vector<offset_t>> coactivation(Choices const& choices) {
  auto const n = std::size_t(choices.experts);
  std::vector<std::vector<offset_t>> counts(n, std::vector<offset_t>(n, 0));
  for (auto const& entries : choices.of_token)
    for (std::size_t i = 0; i < entries.size(); ++i)
      for (std::size_t j = 0; j <= i; ++j) {
        auto const a = std::size_t(entries[i].expert), b = std::size_t(entries[j].expert);
        ++counts[a][b];
        if (a != b) ++counts[b][a];
      }
  return counts;
}

/// How often a sequence has each expert: the share of its tokens whose choice holds it, averaged over sequences of
/// `tokens_per_sequence` (0: the batch is one). Tokens without an expert, such as padding, do not count; sequences
/// without any are left out. Differences of it between two sets of tokens are what steering chooses experts by.
inline std::vector<double> activation_frequency(Choices const& choices, offset_t tokens_per_sequence = 0) {
  std::vector<double> mean(std::size_t(choices.experts), 0.0), share(mean);
  auto const length = std::size_t(tokens_per_sequence > 0 ? tokens_per_sequence : choices.tokens());
  double sequences = 0;
  for (std::size_t begin = 0; begin < choices.of_token.size(); begin += length) {
    std::fill(share.begin(), share.end(), 0.0);
    double tokens = 0;
    for (std::size_t t = begin; t < std::min(begin + length, choices.of_token.size()); ++t) {
      tokens += choices.of_token[t].empty() ? 0 : 1;
      for (auto const& entry : choices.of_token[t]) share[std::size_t(entry.expert)] += 1;
    }
    if (tokens == 0) continue;
    ++sequences;
    for (std::size_t e = 0; e < mean.size(); ++e) mean[e] += share[e] / tokens;
  }
  for (double& value : mean) value = sequences > 0 ? value / sequences : 0;
  return mean;
}

/// Mean weight of each expert over all tokens, as a distribution: it sums to one, or to zero if no weight is positive.
/// Negative weights count as zero.
inline std::vector<double> weight_distribution(Choices const& choices) {
  std::vector<double> sums(std::size_t(choices.experts), 0.0);
  double total = 0;
  for (auto const& entries : choices.of_token)
    for (auto const& entry : entries)
      if (entry.weight > 0) sums[std::size_t(entry.expert)] += entry.weight, total += entry.weight;
  for (double& value : sums) value = total > 0 ? value / total : 0;
  return sums;
}

/// What divides a Jensen-Shannon divergence.
enum class DivergenceNormalizer {
  none,        ///< bits: 0 for equal distributions, 1 for those without a common expert
  mean_entropy ///< the mean of both entropies; 0 / 0 is 0. Not bounded by 1: two single experts give infinity
};

/// Jensen-Shannon divergence H((p + q) / 2) - (H(p) + H(q)) / 2 in bits, of two distributions over the same experts.
///
/// The routing divergence of two sets of tokens is that of their `weight_distribution`s. The normaliser of the published
/// one was not found; `mean_entropy` is a reconstruction.
inline double jensen_shannon(std::vector<double> const& p, std::vector<double> const& q,
                             DivergenceNormalizer normalizer = DivergenceNormalizer::none) {
  double entropy_p = 0, entropy_q = 0, entropy_mean = 0;
  auto const add = [](double& entropy, double share) { entropy -= share > 0 ? share * std::log2(share) : 0; };
  for (std::size_t e = 0; e < std::min(p.size(), q.size()); ++e) {
    add(entropy_p, p[e]);
    add(entropy_q, q[e]);
    add(entropy_mean, (p[e] + q[e]) / 2);
  }
  double const mean = (entropy_p + entropy_q) / 2, divergence = std::max(entropy_mean - mean, 0.0);
  if (normalizer == DivergenceNormalizer::none) return divergence;
  return divergence > 0 ? divergence / mean : 0;
}

} // namespace kokomo::inline v0::stats

#endif
