// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CACHE_EXPERT_CACHE_HPP
#define KOKOMO_CACHE_EXPERT_CACHE_HPP

#include <kokomo/error.hpp>
#include <kokomo/types.hpp>

#include <algorithm>
#include <vector>

namespace kokomo::inline v0::cache {

/// How a cache of experts chooses what it holds.
enum class Strategy {
  predicted,   ///< places by predicted demand of each layer, filled before a layer asks (ExpertFlow's PLEC)
  least_recent ///< only what was asked for, the longest unused leaves first: to compare with
};

struct CacheSettings {
  Strategy strategy = Strategy::predicted;
  double threshold = 0.5; ///< an expert is predicted if its probability is above
};

/// What a cache wants copied: an expert of a layer into a slot, over what was there.
struct Load {
  index_t layer, expert, slot;
  bool demanded; ///< its layer waits for it; else it is ahead of time
};

struct CacheCounts {
  offset_t hits = 0;       ///< experts that were there, or had been asked for, when their layer asked
  offset_t misses = 0;     ///< experts that were not
  offset_t prefetches = 0; ///< loads ahead of time
  offset_t unused = 0;     ///< of these, overwritten without ever having been asked for

  double hit_rate() const { return hits + misses > 0 ? double(hits) / double(hits + misses) : 0; }
};

/// Which experts of a model's layers lie in a fixed number of slots, all of one size, as a pass goes through the layers.
/// Bookkeeping on the host alone: ExpertStore moves the weights.
///
///     for (Load l : cache.begin(probability)) ...        // a pass begins
///     for each layer: for (Load l : cache.demand(layer, experts)) ...;  run it;  for (Load l : cache.end(layer)) ...
///
/// Predicted: a layer's demand is the number of its experts with a probability above the threshold. The next layer gets
/// slots for all of its demand, the others share the rest in proportion to theirs (largest remainder). Experts are loaded by
/// layer, then by falling probability. When a layer ends, its slots go to the first layers whose demand is not met. What a
/// layer has but turns out not to need may go at once; what it needs and has not is loaded at once, over what nobody wants,
/// or else over the least probable expert of the farthest layer.
///
/// Whatever is predicted, all that a layer asks for is there when `demand` returns.
/// Source: ExpertFlow (arXiv 2410.17954) by third parties' accounts; the order of eviction and what the next layer is
/// guaranteed are reconstructed (docs/policies/cache/expert_cache.md).
/// \throws kokomo::Error 101 unless layers, experts and slots are >= 1, 106 unless 0 <= threshold <= 1
class ExpertCache {
public:
  using Prediction = std::vector<std::vector<double>>; ///< [layers][experts] probability that a pass asks for it

  ExpertCache(index_t layers, index_t experts, index_t slots, CacheSettings const& settings = {})
      : m_experts(experts), m_settings(settings), m_wanted(std::size_t(std::max(layers, index_t(0)))) {
    detail::require(layers >= 1 && experts >= 1 && slots >= 1, 101, "ExpertCache of ", layers, " layers of ", experts,
                    " experts in ", slots, " slots, expected >= 1 of each");
    detail::require(settings.threshold >= 0 && settings.threshold <= 1, 106,
                    "ExpertCache threshold = ", settings.threshold, ", expected 0 to 1");
    m_slots.resize(std::size_t(slots));
    m_slot_of.assign(std::size_t(layers), std::vector<index_t>(std::size_t(experts), none));
  }

  index_t layers() const { return index_t(m_slot_of.size()); }
  index_t experts() const { return m_experts; }
  index_t slots() const { return index_t(m_slots.size()); }
  CacheCounts const& counts() const { return m_counts; }
  /// Where the experts of a layer lie, or none: what ExpertMap::set takes.
  std::vector<index_t> const& slots_of(index_t layer) const { return m_slot_of[checked(layer)]; }

  /// A pass over all layers begins. With Strategy::least_recent the prediction is ignored, and may be empty.
  /// \throws kokomo::Error 201 for a prediction of other layers or experts
  std::vector<Load> begin(Prediction const& probability);

  /// A layer asks for these experts, all at once: returns what is missing. Each counts once.
  /// \throws kokomo::Error 201 for an expert that there is not, or more of them than slots
  std::vector<Load> demand(index_t layer, std::vector<index_t> experts);

  /// A layer has run: its slots are free.
  std::vector<Load> end(index_t layer);

private:
  struct Slot {
    index_t layer = none, expert = none; // what is there
    bool reserved = false, pinned = false, asked = false;
    double probability = 0;
    offset_t used = 0; // when it was last asked for
  };
  struct Wanted {
    index_t expert;
    double probability;
  };

  std::size_t checked(index_t layer) const {
    detail::require(layer >= 0 && layer < layers(), 201, "layer = ", layer, ", expected 0 to ", layers() - 1);
    return std::size_t(layer);
  }
  index_t slot_of(index_t layer, index_t expert) const { return m_slot_of[std::size_t(layer)][std::size_t(expert)]; }
  void split(std::vector<index_t>& allotted) const;
  /// The slot whose content is worth least, or none. What layers behind `kept` wait for may go, too.
  index_t victim(index_t kept) const;
  bool reserve(index_t layer, Wanted const& wanted);
  void load(index_t slot, index_t layer, Wanted const& wanted, bool demanded, std::vector<Load>& loads);
  void prefetch(index_t layer, index_t at_most, index_t kept, std::vector<Load>& loads);

  index_t m_experts;
  CacheSettings m_settings;
  std::vector<Slot> m_slots;
  std::vector<std::vector<index_t>> m_slot_of; // [layers][experts]
  std::vector<std::vector<Wanted>> m_wanted;   // [layers] predicted, most probable first
  CacheCounts m_counts;
  offset_t m_time = 0;
};

/// Slots of each layer: the first gets what it wants, the others share the rest by largest remainders.
inline void ExpertCache::split(std::vector<index_t>& allotted) const {
  offset_t rest = slots(), total = 0;
  for (std::size_t l = 0; l < m_wanted.size(); ++l) {
    allotted[l] = l == 0 ? std::min(index_t(m_wanted[0].size()), slots()) : 0;
    if (l == 0) rest -= allotted[0];
    if (l > 0) total += offset_t(m_wanted[l].size());
  }
  if (total <= rest) {
    for (std::size_t l = 1; l < m_wanted.size(); ++l) allotted[l] = index_t(m_wanted[l].size());
    return;
  }
  std::vector<std::size_t> order;
  std::vector<offset_t> remainder(m_wanted.size());
  offset_t given = 0;
  for (std::size_t l = 1; l < m_wanted.size(); ++l) {
    offset_t const share = rest * offset_t(m_wanted[l].size());
    allotted[l] = index_t(share / total);
    remainder[l] = share % total;
    given += allotted[l];
    order.push_back(l);
  }
  std::stable_sort(order.begin(), order.end(), [&](auto a, auto b) { return remainder[a] > remainder[b]; });
  for (std::size_t i = 0; given < rest; ++i, ++given) ++allotted[order[i]];
}

inline index_t ExpertCache::victim(index_t kept) const {
  index_t best = none;
  auto const worse = [&](Slot const& a, Slot const& b) { // a is to go before b
    if ((a.expert == none) != (b.expert == none)) return a.expert == none;
    if (a.reserved != b.reserved) return !a.reserved;
    if (!a.reserved) return a.used < b.used;
    if (a.layer != b.layer) return a.layer > b.layer;
    return a.probability < b.probability;
  };
  for (index_t s = 0; s < slots(); ++s) {
    Slot const& slot = m_slots[std::size_t(s)];
    if (slot.pinned || (slot.reserved && slot.layer <= kept)) continue;
    if (best == none || worse(slot, m_slots[std::size_t(best)])) best = s;
  }
  return best;
}

inline void ExpertCache::load(index_t at, index_t layer, Wanted const& wanted, bool demanded,
                              std::vector<Load>& loads) {
  Slot& slot = m_slots[std::size_t(at)];
  if (slot.expert != none) {
    m_counts.unused += slot.asked ? 0 : 1;
    m_slot_of[std::size_t(slot.layer)][std::size_t(slot.expert)] = none;
  }
  slot = {layer, wanted.expert, !demanded, demanded, demanded, wanted.probability, m_time};
  m_slot_of[std::size_t(layer)][std::size_t(wanted.expert)] = at;
  m_counts.prefetches += demanded ? 0 : 1;
  loads.push_back({layer, wanted.expert, at, demanded});
}

/// Whether an expert is there; then it stays.
inline bool ExpertCache::reserve(index_t layer, Wanted const& wanted) {
  index_t const there = slot_of(layer, wanted.expert);
  if (there == none) return false;
  m_slots[std::size_t(there)].reserved = true;
  m_slots[std::size_t(there)].probability = wanted.probability;
  return true;
}

inline void ExpertCache::prefetch(index_t layer, index_t at_most, index_t kept, std::vector<Load>& loads) {
  for (Wanted const& wanted : m_wanted[std::size_t(layer)]) {
    if (at_most-- <= 0) return;
    if (reserve(layer, wanted)) continue;
    index_t const slot = victim(kept);
    if (slot == none) return;
    load(slot, layer, wanted, false, loads);
  }
}

inline std::vector<Load> ExpertCache::begin(Prediction const& probability) {
  std::vector<Load> loads;
  for (Slot& slot : m_slots) slot.reserved = slot.pinned = false;
  if (m_settings.strategy == Strategy::least_recent) return loads;
  detail::require(probability.size() == m_wanted.size(), 201, "the prediction has ", probability.size(),
                  " layers, expected ", m_wanted.size());
  for (std::size_t l = 0; l < m_wanted.size(); ++l) {
    detail::require(probability[l].size() == std::size_t(m_experts), 201, "the prediction has ", probability[l].size(),
                    " experts in layer ", l, ", expected ", m_experts);
    m_wanted[l].clear();
    for (index_t e = 0; e < m_experts; ++e)
      if (probability[l][std::size_t(e)] > m_settings.threshold)
        m_wanted[l].push_back({e, probability[l][std::size_t(e)]});
    std::stable_sort(m_wanted[l].begin(), m_wanted[l].end(),
                     [](Wanted const& a, Wanted const& b) { return a.probability > b.probability; });
  }
  std::vector<index_t> allotted(m_wanted.size());
  split(allotted);
  for (std::size_t l = 0; l < m_wanted.size(); ++l) // first of all, what is there already
    for (std::size_t i = 0; i < std::size_t(allotted[l]); ++i) reserve(index_t(l), m_wanted[l][i]);
  for (std::size_t l = 0; l < m_wanted.size(); ++l) prefetch(index_t(l), allotted[l], layers(), loads);
  return loads;
}

inline std::vector<Load> ExpertCache::demand(index_t layer, std::vector<index_t> experts) {
  (void)checked(layer);
  std::sort(experts.begin(), experts.end());
  experts.erase(std::unique(experts.begin(), experts.end()), experts.end());
  detail::require(experts.empty() || (experts.front() >= 0 && experts.back() < m_experts), 201,
                  "a layer asks for experts ", experts.empty() ? 0 : experts.front(), " to ",
                  experts.empty() ? 0 : experts.back(), ", expected 0 to ", m_experts - 1);
  detail::require(experts.size() <= m_slots.size(), 201, "a layer asks for ", experts.size(),
                  " experts at once, expected at most ", m_slots.size(),
                  " (the slots): a smaller batch asks for fewer");
  ++m_time;
  for (Slot& slot : m_slots)
    if (slot.layer == layer) slot.reserved = slot.pinned = false; // what is not needed after all
  std::vector<index_t> missing;
  for (index_t const e : experts) {
    index_t const there = slot_of(layer, e);
    if (there == none) {
      missing.push_back(e);
      continue;
    }
    Slot& slot = m_slots[std::size_t(there)];
    slot.pinned = slot.asked = true;
    slot.used = m_time;
  }
  m_counts.hits += offset_t(experts.size() - missing.size());
  m_counts.misses += offset_t(missing.size());
  std::vector<Load> loads;
  for (index_t const e : missing) load(victim(-1), layer, {e, 1}, true, loads);
  return loads;
}

inline std::vector<Load> ExpertCache::end(index_t layer) {
  (void)checked(layer);
  std::vector<Load> loads;
  for (Slot& slot : m_slots)
    if (slot.layer == layer) slot.reserved = slot.pinned = false;
  if (m_settings.strategy == Strategy::least_recent) return loads;
  for (index_t l = layer + 1; l < layers(); ++l) prefetch(l, slots(), l == layer + 1 ? l : layers(), loads);
  return loads;
}

} // namespace kokomo::inline v0::cache

#endif
