// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_BALANCER_RACE_BODY_HPP
#define KOKOMO_EXAMPLES_BALANCER_RACE_BODY_HPP

#include "race.hpp"

#include <kokomo/types.hpp>

using Exec = Kokkos::DefaultExecutionSpace;
using Matrix = Kokkos::View<float**, Kokkos::LayoutRight, Exec::memory_space>;
using Vector = Kokkos::View<float*, Kokkos::LayoutRight, Exec::memory_space>;
using Bytes = Kokkos::View<unsigned char*, Kokkos::LayoutRight, Exec::memory_space>;

/// Everything of the language model but its two MoE layers:
///
///     h0 = sum over j < 8 of embedding_j[byte t - j]
///     h1 = h0 + moe0(rms(h0))
///     c  = h1 + sum over 1 <= j <= 3 of mix_j * h1[t - j]     (within the sequence)
///     h2 = c + moe1(rms(c))
///     logits = rms(h2) head,   loss = mean cross-entropy of the next byte
class Body {
public:
  static constexpr int context = 8, mixed = 3, bytes = 256;

  Body(Exec const& exec, Options const& options);

  // forward, in this order, with the layers between: moe_input -> moe_output
  void embed(Bytes const& text);
  void mix();
  double loss(Bytes const& text, bool with_gradient); ///< nats a byte; waits for it
  // backward: d_moe_output -> d_moe_input, from the last to the first
  void finish_backward(); ///< loss -> layer 1
  void mix_backward();    ///< layer 1 -> layer 0
  void embed_backward(Bytes const& text);

  Matrix moe_input[2], moe_output[2], d_moe_input[2], d_moe_output[2]; ///< [tokens, hidden]
  Matrix embedding, mixing, head, d_embedding, d_mixing, d_head;       ///< parameters and their gradients

private:
  Exec m_exec;
  Options m_options;
  Matrix m_h0, m_h1, m_mixed, m_h2, m_normed, m_logits, m_d_h, m_d_mixed, m_head_of_byte;
  Vector m_losses;
};

/// Adam with the usual constants, over all Views that were added.
class Adam {
public:
  Adam(Exec const& exec, float rate) : m_exec(exec), m_rate(rate) {}

  void add(float* parameter, float const* gradient, std::size_t count);
  void step();

private:
  struct Part {
    float* parameter;
    float const* gradient;
    std::size_t count;
    Vector first, second;
  };
  Exec m_exec;
  float m_rate;
  int m_steps = 0;
  std::vector<Part> m_parts;
};

/// Uniform numbers in [-size, size), the same for the same seed.
void fill(float* data, std::size_t count, float size, std::uint64_t seed);

#endif
