// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/pooled_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>

#include <algorithm>
#include <functional>

using kokomo::index_t;
using kokomo::offset_t;

namespace {

/// Value and gradient of a balancer's loss on logits alone, coefficient one. `to_file` makes of the gradient on these
/// logits the one that the file stores.
template <class Balancer>
void compare_loss(
    Balancer const& balancer, kokomo::OwnedMatrix<float, Exec> const& logits,
    kokomo::OwnedMatrix<index_t, Exec> const& mask, Reference const& reference, std::string const& value,
    std::string const& gradient, Comparison& comparison,
    std::function<Values(Values const&)> const& to_file = [](Values const& d) { return d; }) {
  Exec const exec;
  kokomo::Routing<float, Exec> routing;
  routing.logits = logits;
  if (mask.size() > 0) routing.token_mask = Kokkos::subview(mask, Kokkos::ALL, 0);
  routing.sizes.tokens = offset_t(logits.extent(0));
  routing.sizes.experts = routing.sizes.columns = index_t(logits.extent(1));
  kokomo::detail::check_settings(balancer, routing.sizes);

  using Saved = typename Balancer::template Saved<float, Exec>;
  kokomo::detail::Arena counting;
  (void)Saved(counting, balancer, routing.sizes);
  Kokkos::View<std::byte*, Exec> memory("saved", counting.used());
  kokomo::detail::Arena arena(memory.data());
  Saved const saved(arena, balancer, routing.sizes);

  kokomo::OwnedVector<float, Exec> loss("loss", 1);
  kokomo::OwnedMatrix<float, Exec> d_logits("d_logits", logits.extent(0), logits.extent(1));
  kokomo::Assignment<float, Exec> const nobody;
  balancer.template observe<float>(exec, routing, nobody, kokomo::Nothing{}, saved, loss);
  balancer.template backward<float>(exec, routing, nobody, saved, d_logits);
  exec.fence();
  comparison.output(value, to_doubles(loss), kokomo::io::read<double>(reference.at(value)));
  comparison.gradient(gradient, to_file(to_doubles(d_logits)), kokomo::io::read<double>(reference.at(gradient)));
}

/// Doge: the file has the scores of the keys, [2, tokens, n]; the loss is one on the logits of all their pairs.
void check_pair_loss(Reference const& reference, Comparison& comparison) {
  auto const& tensor = reference.at("router_logits");
  auto const tokens = std::size_t(tensor.shape.at(1)), n = std::size_t(tensor.shape.at(2));
  auto const keys = kokomo::io::read<float>(tensor);
  kokomo::OwnedMatrix<float, Exec> logits("logits", tokens, n * n);
  std::vector<float> sums;
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < n * n; ++e) sums.push_back(keys[t * n + e / n] + keys[(tokens + t) * n + e % n]);
  set(logits, sums);
  auto const of_keys = [=](Values const& d) {
    Values sums(2 * tokens * n);
    for (std::size_t t = 0; t < tokens; ++t)
      for (std::size_t e = 0; e < n * n; ++e) {
        sums[t * n + e / n] += d[t * n * n + e];
        sums[(tokens + t) * n + e % n] += d[t * n * n + e];
      }
    return sums;
  };
  kokomo::LoadBalancingLoss const loss{
      .coefficient = 1, .top_k = reference.config().at("top_k").get<int>(), .divide_by_k = true};
  compare_loss(loss, logits, {}, reference, "aux_loss", "grad.aux.router_logits", comparison, of_keys);
}

} // namespace

void check_losses(Reference const& reference, Comparison& comparison) {
  if (reference.find("aux_loss") == nullptr) return;
  if (reference.family() == "doge") return check_pair_loss(reference, comparison);
  auto const& config = reference.config();
  auto const logits = to_device<float>(reference.at("router_logits"), std::size_t(reference.tokens()),
                                       config.at("num_experts").get<std::size_t>());
  kokomo::LoadBalancingLoss loss{.coefficient = 1, .top_k = config.at("top_k").get<int>()};
  if (reference.family() == "switch_transformers") loss.tokens_per_sequence = config.at("batch_shape").at(1);
  if (reference.family() == "nllb_moe") loss.top_k = 1;
  if (reference.family() == "extra_deepspeed_gating") {
    loss.divide_by_k = true;
    if (config.at("kind") == "top2") loss.top_k = 1;
  }
  compare_loss(loss, logits, {}, reference, "aux_loss", "grad.aux.router_logits", comparison);
  if (reference.find("z_loss") != nullptr)
    compare_loss(kokomo::ZLoss{.coefficient = 1}, logits, {}, reference, "z_loss", "grad.z.router_logits", comparison);
}

void check_pooled_loss(Reference const& reference, Comparison& comparison) {
  auto const& tensor = reference.at("router_logits"); // [layers, tokens, experts]
  auto const layers = std::size_t(tensor.shape.at(0)), tokens = std::size_t(tensor.shape.at(1));
  auto const experts = std::size_t(tensor.shape.at(2));
  auto const logits = kokomo::io::read<float>(tensor);
  kokomo::OwnedVector<index_t, Exec> mask("mask", tokens);
  auto attention = kokomo::io::read<index_t>(reference.at("attention_mask"));
  attention.resize(tokens); // one for all layers
  set(mask, attention);

  using Loss = kokomo::PooledLoss<Exec>;
  using Saved = typename Loss::template Saved<float, Exec>;
  Exec const exec;
  Loss const loss{.coefficient = 1,
                  .top_k = reference.config().at("top_k").get<int>(),
                  .pool = kokomo::LossPool<Exec>(exec, index_t(experts))};
  kokomo::Assignment<float, Exec> const nobody;
  for (std::string const suffix : {"", "_masked"}) {
    std::vector<kokomo::OwnedMatrix<float, Exec>> views;
    std::vector<kokomo::Routing<float, Exec>> routings;
    std::vector<Kokkos::View<std::byte*, Exec>> memory;
    std::vector<Saved> saved;
    for (std::size_t l = 0; l < layers; ++l) {
      auto const view = kokomo::OwnedMatrix<float, Exec>("logits", tokens, experts);
      auto const begin = logits.begin() + std::ptrdiff_t(l * tokens * experts);
      set(view, std::vector<float>(begin, begin + std::ptrdiff_t(tokens * experts)));
      kokomo::Routing<float, Exec> routing;
      routing.logits = view;
      if (!suffix.empty()) routing.token_mask = mask;
      routing.sizes.tokens = offset_t(tokens);
      routing.sizes.experts = routing.sizes.columns = index_t(experts);
      kokomo::detail::Arena counting;
      (void)Saved(counting, loss, routing.sizes);
      memory.emplace_back("saved", counting.used());
      kokomo::detail::Arena arena(memory.back().data());
      saved.emplace_back(arena, loss, routing.sizes);
      views.push_back(view), routings.push_back(routing);
    }

    kokomo::OwnedVector<float, Exec> of_layer("loss", 1), value("value", 1);
    loss.pool.reset(exec);
    for (std::size_t l = 0; l < layers; ++l)
      loss.observe<float>(exec, routings[l], nobody, kokomo::Nothing{}, saved[l], of_layer);
    loss.value(exec, value);
    Values gradient;
    for (std::size_t l = 0; l < layers; ++l) {
      kokomo::OwnedMatrix<float, Exec> d_logits("d_logits", tokens, experts);
      loss.backward<float>(exec, routings[l], nobody, saved[l], d_logits);
      exec.fence();
      auto const d = to_doubles(d_logits);
      gradient.insert(gradient.end(), d.begin(), d.end());
    }
    comparison.output("aux_loss" + suffix, to_doubles(value),
                      kokomo::io::read<double>(reference.at("aux_loss" + suffix)));
    std::string const name = "grad.aux.router_logits" + suffix;
    comparison.gradient(name, gradient, kokomo::io::read<double>(reference.at(name)));
  }
}
