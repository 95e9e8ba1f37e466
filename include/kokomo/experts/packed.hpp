// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_PACKED_HPP
#define KOKOMO_EXPERTS_PACKED_HPP

#include <kokomo/experts/feed_forward.hpp>

namespace kokomo::inline v0 {

/// FeedForwardExperts whose weights lie packed, in the order in which a host's products read them: for inference, where
/// the same weights serve many calls. Same values, same bits of the result; no backward.
///
/// A panel is `panel_columns` output columns of one matrix, as [input, panel_columns] elements of the storage type; the
/// last is filled up with zeros. Parameters, E experts of intermediate size I on inputs of width H, w = panel_columns:
///
///     up   [E, 2 ceil(I / w), H w]: a gate panel, then the up panel of the same columns, and so on; plain experts: up alone
///     down [E, ceil(H / w), I w]
///     with `inner.bias`: gate_bias and up_bias [E, I], down_bias [E, H]
///
/// They are filled by `pack`, or read from where they were saved. The order within a panel depends on w and the storage
/// type alone (bfloat16: column j, then column j + w / 2, and so on), so packed weights serve every machine that has an
/// instruction set with panels of w columns (float32 and 16-bit types: AVX-512 32, AVX2 16, portable 8; float64: half of
/// these). Extents tell them apart: weights of another w are refused by the layer.
/// \throws kokomo::Error 106 unless this machine has such panels
template <class ExpertsT> struct Packed {
  using Experts = ExpertsT;
  using Activation = typename Experts::Activation;
  static constexpr bool gated = Experts::gated;

  Experts inner{};
  int panel_columns = 0; ///< w; 0: that of the widest instruction set of this machine

  template <class T> int width_of_panels() const { return kernel<T>().columns; }

  template <class T, class Exec> struct Parameters {
    static_assert(detail::runs_on_host_v<Exec>, "kokomo::Packed: panels are for host execution spaces");
    OwnedTensor<T, Exec> up, down;
    OwnedMatrix<T, Exec> gate_bias, up_bias, down_bias;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, Packed const& policy, Sizes const& sizes) {
      int const w = policy.template width_of_panels<T>();
      offset_t const experts = sizes.weighted, hidden = policy.inner.intermediate;
      allocate(up, "kokomo::Packed::up", experts, (gated ? 2 : 1) * detail::host::panel_count(hidden, w),
               sizes.hidden * w);
      allocate(down, "kokomo::Packed::down", experts, detail::host::panel_count(sizes.hidden, w), hidden * w);
      if (!policy.inner.bias) return;
      if constexpr (gated) allocate(gate_bias, "kokomo::Packed::gate_bias", experts, hidden);
      allocate(up_bias, "kokomo::Packed::up_bias", experts, hidden);
      allocate(down_bias, "kokomo::Packed::down_bias", experts, sizes.hidden);
    }

    template <class F> void for_each(F&& f, std::string_view prefix) const {
      auto const visit = [&](char const* name, auto const& view) {
        if (view.extent(0) > 0) f(Name{prefix, name}, view);
      };
      visit("up", up), visit("down", down);
      visit("gate_bias", gate_bias), visit("up_bias", up_bias), visit("down_bias", down_bias);
    }
  };

  template <class T, class Exec> using Scratch = detail::OfInner<scratch_t<Experts, T, Exec>>;

  void check(Sizes const& sizes) const { detail::check_settings(inner, sizes); }
  index_t routed(index_t weighted) const { return inner.routed(weighted); }

  /// Fills `to` from the weights of `experts`. Asynchronous on exec; allocates nothing, fences nothing.
  /// \throws kokomo::Error 202 unless the extents of `to` are those for `from`
  template <class T, class Exec>
  void pack(Exec const& exec, parameters_t<Experts, T, Exec> const& from, Parameters<T, Exec> const& to) const {
    int const w = width_of_panels<T>();
    auto const experts_count = static_cast<offset_t>(from.down.extent(0));
    offset_t const hidden = inner.intermediate;
    auto const width = static_cast<offset_t>(from.down.size()) / std::max<offset_t>(1, experts_count * hidden);
    auto const fits = [&](auto const& view, offset_t panels, offset_t depth) {
      return offset_t(view.extent(0)) == experts_count && offset_t(view.extent(1)) == panels &&
             offset_t(view.extent(2)) == depth * w;
    };
    detail::require(fits(to.up, (gated ? 2 : 1) * detail::host::panel_count(hidden, w), width) &&
                        fits(to.down, detail::host::panel_count(width, w), hidden),
                    202, "packed weights of other extents than ", experts_count, " experts, width ", width,
                    ", intermediate size ", hidden, " and panels of ", w, " columns have");
    int const parts = gated ? 2 : 1;
    auto const pack_one = [&](detail::Projection<T> const& p, offset_t columns, offset_t depth, T* target,
                              offset_t group_stride, offset_t panel_stride) {
      detail::for_each(exec, "kokomo::Packed::pack", experts_count * detail::host::panel_count(columns, w),
                       detail::host::PackPanels<T>{p.weight, columns, depth, w, target, group_stride, panel_stride});
    };
    auto const copy_bias = [&](detail::Projection<T> const& p, auto const& target) {
      if (p.bias.data == nullptr) return;
      detail::for_each(exec, "kokomo::Packed::pack_bias", static_cast<offset_t>(target.size()),
                       CopyBias<T>{p.bias, target.data(), static_cast<offset_t>(target.extent(1))});
    };
    auto const up = inner.up_projection(from, width), down = inner.down_projection(from, width);
    offset_t const panel = width * w, up_group = parts * detail::host::panel_count(hidden, w) * panel;
    pack_one(up, hidden, width, to.up.data() + (parts - 1) * panel, up_group, parts * panel);
    pack_one(down, width, hidden, to.down.data(), detail::host::panel_count(width, w) * hidden * w, hidden * w);
    copy_bias(up, to.up_bias);
    copy_bias(down, to.down_bias);
    if constexpr (gated) {
      auto const gate = inner.gate_projection(from, width);
      pack_one(gate, hidden, width, to.up.data(), up_group, parts * panel);
      copy_bias(gate, to.gate_bias);
    }
  }

  /// As FeedForwardExperts::forward.
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Nothing const& nothing, Scratch<T, Exec> const& scratch) const {
    forward_combined<T>(exec, parameters, in, detail::CombinedRows<compute_t<T>>{.data = out.data(), .summed = false},
                        static_cast<offset_t>(out.extent(1)), nothing, scratch);
  }

  /// As FeedForwardExperts::forward_combined; saves nothing.
  template <class T, class Exec>
  void forward_combined(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                        detail::CombinedRows<compute_t<T>> const& out, offset_t width, Nothing const&,
                        Scratch<T, Exec> const& scratch) const {
    using Weights = detail::host::PackedWeights<T>;
    auto const& kernel = this->kernel<T>();
    int const w = kernel.columns, parts = gated ? 2 : 1;
    offset_t const hidden = inner.intermediate, panel = width * w;
    offset_t const up_group = parts * detail::host::panel_count(hidden, w) * panel;
    Weights const gate{parameters.up.data(), up_group, parts * panel, w};
    Weights const up{parameters.up.data() + (parts - 1) * panel, up_group, parts * panel, w};
    Weights const down{parameters.down.data(), detail::host::panel_count(width, w) * hidden * w, hidden * w, w};
    auto const bias = [](auto const& view) {
      return detail::BiasRef<T const>{view.data(), static_cast<offset_t>(view.extent(1)), 1};
    };
    detail::host::feed_forward<T>(
        exec, kernel, in.rows, in.x, width, hidden,
        detail::host::FeedForwardWeights<T, Weights>{gate, up, down, bias(parameters.gate_bias),
                                                     bias(parameters.up_bias), bias(parameters.down_bias)},
        inner.activation, nullptr, scratch.hidden.data(), out, in.workers);
  }

  /// Which kernels run, in words.
  template <class T, class Exec> std::string describe() const {
    return "packed panels, rows summed by owners of columns; " + detail::host::to_text(kernel<T>());
  }

private:
  template <class T> detail::host::Microkernel<compute_t<T>, T> const& kernel() const {
    auto set = detail::host::instruction_set();
    detail::require(panel_columns == 0 || detail::host::find_instruction_set<compute_t<T>>(panel_columns, set), 106,
                    "Packed panel_columns = ", panel_columns, ", expected 0 or those of an instruction set of this ",
                    "machine: ", detail::host::panel_columns<compute_t<T>>(set), " of ", detail::host::to_text(set));
    return detail::host::microkernel<compute_t<T>, T>(set);
  }
  template <class T> struct CopyBias {
    detail::BiasRef<T> from;
    T* to;
    offset_t columns;
    KOKKOS_FUNCTION void operator()(offset_t i) const {
      to[i] = from.data[i / columns * from.group_stride + i % columns * from.n_stride];
    }
  };
};

} // namespace kokomo::inline v0

#endif
