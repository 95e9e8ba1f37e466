// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "train.hpp"

#include <Kokkos_Timer.hpp>

#include <random>

namespace {

/// The batches that every contestant sees: random places of the text, [sequences, length + 1].
Bytes batch_of(std::vector<unsigned char> const& text, Options const& options, std::uint64_t seed) {
  std::mt19937_64 engine(seed);
  auto const length = std::size_t(options.length) + 1;
  Bytes const batch("batch", std::size_t(options.sequences) * length);
  auto const host = Kokkos::create_mirror_view(batch);
  for (std::size_t s = 0; s < std::size_t(options.sequences); ++s) {
    std::size_t const begin = engine() % (text.size() - length);
    std::copy_n(text.begin() + long(begin), length, host.data() + s * length);
  }
  Kokkos::deep_copy(batch, host);
  return batch;
}

} // namespace

Result train(std::string const& name, MoeLayers& layers, Text const& text, Options const& options,
             Report const& report) {
  Exec const exec;
  Body body(exec, options);
  Adam adam(exec, options.rate);
  for (std::size_t l = 0; l < 2; ++l) {
    std::uint64_t seed = options.seed + 10 + 100 * l;
    for (auto const& [parameter, gradient, count, fan_in] : layers.weights(l)) {
      fill(parameter, count, 1 / std::sqrt(fan_in), seed++);
      adam.add(parameter, gradient, count);
    }
  }
  adam.add(body.embedding.data(), body.d_embedding.data(), body.embedding.size());
  adam.add(body.mixing.data(), body.d_mixing.data(), body.mixing.size());
  adam.add(body.head.data(), body.d_head.data(), body.head.size());

  auto const loss_of = [&](Bytes const& batch, kokomo::Mode mode, int step) {
    body.embed(batch);
    layers.forward(0, body.moe_input[0], body.moe_output[0], mode, step);
    body.mix();
    layers.forward(1, body.moe_input[1], body.moe_output[1], mode, step);
    return body.loss(batch, mode == kokomo::Mode::training);
  };

  Result result;
  result.name = name;
  std::vector<double> seconds;
  for (int step = 0; step < options.steps; ++step) {
    auto const batch = batch_of(text.train, options, options.seed * 1000003 + std::uint64_t(step));
    Kokkos::Timer const timer;
    result.loss.push_back(loss_of(batch, kokomo::Mode::training, step));
    body.finish_backward();
    layers.backward(1, body.moe_input[1], body.d_moe_output[1], body.d_moe_input[1]);
    body.mix_backward();
    layers.backward(0, body.moe_input[0], body.d_moe_output[0], body.d_moe_input[0]);
    body.embed_backward(batch);
    adam.step();
    layers.step();
    exec.fence("balancer_race: a step");
    seconds.push_back(timer.seconds());
    for (std::size_t l = 0; l < 2; ++l) result.history.add(std::uint64_t(step), l, layers.loads(l));
    report(step, result.loss.back());
  }
  int const checks = 8;
  for (int i = 0; i < checks; ++i)
    result.held_out +=
        loss_of(batch_of(text.held_out, options, options.seed + std::uint64_t(i)), kokomo::Mode::inference, 0) / checks;
  std::sort(seconds.begin(), seconds.end());
  result.seconds = seconds[seconds.size() / 2];
  return result;
}
