// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/router/replay.hpp>

namespace replay_memory_test {

using namespace kokomo;
using namespace kokomo::test;

/// The id of the error that f throws.
template <class F> int error_of(F const& f) {
  try {
    f();
  } catch (Error const& error) {
    return error.id();
  }
  return 0;
}

TEST_CASE("a recording is written: it may share memory with nothing else of the call") {
  using Subject = Layer<Router<LinearScorer, Replay<TopK<>>>, SoftmaxGate, NoBalancer, ScaleExperts, double, Exec>;
  Fixture<Subject> f({.tokens = 4, .hidden = 3, .experts = 5}, {.router = {.selector = {.inner = {.k = 2}}}});
  OwnedMatrix<index_t, Exec> const choices("choices", 4, 2);
  VectorArgument<index_t const, Exec> mask;
  MatrixArgument<index_t, Exec> record;
  MatrixArgument<index_t const, Exec> replay;
  f.more_inputs = [&](Subject::Inputs& in) {
    in.token_mask = mask, in.selector.record = record, in.selector.replay = replay;
  };
  auto const forward = [&] { f.forward(); };

  record = choices;
  REQUIRE(error_of(forward) == 0);
  auto const recorded = to_host(choices);
  replay = choices; // what is read and written at once
  REQUIRE(error_of(forward) == 204);
  replay = {};
  mask = OwnedVector<index_t, Exec>(choices.data(), 4); // the first two tokens' choices
  REQUIRE(error_of(forward) == 204);
  mask = {};
  record = OwnedMatrix<index_t, Exec>(reinterpret_cast<index_t*>(f.y.data()), 4, 2);
  REQUIRE(error_of(forward) == 204);

  record = choices;
  REQUIRE(error_of(forward) == 0);
  REQUIRE(error_of([&] { f.backward(); }) == 0);
  record = OwnedMatrix<index_t, Exec>(reinterpret_cast<index_t*>(f.dx.data()), 4, 2);
  REQUIRE(error_of([&] { f.backward(); }) == 204);
  REQUIRE(to_host(choices) == recorded);

  record = {}, replay = choices; // read alone: it may be the memory of anything else that is read
  REQUIRE(error_of(forward) == 0);
}

} // namespace replay_memory_test
