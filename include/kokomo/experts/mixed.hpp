// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXPERTS_MIXED_HPP
#define KOKOMO_EXPERTS_MIXED_HPP

#include <kokomo/experts/feed_forward.hpp>

#include <array>
#include <numeric>
#include <string>
#include <tuple>
#include <utility>

namespace kokomo::inline v0 {
namespace detail {

/// What distinguishes the names of the parameters of parts.
inline constexpr std::string_view part_names[] = {"0.", "1.", "2.", "3.", "4.", "5.", "6.", "7."};

template <std::size_t N> constexpr std::array<index_t, N> one_each() {
  std::array<index_t, N> counts{};
  for (auto& count : counts) count = 1;
  return counts;
}

} // namespace detail

/// Experts of several kinds under one router: other widths, other activations, another policy altogether.
///
///     kokomo::MixedExperts<kokomo::SwiGluExperts, kokomo::SwiGluExperts>{ // two big experts, then six small ones
///         .parts = {{.intermediate = 10240}, {.intermediate = 640}}, .count = {2, 6}}
///
/// The first count[0] expert ids are those of part 0, and so on; the counts are of experts with weights and add up to
/// Shape::experts. Rows are grouped by expert, so those of a part are one piece of them, and each part works on its own as
/// if the others were not there. Parts with experts of their own beside (WithIdentity) have these ids behind the weighted
/// ones of the part; WithIdentity around all has them at the end.
/// Parameters: those of each part, whose names have its number in front: "experts.0.gate_up", "experts.1.gate_up".
/// \throws kokomo::Error 101 for a count below 1, or counts that do not add up to the experts with weights
template <class... PartPolicies> struct MixedExperts {
  static constexpr std::size_t size = sizeof...(PartPolicies), first_part = 0;
  static_assert(size >= 1 && size <= std::size(detail::part_names), "kokomo::MixedExperts: 1 to 8 kinds of experts");
  static_assert(!(detail::HasParts<PartPolicies>::value || ...),
                "kokomo::MixedExperts: parts of a part stand beside the other parts, where their parameters have names "
                "of their own");
  static_assert(
      !(requires { PartPolicies::reads_activations; } || ...),
      "kokomo::MixedExperts: AutonomousExperts continue from activations that the scorer has for all experts alike");

  std::tuple<PartPolicies...> parts{};
  std::array<index_t, size> count = detail::one_each<size>(); ///< experts with weights of each part, >= 1

  template <class T, class Exec> struct Parameters {
    std::tuple<parameters_t<PartPolicies, T, Exec>...> parts;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, MixedExperts const& policy, Sizes const& sizes)
        : parts(policy.template make_each<decltype(parts)>(allocate, sizes)) {}
    template <class F> void for_each(F&& f, std::string_view prefix) const {
      for_each_index([&]<std::size_t I>() {
        std::get<I>(parts).for_each(
            [&](Name const& name, auto const& view) {
              f(Name{prefix, name.leaf, detail::part_names[I]}, view);
            },
            prefix);
      });
    }
  };
  template <class T, class Exec> struct Saved {
    std::tuple<saved_t<PartPolicies, T, Exec>...> parts;

    Saved(detail::Arena& arena, MixedExperts const& policy, Sizes const& sizes)
        : parts(policy.template make_each<decltype(parts)>(arena, sizes)) {}
  };
  template <class T, class Exec> struct Scratch {
    std::tuple<scratch_t<PartPolicies, T, Exec>...> parts; // in the same memory

    Scratch(detail::Arena& arena, MixedExperts const& policy, Sizes const& sizes)
        : parts(policy.template make_in_turns<decltype(parts)>(arena, sizes)) {}
  };
  template <class T, class Exec> struct BackwardScratch {
    std::tuple<backward_scratch_t<PartPolicies, T, Exec>...> parts; // in the same memory

    BackwardScratch(detail::Arena& arena, MixedExperts const& policy, Sizes const& sizes)
        : parts(policy.template make_in_turns<decltype(parts)>(arena, sizes)) {}
  };
  template <class T, class Exec> struct CombinedBackwardScratch {
    std::tuple<detail::combined_backward_scratch_t<PartPolicies, T, Exec>...> parts; // in the same memory

    CombinedBackwardScratch(detail::Arena& arena, MixedExperts const& policy, Sizes const& sizes)
        : parts(policy.template make_in_turns<decltype(parts)>(arena, sizes)) {}
  };

  void check(Sizes const& sizes) const {
    for (index_t const n : count) detail::require(n >= 1, 101, "MixedExperts count of a part = ", n, ", expected >= 1");
    index_t const all = std::accumulate(count.begin(), count.end(), index_t(0));
    detail::require(all == sizes.weighted, 101, "MixedExperts counts add up to ", all,
                    ", expected shape.experts = ", sizes.weighted);
    for_each_index([&]<std::size_t I>() { detail::check_settings(std::get<I>(parts), sizes_of<I>(sizes)); });
  }
  index_t routed(index_t) const { return first_id<size>(); }

  /// out[r] = expert(x row r), without any weight, part after part.
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
               Matrix<compute_t<T>, Exec> const& out, Saved<T, Exec> const& saved,
               Scratch<T, Exec> const& scratch) const {
    for_each_index([&]<std::size_t I>() {
      std::get<I>(parts).template forward<T>(exec, std::get<I>(parameters.parts), rows_of<I>(in), out,
                                             std::get<I>(saved.parts), std::get<I>(scratch.parts));
    });
  }

  /// The same, each row weighted and added to its token's sum, where all parts do so: in ascending order of experts.
  template <class T, class Exec>
  requires(detail::CombinesRows<PartPolicies, T, Exec>&&...) void forward_combined(
      Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
      detail::CombinedRows<compute_t<T>> out, offset_t width, Saved<T, Exec> const& saved,
      Scratch<T, Exec> const& scratch) const {
    for_each_index([&]<std::size_t I>() {
      std::get<I>(parts).template forward_combined<T>(exec, std::get<I>(parameters.parts), rows_of<I>(in), out, width,
                                                      std::get<I>(saved.parts), std::get<I>(scratch.parts));
      out.write = Write::add;
    });
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
                ExpertRowGradients<T, Exec> const& d, Parameters<T, Exec> const& grads, Write write,
                Saved<T, Exec> const& saved, BackwardScratch<T, Exec> const& scratch) const {
    for_each_index([&]<std::size_t I>() {
      std::get<I>(parts).template backward<T>(exec, std::get<I>(parameters.parts), rows_of<I>(in), d,
                                              std::get<I>(grads.parts), write, std::get<I>(saved.parts),
                                              std::get<I>(scratch.parts));
    });
  }

  /// The same, the rows' gradients summed up by token, where all parts do so.
  template <class T, class Exec>
  requires(detail::CombinesRowGradients<PartPolicies, T, Exec>&&...) void backward_combined(
      Exec const& exec, Parameters<T, Exec> const& parameters, ExpertRows<T, Exec> const& in,
      CombinedRowGradients<T, Exec> d, Parameters<T, Exec> const& grads, Write write, Saved<T, Exec> const& saved,
      CombinedBackwardScratch<T, Exec> const& scratch) const {
    for_each_index([&]<std::size_t I>() {
      std::get<I>(parts).template backward_combined<T>(exec, std::get<I>(parameters.parts), rows_of<I>(in), d,
                                                       std::get<I>(grads.parts), write, std::get<I>(saved.parts),
                                                       std::get<I>(scratch.parts));
      d.dx_write = Write::add;
    });
  }

  /// Which kernels run, in words, part by part.
  template <class T, class Exec>
  requires(detail::DescribesKernels<PartPolicies, T, Exec>&&...) std::string describe()
  const {
    std::string text;
    for_each_index([&]<std::size_t I>() {
      text +=
          (I == 0 ? "part " : "; part ") + std::to_string(I) + ": " + std::get<I>(parts).template describe<T, Exec>();
    });
    return text;
  }

private:
  template <class F> static void for_each_index(F const& f) {
    [&]<std::size_t... I>(std::index_sequence<I...>) {
      (f.template operator()<I>(), ...);
    }
    (std::make_index_sequence<size>{});
  }

  /// Experts of a part that can be chosen.
  template <std::size_t I> index_t routed_of() const { return std::get<I>(parts).routed(count[I]); }
  /// The first expert id of a part; of the part behind the last: how many there are.
  template <std::size_t I> index_t first_id() const {
    index_t first = 0;
    [&]<std::size_t... J>(std::index_sequence<J...>) {
      ((first += routed_of<J>()), ...);
    }
    (std::make_index_sequence<I>{});
    return first;
  }
  template <std::size_t I> Sizes sizes_of(Sizes sizes) const {
    sizes.weighted = count[I];
    sizes.experts = routed_of<I>();
    return sizes;
  }
  template <std::size_t I, class T, class Exec> ExpertRows<T, Exec> rows_of(ExpertRows<T, Exec> in) const {
    in.rows = in.rows.part(first_id<I>(), routed_of<I>());
    return in;
  }

  /// A nested object of each part; a braced list is evaluated from left to right.
  template <class Objects, class First> Objects make_each(First& first, Sizes const& sizes) const {
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return Objects{detail::make<std::tuple_element_t<I, Objects>>(first, std::get<I>(parts), sizes_of<I>(sizes))...};
    }
    (std::make_index_sequence<size>{});
  }
  /// The same where parts take turns: all begin at the same place, and the largest decides where the arena goes on.
  template <class Objects> Objects make_in_turns(detail::Arena& arena, Sizes const& sizes) const {
    detail::Arena const begin = arena;
    auto const one = [&]<std::size_t I>() {
      detail::Arena own = begin;
      auto object = detail::make<std::tuple_element_t<I, Objects>>(own, std::get<I>(parts), sizes_of<I>(sizes));
      if (own.used() > arena.used()) arena = own;
      return object;
    };
    return [&]<std::size_t... I>(std::index_sequence<I...>) {
      return Objects{one.template operator()<I>()...};
    }
    (std::make_index_sequence<size>{});
  }
};

} // namespace kokomo::inline v0

#endif
