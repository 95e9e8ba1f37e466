// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// A router that learns from losses alone. All chosen experts weigh the same, as in ReMix, so that no gradient of a weight
// tells the router which of them was right: several draws of its choices for the same tokens do, each against the mean
// of the others (kokomo::ScoreFunction, kokomo::leave_one_out).
//
// Tokens come in four kinds. The right answer for a kind is what two certain experts of six return; the experts are given
// and stay as they are. Prints how the loss and the share of rightly routed tokens go, for several numbers of draws.
// Exit status: 0 if the router of the most draws finds the experts, 1 if it does not.
#include <kokomo/gate/constant.hpp>
#include <kokomo/layer.hpp>
#include <kokomo/router/gumbel_top_k.hpp>
#include <kokomo/transform/reinforce.hpp>

#include <algorithm>
#include <cstdio>
#include <random>
#include <set>
#include <vector>

namespace {

using Exec = Kokkos::DefaultExecutionSpace;
using Layer = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::GumbelTopK>, kokomo::ConstantGate,
                            kokomo::ScoreFunction<Exec>, kokomo::SwiGluExperts, float, Exec>;
using Matrix = kokomo::OwnedMatrix<float, Exec>;

constexpr int tokens = 64, hidden = 8, experts = 6, kinds = 4, k = 2;
int kind_of(int token) {
  return token % kinds;
}
/// The experts of a kind.
std::set<kokomo::index_t> right(int kind) {
  return {kind, kind + 2};
}

template <class View> std::vector<typename View::non_const_value_type> to_host(View const& view) {
  auto const copy = Kokkos::create_mirror_view_and_copy(Kokkos::HostSpace{}, view);
  return {copy.data(), copy.data() + copy.size()};
}
template <class View> void to_device(std::vector<typename View::value_type> const& values, View const& view) {
  auto const copy = Kokkos::create_mirror_view(view);
  std::copy(values.begin(), values.end(), copy.data());
  Kokkos::deep_copy(view, copy);
}

class Lesson {
public:
  explicit Lesson(int draws)
      : m_advantage("advantage", tokens),
        m_layer({.tokens = tokens, .hidden = hidden, .experts = experts}, {.router = {.selector = {.k = k}},
                                                                           .gate = kokomo::remix_gate(k, /*rank*/ 1),
                                                                           .balancer = {m_advantage},
                                                                           .experts = {.intermediate = 16}}),
        m_parameters(m_layer.make_parameters(m_exec)), m_gradients(m_layer.make_parameters(m_exec)),
        m_state(m_layer.make_state(m_exec)), m_workspace(m_exec, m_layer.plan(m_exec)), m_x("x", tokens, hidden),
        m_y("y", tokens, hidden), m_dy("dy", tokens, hidden), m_dx("dx", tokens, hidden) {
    for (int m = 0; m < draws; ++m) m_tapes.emplace_back(m_exec, m_layer.plan(m_exec));
    m_exec.fence();
    std::mt19937 engine(1);
    std::normal_distribution<float> normal;
    m_parameters.for_each([&](std::string const&, auto const& view) {
      std::vector<float> values(view.size());
      for (float& value : values) value = normal(engine);
      to_device(values, view);
    });
    std::vector<float> x(tokens * hidden);
    for (int t = 0; t < tokens; ++t)
      for (int h = 0; h < hidden; ++h)
        x[std::size_t(t * hidden + h)] = (h == kind_of(t) ? 2.0f : 0.0f) + 0.1f * normal(engine);
    to_device(x, m_x);
    m_inputs.x = m_x;

    // A router that knows gives the answers; then it forgets.
    std::vector<float> knows(experts * hidden, 0.0f);
    for (int kind = 0; kind < kinds; ++kind)
      for (auto const e : right(kind)) knows[std::size_t(e * hidden + kind)] = 10;
    to_device(knows, m_parameters.router.weight);
    forward(m_tapes[0], kokomo::Mode::inference, 0);
    m_answers = to_host(m_y);
    for (float const answer : m_answers) m_size += double(answer) * answer / tokens;
    to_device(std::vector<float>(experts * hidden, 0.0f), m_parameters.router.weight);
  }

  /// One step of gradient descent on the router's weight.
  /// \return the mean loss of the draws
  double step(std::uint64_t step, float rate) {
    std::size_t const draws = m_tapes.size();
    std::vector<std::vector<double>> losses; // of each token: its choice is the only one that its loss depends on
    for (std::size_t m = 0; m < draws; ++m) {
      forward(m_tapes[m], kokomo::Mode::training, step * draws + m);
      losses.push_back(token_losses());
    }
    std::vector<std::vector<double>> advantages(draws, std::vector<double>(tokens));
    double mean = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      std::vector<double> of_token;
      for (auto const& loss : losses) of_token.push_back(loss[t]), mean += loss[t] / double(tokens * draws);
      auto const advantage = kokomo::leave_one_out(of_token);
      for (std::size_t m = 0; m < draws; ++m) advantages[m][t] = advantage[m];
    }
    for (std::size_t m = 0; m < draws; ++m) {
      to_device(advantages[m], m_advantage);
      Layer::InputGradients d_inputs;
      d_inputs.x = m_dx;
      // dy is zero: the experts do not learn
      m_layer.backward(m_exec, m_parameters, m_state, m_inputs, m_dy, d_inputs, m_gradients, m_workspace, m_tapes[m],
                       m == 0 ? kokomo::Write::overwrite : kokomo::Write::add);
      m_exec.fence();
    }
    auto weight = to_host(m_parameters.router.weight);
    auto const gradient = to_host(m_gradients.router.weight);
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] -= rate * gradient[i] / tokens;
    to_device(weight, m_parameters.router.weight);
    return mean;
  }

  /// The share of tokens whose k best experts are the right ones.
  double found() {
    forward(m_tapes[0], kokomo::Mode::inference, 0);
    auto const chosen = to_host(m_layer.saved(m_tapes[0]).assignment.expert);
    int count = 0;
    for (int t = 0; t < tokens; ++t)
      count += std::set<kokomo::index_t>(chosen.begin() + t * k, chosen.begin() + (t + 1) * k) == right(kind_of(t));
    return double(count) / tokens;
  }

private:
  void forward(kokomo::Tape<Exec>& tape, kokomo::Mode mode, std::uint64_t step) {
    m_inputs.mode = mode;
    m_inputs.step = step; // another draw for another step
    m_layer.forward(m_exec, m_parameters, m_state, m_inputs, m_y, m_workspace, tape);
    m_exec.fence();
  }
  /// Squared errors, as shares of an answer's mean square.
  std::vector<double> token_losses() const {
    auto const y = to_host(m_y);
    std::vector<double> losses(tokens, 0.0);
    for (std::size_t i = 0; i < y.size(); ++i)
      losses[i / hidden] += (y[i] - m_answers[i]) * (y[i] - m_answers[i]) / m_size;
    return losses;
  }

  Exec m_exec{};
  kokomo::OwnedVector<double, Exec> m_advantage; ///< of each token in the draw whose backward runs
  Layer m_layer;
  Layer::Parameters m_parameters, m_gradients;
  Layer::State m_state;
  Layer::Inputs m_inputs;
  kokomo::Workspace<Exec> m_workspace;
  std::vector<kokomo::Tape<Exec>> m_tapes; ///< of each draw
  Matrix m_x, m_y, m_dy, m_dx;
  std::vector<float> m_answers;
  double m_size = 0; ///< mean over tokens of the answers' squared length
};

} // namespace

int main(int argc, char** argv) {
  Kokkos::ScopeGuard const kokkos(argc, argv);
  std::printf("%d tokens of %d kinds, %d of %d experts each; all weights are equal\n\n", tokens, kinds, k, experts);
  std::printf("draws   step      loss   rightly routed\n");
  double found = 0;
  for (int const draws : {2, 4, 16}) {
    Lesson lesson(draws);
    for (int step = 0; step <= 40; ++step) {
      bool const tell = step == 0 || step == 2 || step == 5 || step % 10 == 0;
      double const share = tell ? lesson.found() : 0;
      double const loss = lesson.step(std::uint64_t(step), /*rate*/ 4);
      if (tell) std::printf("%5d  %5d  %8.4f   %13.0f %%\n", draws, step, loss, 100 * share);
    }
    found = lesson.found();
  }
  return found > 0.95 ? 0 : 1;
}
