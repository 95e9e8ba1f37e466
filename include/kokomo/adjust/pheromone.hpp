// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ADJUST_PHEROMONE_HPP
#define KOKOMO_ADJUST_PHEROMONE_HPP

#include <kokomo/argument.hpp>
#include <kokomo/assignment.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>
#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// How much of each class a token is.
template <class C, class Exec> struct ClassShares {
  Vector<index_t const, Exec> id; // [tokens], or none
  Matrix<C const, Exec> weight;   // [tokens, classes], or none
  index_t classes;

  KOKKOS_FUNCTION bool known(offset_t token) const {
    return id.data() == nullptr || (id[token] >= 0 && id[token] < classes);
  }
  KOKKOS_FUNCTION C of(offset_t token, index_t c) const {
    if (id.data() != nullptr) return id[token] == c ? C(1) : C(0);
    return weight(token, c);
  }
};

template <class T, class Exec> struct AddPheromone {
  using C = compute_t<T>;
  Routing<T, Exec> routing;
  ClassShares<C, Exec> shares;
  Matrix<C const, Exec> trail; // [classes, experts]
  C alpha, beta, floor;
  Matrix<C, Exec> logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    bool const known = shares.known(token);
    if (!known && !routing.masked(token)) Kokkos::atomic_inc(&routing.status->invalid_ids);
    for (index_t e = 0; e < routing.sizes.experts; ++e) {
      C sum = 0;
      if (known)
        for (index_t c = 0; c < shares.classes; ++c) sum += shares.of(token, c) * Kokkos::max(trail(c, e), floor);
      logits(token, e) = beta * logits(token, e) + (known ? alpha * Kokkos::log(Kokkos::max(sum, floor)) : C(0));
    }
  }
};

template <class T, class Exec> struct ScaleLogits {
  Routing<T, Exec> routing;
  compute_t<T> factor;
  Matrix<compute_t<T>, Exec> logits;

  KOKKOS_FUNCTION void operator()(offset_t token) const {
    for (index_t e = 0; e < routing.sizes.experts; ++e) logits(token, e) *= factor;
  }
};

/// One trail: it evaporates once, then each accepted token that took this expert leaves its deposit, in token order.
template <class T, class Exec> struct UpdateTrail {
  using C = compute_t<T>;
  Assignment<T, Exec> a;
  ClassShares<C, Exec> shares;
  Vector<index_t const, Exec> accepted;
  Vector<C const, Exec> cost;
  C evaporation, quality, epsilon, floor;
  Matrix<C, Exec> trail;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    auto const experts = static_cast<offset_t>(trail.extent(1));
    auto const c = static_cast<index_t>(i / experts), e = static_cast<index_t>(i % experts);
    bool any = false;
    for (offset_t token = 0; token < a.tokens && !any; ++token) any = accepted[token] != 0;
    if (!any) return;
    C value = (C(1) - evaporation) * Kokkos::max(trail(c, e), floor);
    for (offset_t row = a.expert_offsets[e]; row < a.expert_offsets[e + 1]; ++row) {
      index_t const token = a.token_of_row[row];
      if (accepted[token] != 0 && shares.known(token)) value += shares.of(token, c) * quality / (cost[token] + epsilon);
    }
    trail(c, e) = Kokkos::max(value, floor);
  }
};

} // namespace detail

/// A memory of what worked, by class of token: z' = beta z + alpha log(sum over classes c of w_c tau_ce).
///
/// Trails tau evaporate and are strengthened by `update`, which the caller runs beside serving, for the answers that a
/// judge accepted: tau_c <- (1 - evaporation) tau_c + w_c quality / (cost + epsilon) for the experts that were executed.
/// State: `trail` [classes, experts]; what is below `floor`, as zeros are when it is made, counts as `floor`.
/// Inputs: `class_id` [tokens], or `class_weight` [tokens, classes]. An id outside the classes gets no memory, and is
/// counted in Status::invalid_ids. No gradient passes to the trails.
/// Source: AMRO-S (arXiv 2603.12933); its constants and its sampling rule were not found, see the page.
/// \throws kokomo::Error 101 unless classes >= 1, 106 for numbers outside their range, 203 unless one of the two inputs
///         is given
struct Pheromone {
  using slot = slots::adjust;

  int classes = 1;
  float alpha = 1;          ///< weight of the memory
  float beta = 1;           ///< weight of the logits
  float evaporation = 0.1f; ///< 0 .. 1
  float quality = 1;        ///< Q of a deposit, >= 0
  float epsilon = 1e-3f;    ///< > 0
  float floor = 1e-4f;      ///< > 0: the logarithm stays finite

  template <class T, class Exec> struct State {
    OwnedMatrix<compute_t<T>, Exec> trail;

    State() = default;
    State(Allocator<Exec> const& allocate, Pheromone const& policy, Sizes const& sizes) {
      allocate(trail, "kokomo::Pheromone::trail", policy.classes, sizes.experts);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "trail"}, trail); }
  };
  template <class T, class Exec> struct Inputs {
    VectorArgument<index_t const, Exec> class_id{};          ///< [tokens]
    MatrixArgument<compute_t<T> const, Exec> class_weight{}; ///< [tokens, classes]

    template <class F> void for_each(F&& f) const {
      f(Name{"", "class_id"}, class_id);
      f(Name{"", "class_weight"}, class_weight);
    }
  };

  void check(Sizes const&) const {
    detail::require(classes >= 1, 101, "Pheromone classes = ", classes, ", expected >= 1");
    detail::require(evaporation >= 0 && evaporation <= 1, 106, "Pheromone evaporation = ", evaporation,
                    ", expected 0 to 1");
    detail::require(quality >= 0, 106, "Pheromone quality = ", quality, ", expected >= 0");
    detail::require(epsilon > 0, 106, "Pheromone epsilon = ", epsilon, ", expected > 0");
    detail::require(floor > 0, 106, "Pheromone floor = ", floor, ", expected > 0");
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    (void)shares<T>(inputs, sizes.tokens);
  }

  template <class T, class Exec>
  void adjust(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const& state,
              Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Nothing const&) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::Pheromone::adjust", routing.sizes.tokens,
                     detail::AddPheromone<T, Exec>{routing, shares<T>(inputs, routing.sizes.tokens), state.trail,
                                                   C(alpha), C(beta), C(floor), logits});
  }

  template <class T, class Exec>
  void adjust_backward(Exec const& exec, Nothing const&, Routing<T, Exec> const& routing, State<T, Exec> const&,
                       Inputs<T, Exec> const&, Nothing const&, Matrix<compute_t<T>, Exec> const& d_logits,
                       Nothing const&, Write) const {
    detail::for_each(exec, "kokomo::Pheromone::adjust_backward", routing.sizes.tokens,
                     detail::ScaleLogits<T, Exec>{routing, compute_t<T>(beta), d_logits});
  }

  /// Strengthens the trails of what a forward pass executed.
  /// \param a the Assignment of that pass, of Layer::saved
  /// \param accepted [tokens] 0: the token changes nothing; without any, nothing evaporates either
  /// \param cost [tokens] f in quality / (f + epsilon), >= 0
  /// \throws kokomo::Error 201, 203, 301 as for a layer's inputs
  /// \note asynchronous on exec; allocates nothing, fences nothing
  template <class T, class Exec>
  void update(Exec const& exec, State<T, Exec> const& state, Assignment<T, Exec> const& a,
              Inputs<T, Exec> const& inputs, VectorArgument<index_t const, std::type_identity_t<Exec>> const& accepted,
              VectorArgument<compute_t<T> const, std::type_identity_t<Exec>> const& cost) const {
    using C = compute_t<T>;
    detail::for_each(exec, "kokomo::Pheromone::update", offset_t(state.trail.size()),
                     detail::UpdateTrail<T, Exec>{a, shares<T>(inputs, a.tokens),
                                                  accepted.checked("accepted", {a.tokens}),
                                                  cost.checked("cost", {a.tokens}), C(evaporation), C(quality),
                                                  C(epsilon), C(floor), state.trail});
  }

private:
  template <class T, class Exec>
  detail::ClassShares<compute_t<T>, Exec> shares(Inputs<T, Exec> const& inputs, offset_t tokens) const {
    detail::ClassShares<compute_t<T>, Exec> shares;
    shares.classes = index_t(classes);
    detail::require(inputs.class_id.given() != inputs.class_weight.given(), 203, "inputs.adjust: ",
                    inputs.class_id.given() ? "class_id and class_weight are given" : "class_id is missing",
                    ", expected one of class_id and class_weight");
    if (inputs.class_id.given())
      shares.id = inputs.class_id.checked("inputs.adjust.class_id", {tokens});
    else
      shares.weight = inputs.class_weight.checked("inputs.adjust.class_weight", {tokens, classes});
    return shares;
  }
};

} // namespace kokomo::inline v0

#endif
