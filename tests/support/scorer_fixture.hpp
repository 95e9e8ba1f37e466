// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SCORER_FIXTURE_HPP
#define KOKOMO_TESTS_SUPPORT_SCORER_FIXTURE_HPP

#include <support/compiled.hpp>
#include <support/views.hpp>

#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/product.hpp>

#include <functional>
#include <random>
#include <string>

namespace kokomo::test {

/// A scorer with parameters and an input from a seed, run without a layer. Memory that it lays out is poisoned: what is
/// read without having been written shows. `columns` are the layer's where the scorer does not say.
template <class Scorer, class TypeT = double> struct ScorerFixture {
  using T = TypeT;
  using C = compute_t<T>;

  Exec exec;
  Scorer scorer;
  Sizes sizes;
  parameters_t<Scorer, T, Exec> parameters, gradients;
  state_t<Scorer, T, Exec> state;        ///< of a scorer that keeps one, which also sees the mask
  OwnedVector<index_t, Exec> token_mask; ///< [tokens], if allocated
  inputs_t<Scorer, T, Exec> inputs;
  detail::input_gradients_t<Scorer, T, Exec> d_inputs;
  OwnedMatrix<T, Exec> x;
  OwnedMatrix<C, Exec> logits, dx;
  std::mt19937 engine;

  ScorerFixture(Scorer const& policy, offset_t tokens, offset_t width, index_t experts, unsigned seed = 1)
      : scorer(policy), engine(seed) {
    sizes.tokens = tokens, sizes.hidden = sizes.router_width = width;
    sizes.experts = sizes.weighted = sizes.columns = experts;
    if constexpr (detail::CountsColumns<Scorer>) sizes.columns = scorer.columns(sizes);
    sizes.workers = detail::product_workers(exec);
    detail::check_settings(scorer, sizes);
    Allocator<Exec> const allocate(exec);
    parameters = detail::make<decltype(parameters)>(allocate, scorer, sizes);
    gradients = detail::make<decltype(gradients)>(allocate, scorer, sizes);
    state = detail::make<decltype(state)>(allocate, scorer, sizes);
    x = OwnedMatrix<T, Exec>("x", tokens, width);
    dx = OwnedMatrix<C, Exec>("dx", tokens, width);
    logits = OwnedMatrix<C, Exec>("logits", tokens, sizes.columns);
    exec.fence();
    fill(x);
    for (auto const& [name, tensor] : policy_tensors(parameters)) fill_uniform(tensor, engine);
    m_scratch = m_memory.allocate(std::size_t(detail::product_scratch_bytes<C, Exec>()) * std::size_t(sizes.workers));
    lay_out<saved_t<Scorer, T, Exec>>(m_saved);
    lay_out<scratch_t<Scorer, T, Exec>>(m_forward);
    lay_out<backward_scratch_t<Scorer, T, Exec>>(m_backward);
  }

  template <class V> void fill(V const& view) { fill_uniform(tensor(view), engine); }

  saved_t<Scorer, T, Exec> saved() const { return made<saved_t<Scorer, T, Exec>>(m_saved); }

  Rows forward() {
    poison_view(logits);
    with_state([&](auto const&... state_and_mask) {
      scorer.template forward<T>(exec, parameters, state_and_mask..., Matrix<T const, Exec>(x), inputs,
                                 Matrix<C, Exec>(logits), saved(), made<scratch_t<Scorer, T, Exec>>(m_forward),
                                 workers());
    });
    exec.fence();
    return in_rows(tensor(logits).read(), std::size_t(sizes.tokens));
  }

  /// d_logits to gradients; dx starts from zero.
  void backward(Row const& d, Write write = Write::overwrite) {
    OwnedMatrix<C, Exec> d_logits("d_logits", logits.extent(0), logits.extent(1));
    to_device(d, d_logits);
    tensor(dx).write(Row(dx.size()));
    if (write == Write::overwrite)
      for (auto const& [name, tensor] : policy_tensors(gradients)) poison_tensor(tensor);
    with_state([&](auto const&... state_and_mask) {
      scorer.template backward<T>(exec, parameters, state_and_mask..., Matrix<T const, Exec>(x), inputs,
                                  Matrix<C const, Exec>(logits), Matrix<C, Exec>(d_logits), Matrix<C, Exec>(dx),
                                  d_inputs, gradients, write, saved(),
                                  made<backward_scratch_t<Scorer, T, Exec>>(m_backward), workers());
    });
    exec.fence();
  }

private:
  template <class F> void with_state(F const& f) const {
    if constexpr (detail::keeps_state_v<Scorer, T, Exec>)
      f(state, Vector<index_t const, Exec>(token_mask));
    else
      f();
  }
  template <class Object> void lay_out(std::byte*& block) {
    detail::Arena counted;
    (void)detail::make<Object>(counted, scorer, sizes);
    block = m_memory.allocate(counted.used());
  }
  template <class Object> Object made(std::byte* block) const {
    detail::Arena arena(block);
    return detail::make<Object>(arena, scorer, sizes);
  }
  detail::WorkerScratch workers() const { return {m_scratch, detail::product_scratch_bytes<C, Exec>(), sizes.workers}; }

  PoisonedMemory m_memory;
  std::byte *m_scratch = nullptr, *m_saved = nullptr, *m_forward = nullptr, *m_backward = nullptr;
};

/// What check_scorer_gradients works on, compiled once.
struct ScorerGradients {
  std::function<Rows()> forward;
  std::function<void(Row const& d_logits, Write write)> backward;
  Tensors parameters, gradients;                 ///< in the same order
  std::vector<std::pair<Tensor, Tensor>> inputs; ///< and their gradients
  std::size_t logits = 0;
  std::mt19937* engine = nullptr;
};

/// Compares backward with central differences of sum(c * logits) for fixed c, for every parameter, x and further inputs
/// that `visit` names (f(value view, gradient view)), and Write::add with Write::overwrite.
///
/// A step of 1e-5 is off by 1e-10 times the third derivative, and by rounding 1e-11 of the objective: 1e-7 of the norm
/// is left for both.
void check_scorer_gradients(ScorerGradients const& scorer);
template <class F, class Visit> void check_scorer_gradients(F& f, Visit const& visit) {
  ScorerGradients scorer;
  scorer.forward = [&f] { return f.forward(); };
  scorer.backward = [&f](Row const& d, Write write) { f.backward(d, write); };
  scorer.parameters = policy_tensors(f.parameters), scorer.gradients = policy_tensors(f.gradients);
  scorer.inputs = {{tensor(f.x), tensor(f.dx)}};
  visit([&](auto const& view, auto const& gradient) { scorer.inputs.emplace_back(tensor(view), tensor(gradient)); });
  scorer.logits = f.logits.size();
  scorer.engine = &f.engine;
  check_scorer_gradients(scorer);
}
template <class F> void check_scorer_gradients(F& f) {
  check_scorer_gradients(f, [](auto const&) {});
}

} // namespace kokomo::test

#endif
