// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_SCORER_FIXTURE_HPP
#define KOKOMO_TESTS_SUPPORT_SCORER_FIXTURE_HPP

#include <support/views.hpp>

#include <kokomo/check.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/product.hpp>

#include <map>
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
    x = OwnedMatrix<T, Exec>("x", tokens, width);
    dx = OwnedMatrix<C, Exec>("dx", tokens, width);
    logits = OwnedMatrix<C, Exec>("logits", tokens, sizes.columns);
    exec.fence();
    fill(x);
    parameters.for_each([&](Name const&, auto const& view) { fill(view); }, "");
    m_scratch = memory(std::size_t(detail::product_scratch_bytes<C, Exec>()) * std::size_t(sizes.workers));
    lay_out<saved_t<Scorer, T, Exec>>(m_saved);
    lay_out<scratch_t<Scorer, T, Exec>>(m_forward);
    lay_out<backward_scratch_t<Scorer, T, Exec>>(m_backward);
  }

  template <class V> void fill(V const& view) {
    std::uniform_real_distribution<double> uniform(-1, 1);
    std::vector<typename V::value_type> values(view.size());
    for (auto& value : values) value = typename V::value_type(C(uniform(engine)));
    to_device(values, view);
  }

  saved_t<Scorer, T, Exec> saved() const { return made<saved_t<Scorer, T, Exec>>(m_saved); }

  Rows forward() {
    poison_view(logits);
    scorer.template forward<T>(exec, parameters, Matrix<T const, Exec>(x), inputs, Matrix<C, Exec>(logits), saved(),
                               made<scratch_t<Scorer, T, Exec>>(m_forward), workers());
    exec.fence();
    return in_rows(in_double(to_host(logits)), std::size_t(sizes.tokens));
  }

  /// d_logits to gradients; dx starts from zero.
  void backward(Row const& d, Write write = Write::overwrite) {
    OwnedMatrix<C, Exec> d_logits("d_logits", logits.extent(0), logits.extent(1));
    to_device(std::vector<C>(d.begin(), d.end()), d_logits);
    Kokkos::deep_copy(dx, C(0));
    if (write == Write::overwrite) gradients.for_each([](Name const&, auto const& view) { poison_view(view); }, "");
    scorer.template backward<T>(exec, parameters, Matrix<T const, Exec>(x), inputs, Matrix<C const, Exec>(logits),
                                Matrix<C, Exec>(d_logits), Matrix<C, Exec>(dx), d_inputs, gradients, write, saved(),
                                made<backward_scratch_t<Scorer, T, Exec>>(m_backward), workers());
    exec.fence();
  }

private:
  using Bytes = Kokkos::View<std::byte*, typename Exec::memory_space>;

  static Bytes memory(std::size_t bytes) {
    Bytes const block("memory", bytes + detail::Arena::alignment);
    Kokkos::deep_copy(block, std::byte(0xff));
    return block;
  }
  static std::byte* aligned(Bytes const& block) {
    auto const address = reinterpret_cast<std::uintptr_t>(block.data());
    return block.data() + (detail::Arena::alignment - address % detail::Arena::alignment) % detail::Arena::alignment;
  }
  template <class Object> void lay_out(Bytes& block) {
    detail::Arena counted;
    (void)detail::make<Object>(counted, scorer, sizes);
    block = memory(counted.used());
  }
  template <class Object> Object made(Bytes const& block) const {
    detail::Arena arena(aligned(block));
    return detail::make<Object>(arena, scorer, sizes);
  }
  detail::WorkerScratch workers() const {
    return {aligned(m_scratch), detail::product_scratch_bytes<C, Exec>(), sizes.workers};
  }

  Bytes m_scratch, m_saved, m_forward, m_backward;
};

/// Compares backward with central differences of sum(c * logits) for fixed c, for every parameter, x and further inputs
/// that `visit` names (f(value view, gradient view)), and Write::add with Write::overwrite.
///
/// A step of 1e-5 is off by 1e-10 times the third derivative, and by rounding 1e-11 of the objective: 1e-7 of the norm
/// is left for both.
template <class F, class Visit> void check_scorer_gradients(F& f, Visit const& visit) {
  f.forward();
  Row c(f.logits.size());
  std::uniform_real_distribution<double> uniform(-1, 1);
  for (double& value : c) value = uniform(f.engine);
  f.backward(c);
  auto const objective = [&] {
    Row const z = flat(f.forward());
    double sum = 0;
    for (std::size_t i = 0; i < z.size(); ++i) sum += c[i] * z[i];
    return sum;
  };
  auto const check = [&](std::string const& name, auto const& view, auto const& gradient) {
    INFO(name);
    Row const got = in_double(to_host(gradient));
    auto values = to_host(view);
    Row differences;
    for (auto& value : values) {
      auto const original = value;
      double at[2];
      for (int side = 0; side < 2; ++side) {
        value = original + (side == 0 ? 1e-5 : -1e-5);
        to_device(values, view);
        at[side] = objective();
      }
      value = original;
      differences.push_back((at[0] - at[1]) / 2e-5);
    }
    to_device(values, view);
    CHECK(distance(got, differences) <= 1e-7 * (1 + norm(differences)));
  };
  std::map<std::string, Row> once;
  auto const each = [&](auto const& g) {
    f.gradients.for_each([&](Name const& name, auto const& gradient) { g(std::string(name), gradient); }, "");
  };
  each([&](std::string const& name, auto const& gradient) {
    once[name] = in_double(to_host(gradient));
    f.parameters.for_each(
        [&](Name const& other, auto const& view) {
          if constexpr (std::is_same_v<decltype(view), decltype(gradient)>)
            if (std::string(other) == name) check(name, view, gradient);
        },
        "");
  });
  check("x", f.x, f.dx);
  visit([&](auto const& view, auto const& gradient) { check("input", view, gradient); });

  f.forward(); // the scorer's saved values belong to the unchanged parameters again
  f.backward(c, Write::add);
  each([&](std::string const& name, auto const& gradient) {
    Row twice = once.at(name);
    for (double& value : twice) value *= 2;
    INFO("add: " << name);
    CHECK(relative_error(in_double(to_host(gradient)), twice) < 1e-13);
  });
}
template <class F> void check_scorer_gradients(F& f) {
  check_scorer_gradients(f, [](auto const&) {});
}

} // namespace kokomo::test

#endif
