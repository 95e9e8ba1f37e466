// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_BALANCER_RACE_TRAIN_HPP
#define KOKOMO_EXAMPLES_BALANCER_RACE_TRAIN_HPP

#include "body.hpp"

#include <kokomo/layer.hpp>

#include <Kokkos_Timer.hpp>

#include <random>

/// The batches that every contestant sees: random places of the text, [sequences, length + 1].
inline Bytes batch_of(std::vector<unsigned char> const& text, Options const& options, std::uint64_t seed) {
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

/// Trains the language model with two layers of this type, from the seed of the options.
template <class Layer>
Result train(std::string const& name, typename Layer::Policies policies, Text const& text, Options const& options,
             Report const& report) {
  policies.experts.intermediate = options.intermediate;
  Exec const exec;
  Layer const layer({.tokens = options.tokens(), .hidden = options.hidden, .experts = options.experts}, policies);
  Body body(exec, options);
  Adam adam(exec, options.rate);
  auto const plan = layer.plan(exec);
  kokomo::Workspace<Exec> const workspace(exec, plan);
  typename Layer::Parameters parameters[2], gradients[2];
  typename Layer::State state[2];
  kokomo::Tape<Exec> tape[2];
  for (int l = 0; l < 2; ++l) {
    parameters[l] = layer.make_parameters(exec), gradients[l] = layer.make_parameters(exec);
    state[l] = layer.make_state(exec);
    tape[l] = kokomo::Tape<Exec>(exec, plan);
    std::vector<float const*> gradient;
    gradients[l].for_each([&](std::string const&, auto const& view) { gradient.push_back(view.data()); });
    std::size_t i = 0;
    parameters[l].for_each([&](std::string const&, auto const& view) {
      auto const fan_in = float(view.extent(view.rank() - 1)); // weights are [..., out, in]
      fill(view.data(), view.size(), 1 / std::sqrt(fan_in), options.seed + 10 + 100 * std::uint64_t(l) + i);
      adam.add(view.data(), gradient[i++], view.size());
    });
  }
  adam.add(body.embedding.data(), body.d_embedding.data(), body.embedding.size());
  adam.add(body.mixing.data(), body.d_mixing.data(), body.mixing.size());
  adam.add(body.head.data(), body.d_head.data(), body.head.size());

  auto const forward = [&](int l, kokomo::Mode mode, int step) {
    typename Layer::Inputs inputs;
    inputs.x = body.moe_input[l];
    inputs.mode = mode;
    inputs.step = std::uint64_t(step);
    layer.forward(exec, parameters[l], state[l], inputs, body.moe_output[l], workspace, tape[l]);
  };
  auto const backward = [&](int l) {
    layer.backward(exec, parameters[l], state[l], body.moe_input[l], body.d_moe_output[l], body.d_moe_input[l],
                   gradients[l], workspace, tape[l]);
  };
  auto const loss_of = [&](Bytes const& batch, kokomo::Mode mode, int step) {
    body.embed(batch);
    forward(0, mode, step);
    body.mix();
    forward(1, mode, step);
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
    backward(1);
    body.mix_backward();
    backward(0);
    body.embed_backward(batch);
    adam.step();
    for (int l = 0; l < 2; ++l) layer.step(exec, state[l]);
    exec.fence("balancer_race: a step");
    seconds.push_back(timer.seconds());
    for (std::size_t l = 0; l < 2; ++l)
      result.history.add(std::uint64_t(step), l, kokomo::stats::loads(exec, layer, tape[l]));
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

#endif
