// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BALANCER_PRESERVE_LOSS_HPP
#define KOKOMO_BALANCER_PRESERVE_LOSS_HPP

#include <kokomo/concepts.hpp>
#include <kokomo/detail/balance_counts.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Elements of one View of the experts' parameters, those of preserved experts.
template <class V, class Exec> struct PreservedView {
  using C = compute_t<V>;
  V const *now, *then;
  offset_t size, per_expert;
  Vector<index_t const, Exec> preserved; // [experts], null: all

  KOKKOS_FUNCTION C difference(offset_t i) const {
    if (preserved.data() != nullptr && preserved[i / per_expert] == 0) return 0;
    return C(now[i]) - C(then[i]);
  }
};

template <class V, class Exec> struct PreserveTerm {
  static constexpr offset_t block = 1024; // elements that one thread sums, in order
  using C = compute_t<V>;
  PreservedView<V, Exec> view;
  C* term; // [blocks]

  KOKKOS_FUNCTION void operator()(offset_t b) const {
    C sum = 0;
    for (offset_t i = b * block; i < Kokkos::min(view.size, (b + 1) * block); ++i) {
      C const d = view.difference(i);
      sum += d * d;
    }
    term[b] = sum;
  }
};

template <class V, class Exec> struct PreserveGradient {
  using C = compute_t<V>;
  PreservedView<V, Exec> view;
  C factor;
  V* grad;

  KOKKOS_FUNCTION void operator()(offset_t i) const { grad[i] = V(C(grad[i]) + factor * view.difference(i)); }
};

} // namespace detail

/// Holds experts near what they were:
///
///     loss = coefficient * sum over preserved experts of || theta_e - theta_e(0) ||^2
///
/// `anchor` holds theta(0), the caller's: parameters of the same experts (Layer::make_parameters().experts) that were copied
/// before training began; `preserved` [experts] says with 0 which ones may go where they like, not allocated: none may.
/// It looks at parameters alone, at no token. Source: LoRA-Mixer, from notes on the paper
/// (docs/policies/balancer/preserve_loss.md).
/// \tparam Anchor parameters_t<Experts, T, Exec> of the layer's routed experts
/// \throws kokomo::Error 106 for a negative coefficient, 107 for an anchor of other extents
template <class Anchor, class Exec = Kokkos::DefaultExecutionSpace> struct PreserveLoss {
  float coefficient = 0; ///< >= 0
  Anchor anchor{};
  OwnedVector<index_t, Exec> preserved{};

  template <class T, class E> struct Saved {
    Matrix<compute_t<T>, E> term; ///< [blocks, 1]

    Saved(detail::Arena& arena, PreserveLoss const& policy, Sizes const&)
        : term(arena.matrix<compute_t<T>, E>(policy.blocks(), 1)) {}
  };

  void check(Sizes const& sizes) const {
    detail::require(coefficient >= 0, 106, "PreserveLoss coefficient = ", coefficient, ", expected >= 0");
    auto const given = offset_t(preserved.extent(0));
    detail::require(given == 0 || given == sizes.weighted, 107, "PreserveLoss preserved has ", given,
                    " elements, expected one for each of ", sizes.weighted, " experts with weights");
  }

  template <class T, class E, class Parameters>
  void observe_parameters(E const& exec, Parameters const& parameters, Routing<T, E> const&, Saved<T, E> const& saved,
                          Vector<compute_t<T>, E> const& loss) const {
    using C = compute_t<T>;
    C* term = saved.term.data();
    for_each_pair(parameters.experts, anchor, [&]<class V>(V const& now, V const& then) {
      using Element = typename V::non_const_value_type;
      offset_t const n = blocks_of<Element>(offset_t(now.size()));
      detail::for_each(exec, "kokomo::PreserveLoss::term", n,
                       detail::PreserveTerm<Element, E>{of<Element>(now, then), term});
      term += n;
    });
    detail::for_each(exec, "kokomo::PreserveLoss::add", 1, detail::AddLoss<C, E>{saved.term, C(coefficient), loss});
  }

  template <class T, class E, class Parameters>
  void backward_parameters(E const& exec, Parameters const& parameters, Routing<T, E> const&, Saved<T, E> const&,
                           Parameters const& grads) const {
    for_each_pair(parameters.experts, anchor, [&]<class V>(V const& now, V const& then) {
      using Element = typename V::non_const_value_type;
      for_each_pair(parameters.experts, grads.experts, [&]<class G>(G const& value, G const& grad) {
        if constexpr (std::is_same_v<G, V>)
          if (value.data() == now.data())
            detail::for_each(exec, "kokomo::PreserveLoss::backward", offset_t(now.size()),
                             detail::PreserveGradient<Element, E>{of<Element>(now, then),
                                                                  compute_t<Element>(2 * coefficient), grad.data()});
      });
    });
  }

private:
  template <class Element> static offset_t blocks_of(offset_t size) {
    constexpr offset_t block = detail::PreserveTerm<Element, Exec>::block;
    return (size + block - 1) / block;
  }
  offset_t blocks() const {
    offset_t count = 0;
    anchor.for_each(
        [&](auto const&, auto const& view) {
          count += blocks_of<typename std::remove_cvref_t<decltype(view)>::non_const_value_type>(offset_t(view.size()));
        },
        "");
    return count;
  }
  template <class Element, class V> detail::PreservedView<Element, Exec> of(V const& now, V const& then) const {
    Vector<index_t const, Exec> chosen;
    if (preserved.extent(0) > 0) chosen = preserved;
    return {now.data(), then.data(), offset_t(now.size()), offset_t(now.size()) / offset_t(now.extent(0)), chosen};
  }
  /// f(a view of the first, the same of the second), without empty ones.
  /// \throws kokomo::Error 107 if they differ in extents
  template <class F> static void for_each_pair(Anchor const& first, Anchor const& second, F const& f) {
    int at = 0;
    first.for_each(
        [&](auto const& name, auto const& a) {
          int here = 0;
          second.for_each(
              [&](auto const&, auto const& b) {
                if constexpr (std::is_same_v<decltype(a), decltype(b)>) {
                  if (here == at) {
                    detail::require(a.size() == b.size(), 107, "PreserveLoss anchor ", std::string(name), " has ",
                                    b.size(), " elements, expected ", a.size());
                    if (a.size() > 0) f(a, b);
                  }
                }
                ++here;
              },
              "");
          ++at;
        },
        "");
  }
};

} // namespace kokomo::inline v0

#endif
