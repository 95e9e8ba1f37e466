// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CACHE_EXPERT_STORE_HPP
#define KOKOMO_CACHE_EXPERT_STORE_HPP

#include <kokomo/cache/expert_cache.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/placement/expert_map.hpp>
#include <kokomo/stats/loads.hpp>

#include <vector>

namespace kokomo::inline v0::cache {

/// The experts of a model's layers in a host's memory, and a fixed number of slots where they are computed.
///
/// All layers have the type and the sizes of one: a layer with PlacedExperts (models::Cached<P>) of as many places as there
/// are slots. Their parameters share the slots: `parameters.experts = store.slots()`. A pass:
///
///     store.begin(exec, prediction);
///     for each l: store.forward(exec, l, layer[l], parameters[l], state[l], inputs, y, workspace, tape);
///
/// which routes, loads what was chosen and is missing, computes, and loads ahead for later layers. Routing and experts are
/// Layer's own; the bits of y do not depend on what was predicted, nor on which slot an expert lies in. For inference: a
/// backward pass would find other layers' experts in the slots.
///
/// Copies are in order with the computation on `exec`; nothing overlaps. A layer waits once for the device, since the host
/// has to know what was chosen.
template <class LayerT> class ExpertStore {
public:
  using Layer = LayerT;
  using Exec = typename Layer::Exec;
  using T = typename Layer::Storage;
  using Experts = parameters_t<typename Layer::Routed, T, Exec>;
  static_assert(
      std::is_same_v<typename Layer::Placement, PlacedExperts>,
      "kokomo::cache::ExpertStore: the layer needs PlacedExperts (models::Cached<P>), so that its experts can "
      "lie now here, now there");

  /// \throws kokomo::Error as ExpertCache; 202 for experts with a View whose first index is not the expert
  ExpertStore(Exec const& exec, Layer const& layer, index_t layers, CacheSettings const& settings = {})
      : m_cache(layers, index_t(layer.shape().experts), layer.policies().placement.stored, settings),
        m_slots(layer.make_parameters(exec).experts) {
    visit([&](auto const& name, auto const& view) {
      detail::require(index_t(view.extent(0)) == m_cache.slots(), 202, std::string(name), " has first extent ",
                      view.extent(0), ", expected the ", m_cache.slots(), " places");
      auto const bytes = view.size() * sizeof(*view.data()) / view.extent(0);
      m_arrays.push_back({reinterpret_cast<std::byte*>(view.data()), bytes});
    });
    std::size_t bytes = 0;
    for (Array& array : m_arrays) {
      array.offset = bytes;
      bytes += array.bytes * std::size_t(m_cache.experts());
    }
    m_pool.resize(std::size_t(layers));
    for (Block& block : m_pool) block = Block("kokomo::ExpertStore::pool", bytes);
  }

  /// The slots as parameters of as many experts: what all layers' `parameters.experts` are.
  Experts const& slots() const { return m_slots; }
  ExpertCache const& cache() const { return m_cache; }
  /// Bytes of one expert: what a load copies.
  std::size_t expert_bytes() const {
    std::size_t bytes = 0;
    for (Array const& array : m_arrays) bytes += array.bytes;
    return bytes;
  }

  /// Copies all experts of a layer into the host's memory. They may come from any execution space, so that they never have
  /// to lie in this one's memory. Fences.
  /// \param[in] experts as the parameters of the layer without a placement, shape.experts of them
  /// \throws kokomo::Error 202 for Views of other extents
  template <class From> void put(index_t layer, From const& experts) {
    std::size_t i = 0;
    experts.for_each(
        [&](auto const& name, auto const& view) {
          Array const array = i < m_arrays.size() ? m_arrays[i++] : Array{};
          detail::require(index_t(view.extent(0)) == m_cache.experts() &&
                              view.size() * sizeof(*view.data()) == array.bytes * view.extent(0),
                          202, std::string(name), " of ", view.size(), " numbers, expected ", m_cache.experts(),
                          " experts like those of the slots");
          copy(pool(layer) + array.offset,
               Bytes<typename std::remove_cvref_t<decltype(view)>::memory_space>(
                   reinterpret_cast<std::byte const*>(view.data()), array.bytes * view.extent(0)));
        },
        "experts.");
    detail::require(i == m_arrays.size(), 202, "experts hold ", i, " Views, expected ", m_arrays.size());
  }

  /// A pass over all layers begins: loads ahead what is predicted.
  void begin(Exec const& exec, ExpertCache::Prediction const& prediction = {}) {
    fetch(exec, m_cache.begin(prediction));
  }

  /// forward of one layer, with its experts in the slots.
  void forward(Exec const& exec, index_t l, Layer const& layer, typename Layer::Parameters const& parameters,
               typename Layer::State const& state, typename Layer::Inputs const& inputs,
               MatrixArgument<T, Exec> const& y, Workspace<Exec> const& workspace, Tape<Exec>& tape) {
    layer.forward_routing(exec, parameters, state, inputs, workspace, tape);
    bring(exec, l, layer, state, tape);
    layer.forward_experts(exec, parameters, state, inputs, y, workspace, tape);
    end(exec, l);
  }

  /// Between the halves of a forward pass: loads what was chosen, and tells the layer where it lies.
  void bring(Exec const& exec, index_t l, Layer const& layer, typename Layer::State const& state,
             Tape<Exec> const& tape) {
    auto const offsets = stats::to_host(exec, layer.saved(tape).assignment.expert_offsets);
    std::vector<index_t> chosen;
    for (index_t e = 0; e < m_cache.experts(); ++e)
      if (offsets[std::size_t(e) + 1] > offsets[std::size_t(e)]) chosen.push_back(e);
    fetch(exec, m_cache.demand(l, chosen));
    layer.policies().placement.template set<T>(exec, state.placement, m_cache.slots_of(l));
  }
  /// After it: loads ahead for later layers.
  void end(Exec const& exec, index_t l) { fetch(exec, m_cache.end(l)); }

private:
  using Block = Kokkos::View<std::byte*, Kokkos::HostSpace>;
  template <class Space> using Bytes = Kokkos::View<std::byte const*, Space, Kokkos::MemoryUnmanaged>;
  struct Array {
    std::byte* slots = nullptr;
    std::size_t bytes = 0;  // of one expert
    std::size_t offset = 0; // of expert 0 in the pool of a layer
  };

  std::byte* pool(index_t layer) const {
    (void)m_cache.slots_of(layer); // refuses a layer that there is not
    return m_pool[std::size_t(layer)].data();
  }
  template <class F> void visit(F const& f) const { m_slots.for_each(f, "experts."); }
  template <class From> static void copy(std::byte* to, From const& from) {
    Kokkos::deep_copy(Kokkos::View<std::byte*, Kokkos::HostSpace, Kokkos::MemoryUnmanaged>(to, from.size()), from);
  }
  void fetch(Exec const& exec, std::vector<Load> const& loads) const {
    using Target = Kokkos::View<std::byte*, typename Exec::memory_space, Kokkos::MemoryUnmanaged>;
    for (Load const& load : loads)
      for (Array const& array : m_arrays)
        Kokkos::deep_copy(exec, Target(array.slots + array.bytes * std::size_t(load.slot), array.bytes),
                          Bytes<Kokkos::HostSpace>(
                              pool(load.layer) + array.offset + array.bytes * std::size_t(load.expert), array.bytes));
  }

  ExpertCache m_cache;
  Experts m_slots;
  std::vector<Array> m_arrays;
  std::vector<Block> m_pool; // [layers] all experts of a layer, View by View
};

} // namespace kokomo::inline v0::cache

#endif
