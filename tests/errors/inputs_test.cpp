// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <errors/call.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/gate/sparse_mixer.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/router/hash.hpp>
#include <kokomo/router/mlp_scorer.hpp>

namespace inputs_test {

/// What policies read beside x: missing, of the wrong extents, or with ids out of range.

using namespace errors;

namespace {

using Hashed = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::HashTable>, kokomo::ConstantGate>;
using Replayed = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::Given>, kokomo::SoftmaxGate>;
using Sparse = kokomo::Layer<kokomo::Router<kokomo::LinearScorer, kokomo::SparseMixer>, kokomo::SparseMixerGate>;

using Handed = kokomo::Layer<kokomo::Router<kokomo::MlpScorer, kokomo::TopK<>>>;

template <class T> List<T> list(std::vector<T> const& values) {
  List<T> const view("list", values.size());
  kokomo::test::to_device(values, view);
  return view;
}

double norm_of_row(Rows<float> const& rows, offset_t row) {
  auto const values = kokomo::test::to_host(rows);
  double sum = 0;
  for (std::size_t h = 0; h < rows.extent(1); ++h)
    sum += std::abs(double(values[std::size_t(row) * rows.extent(1) + h]));
  return sum;
}

template <class LayerT> void fill(Call<LayerT>& call) {
  errors::fill(kokomo::test::tensor(call.x), 0.5);
  for (auto const& [name, tensor] : kokomo::test::tensors_of(call.parameters)) errors::fill(tensor, 0.25);
}

} // namespace

TEST_CASE("hash: token ids must be there, one a token") {
  Call<Hashed> call;
  auto const forward = [&] { call.forward(); };
  unchanged(203, call, forward, {"inputs.selector.token_ids is missing"});
  call.inputs.selector.token_ids = List<offset_t>("ids", 4);
  unchanged(201, call, forward, {"inputs.selector.token_ids has extents [4]", "expected [5]"});
  List<offset_t> const zeros("ids", 5); // an argument does not keep the memory of its View
  call.inputs.selector.token_ids = zeros;
  REQUIRE_NOTHROW(call.forward());
}

TEST_CASE("what policies read may not overlap what a call writes") {
  Call<Hashed> hashed;
  // 5 ids of 8 bytes in y's 30 floats
  hashed.inputs.selector.token_ids = List<offset_t>(reinterpret_cast<offset_t*>(hashed.y.data()), 5);
  unchanged(204, hashed, [&] { hashed.forward(); }, {"y overlaps inputs.selector.token_ids"});

  Call<Sparse> sparse({5, 6, 4, 0}, sized<Sparse>());
  sparse.inputs.mode = kokomo::Mode::training;
  sparse.inputs.gate.factors = Rows<float>(sparse.y.data() + 20, 5, 2);
  unchanged(204, sparse, [&] { sparse.forward(); }, {"y overlaps inputs.gate.factors"});
}

TEST_CASE("hash: ids out of range route nowhere and are counted") {
  Call<Hashed> call;
  fill(call);
  // expert 3, none, and two ids that are none of the 4 experts
  kokomo::test::to_device(std::vector<index_t>{3, kokomo::none, 4, -7, 0, 0, 0, 0, 2}, call.state.selector.table);
  auto const known = list<offset_t>({0, 1, 2, 3, 8}), unknown = list<offset_t>({9, -1, offset_t(1) << 40, 0, 8});
  call.inputs.selector.token_ids = known;
  call.forward();
  auto status = call.layer.status(call.exec, call.tape);
  REQUIRE(status.invalid_ids == 2);
  REQUIRE(status.tokens_without_expert == 3);
  for (offset_t t = 0; t < 5; ++t) REQUIRE((norm_of_row(call.y, t) > 0) == (t == 0 || t == 4));

  call.inputs.selector.token_ids = unknown;
  call.forward();
  status = call.layer.status(call.exec, call.tape);
  REQUIRE(status.invalid_ids == 3);
  for (offset_t t = 0; t < 5; ++t) REQUIRE((norm_of_row(call.y, t) > 0) == (t >= 3));

  // what is masked is not looked at
  auto const mask = list<index_t>({0, 0, 0, 1, 1});
  call.inputs.token_mask = mask;
  call.forward();
  REQUIRE(call.layer.status(call.exec, call.tape).invalid_ids == 0);
}

TEST_CASE("given: the choice must be there, k ids a token") {
  auto policies = sized<Replayed>();
  policies.router.selector.k = 2;
  Call<Replayed> call({5, 6, 4, 0}, policies);
  auto const forward = [&] { call.forward(); };
  unchanged(203, call, forward, {"inputs.selector.experts is missing"});
  call.inputs.selector.experts = Rows<index_t>("ids", 5, 3);
  unchanged(201, call, forward, {"inputs.selector.experts has extents [5, 3]", "expected [5, 2]"});
}

TEST_CASE("given: ids out of range route nowhere and are counted, the same id twice is two entries") {
  auto policies = sized<Replayed>();
  policies.router.selector.k = 2;
  Call<Replayed> call({5, 6, 4, 0}, policies);
  fill(call);
  auto const ids = list<index_t>({0, 4, -1, -1, -2, 1 << 30, 3, 3, 1, 2});
  call.inputs.selector.experts = Rows<index_t>(ids.data(), 5, 2);
  call.forward();
  call.backward();
  call.exec.fence("tests");
  auto const status = call.layer.status(call.exec, call.tape);
  REQUIRE(status.invalid_ids == 3);
  REQUIRE(status.tokens_without_expert == 2);
  REQUIRE(status.dropped == 0);
  // all experts and all inputs are alike, every weight is 1/4
  double const one = norm_of_row(call.y, 0);
  REQUIRE(one > 0);
  REQUIRE(norm_of_row(call.y, 1) == 0);
  REQUIRE(norm_of_row(call.y, 2) == 0);
  REQUIRE(norm_of_row(call.y, 3) == 2 * one);
  REQUIRE(norm_of_row(call.y, 4) == 2 * one);
}

TEST_CASE("SparseMixer: factors are optional, but two a token") {
  Call<Sparse> call;
  auto const forward = [&] { call.forward(); };
  REQUIRE_NOTHROW(call.forward());
  call.inputs.gate.factors = Rows<float>("factors", 5, 3);
  unchanged(201, call, forward, {"inputs.gate.factors has extents [5, 3]", "expected [5, 2]"});
}

TEST_CASE("MlpScorer: states of the layer below are there if it reads them, and only then") {
  for (bool reads : {false, true}) {
    auto policies = sized<Handed>();
    policies.router.scorer.state_size = 3;
    policies.router.scorer.previous_states = reads;
    Call<Handed> call({5, 6, 4, 0}, policies);
    auto const forward = [&] { call.forward(); };
    auto const backward = [&] { call.backward(); };
    Rows<float> const states("states", 5, 3), d_states("d_states", 5, 3), wide("wide", 5, 4);
    if (reads) {
      unchanged(203, call, forward, {"inputs.scorer.previous_states is missing"});
      call.inputs.scorer.previous_states = wide;
      unchanged(201, call, forward, {"inputs.scorer.previous_states has extents [5, 4]", "expected [5, 3]"});
      call.inputs.scorer.previous_states = states;
      call.forward();
      call.d_inputs.scorer.previous_states = wide;
      unchanged(201, call, backward, {"d_inputs.scorer.previous_states has extents [5, 4]", "expected [5, 3]"});
      call.d_inputs.scorer.previous_states = d_states;
    } else {
      call.inputs.scorer.previous_states = states;
      unchanged(203, call, forward, {"inputs.scorer.previous_states is given", "previous_states is false"});
      call.inputs.scorer.previous_states = {};
      call.forward();
      call.d_inputs.scorer.previous_states = d_states;
      unchanged(203, call, backward, {"d_inputs.scorer.previous_states is given", "previous_states is false"});
      call.d_inputs.scorer.previous_states = {};
    }
    call.inputs.scorer.d_states = wide;
    unchanged(201, call, backward, {"inputs.scorer.d_states has extents [5, 4]", "expected [5, 3]"});
    call.inputs.scorer.d_states = {};
    REQUIRE_NOTHROW(call.backward());
  }
}

} // namespace inputs_test
