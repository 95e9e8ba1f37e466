// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "check.hpp"

#include <kokomo/balancer/load_balancing_loss.hpp>
#include <kokomo/balancer/z_loss.hpp>

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
  auto const host = Kokkos::create_mirror_view(logits);
  for (std::size_t t = 0; t < tokens; ++t)
    for (std::size_t e = 0; e < n * n; ++e) host(t, e) = keys[t * n + e / n] + keys[(tokens + t) * n + e % n];
  Kokkos::deep_copy(logits, host);
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
  auto const& tensor = reference.at("router_logits"); // [layers, tokens, experts]: pooled, one batch of all rows
  auto const layers = std::size_t(tensor.shape.at(0)), tokens = std::size_t(tensor.shape.at(1));
  auto const logits = to_device<float>(tensor, layers * tokens, std::size_t(tensor.shape.at(2)));
  auto const attention = kokomo::io::read<index_t>(reference.at("attention_mask"));
  kokomo::OwnedMatrix<index_t, Exec> mask("mask", layers * tokens, 1);
  auto const host = Kokkos::create_mirror_view(mask);
  for (std::size_t row = 0; row < layers * tokens; ++row) host(row, 0) = attention[row % tokens];
  Kokkos::deep_copy(mask, host);
  kokomo::LoadBalancingLoss const loss{.coefficient = 1, .top_k = reference.config().at("top_k").get<int>()};
  compare_loss(loss, logits, {}, reference, "aux_loss", "grad.aux.router_logits", comparison);
  compare_loss(loss, logits, mask, reference, "aux_loss_masked", "grad.aux.router_logits_masked", comparison);
}
