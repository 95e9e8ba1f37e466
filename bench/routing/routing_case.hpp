// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_BENCH_ROUTING_ROUTING_CASE_HPP
#define KOKOMO_BENCH_ROUTING_ROUTING_CASE_HPP

#include <support/phases.hpp>
#include <support/random.hpp>
#include <support/shapes.hpp>
#include <support/timing.hpp>

#include <kokomo/layer.hpp>

#include <functional>
#include <string>
#include <vector>

namespace bench {

/// Experts that do nothing: what is left of a layer is its routing.
struct FreeExperts {
  kokomo::index_t routed(kokomo::index_t weighted) const { return weighted; }
  template <class T, class Exec>
  void forward(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
               kokomo::Matrix<kokomo::compute_t<T>, Exec> const&, kokomo::Nothing const&,
               kokomo::Nothing const&) const {}
  template <class T, class Exec>
  void forward_combined(Exec const&, kokomo::Nothing const&, kokomo::ExpertRows<T, Exec> const&,
                        kokomo::detail::CombinedRows<kokomo::compute_t<T>> const&, kokomo::offset_t,
                        kokomo::Nothing const&, kokomo::Nothing const&) const {}
};

/// Milliseconds of a call by part of the routing path.
struct RoutingTimes {
  double scorer = 0, selector = 0, gate = 0, grouping = 0, other = 0;
  Timing whole; ///< of the same calls without a look inside

  double sum() const { return scorer + selector + gate + grouping + other; }
};

/// One router with its gate and balancer on any shape.
struct RoutingCase {
  std::string name;
  long experts; ///< of its own, 0: those of the shape
  long picks;   ///< of a token, 0: those of the shape
  std::function<RoutingTimes(Dimensions const& shape, long tokens, double seconds)> run;
};

template <class Router, class Gate, class Balancer = kokomo::NoBalancer>
using RoutingLayer = kokomo::Layer<Router, Gate, Balancer, FreeExperts, float, Kokkos::DefaultHostExecutionSpace>;

/// Which part of the routing path a kernel belongs to, by its label.
inline double& part_of(RoutingTimes& times, std::string const& label) {
  auto const has = [&](char const* text) { return label.find(text) != std::string::npos; };
  if (has("Scorer")) return times.scorer;
  for (char const* selection : {"TopK::", "TopP::", "Positive::", "ExpertChoice::", "inkhorn",
                                "BipBalancing::", "BalancedAssignment::", "auction::"})
    if (has(selection)) return times.selector;
  if (has("Gate::")) return times.gate;
  if (has("Grouping::")) return times.grouping;
  return times.other;
}

/// Forward in training, where balancers do their work.
/// \param settings settings(shape) gives the policies of the layer
/// \param experts, picks in place of the shape's, if not 0
template <class Layer, class Settings>
RoutingCase routing_case(std::string const& name, Settings const& settings, long experts = 0, long picks = 0) {
  return {
      name, experts, picks, [settings, experts](Dimensions const& shape, long tokens, double seconds) {
        typename Layer::Exec const exec;
        Layer const layer({.tokens = tokens, .hidden = shape.hidden, .experts = experts > 0 ? experts : shape.experts},
                          settings(shape));
        auto const parameters = layer.make_parameters(exec);
        auto const state = layer.make_state(exec);
        auto const plan = layer.plan(exec);
        kokomo::Workspace<typename Layer::Exec> const workspace(exec, plan);
        kokomo::Tape<typename Layer::Exec> tape(exec, plan);
        std::uint32_t seed = 1;
        parameters.for_each(
            [&](auto const&, auto const& view) { fill_uniform(view, seed++, 1 / std::sqrt(double(shape.hidden))); });
        using Matrix = Kokkos::View<float**, Kokkos::LayoutRight, Kokkos::HostSpace>;
        Matrix const x("bench::x", std::size_t(tokens), std::size_t(shape.hidden)), y = Kokkos::create_mirror(x);
        fill_uniform(x, seed, 1);
        typename Layer::Inputs inputs;
        inputs.x = x;
        inputs.mode = kokomo::Mode::training;
        auto const call = [&] {
          layer.forward(exec, parameters, state, inputs, y, workspace, tape);
          exec.fence();
        };
        RoutingTimes times;
        times.whole = time_calls(seconds / 2, 3, call);
        Phases phases;
        auto const calls = time_calls(seconds / 2, 3, call).ms.size() + 1; // it warms up with one
        for (auto const& [label, ms] : phases.ms()) part_of(times, label) += ms / double(calls);
        return times;
      }};
}

// One list a file, so that the compositions compile apart.
std::vector<RoutingCase> top_k_cases();
std::vector<RoutingCase> varying_cases();
std::vector<RoutingCase> balanced_cases();
std::vector<RoutingCase> product_key_cases();

} // namespace bench

#endif
