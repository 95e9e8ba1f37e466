// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>

namespace kokomo::test {

template HostAssignment on_host(Assignment<double, Exec> const&);
template HostAssignment on_host(Assignment<float, Exec> const&);

reference::Result result_of(HostAssignment const& a) {
  reference::Result r;
  for (std::size_t t = 0; t < std::size_t(a.tokens); ++t) {
    r.choice.emplace_back(), r.kept.emplace_back(), r.weights.emplace_back();
    for (auto i = std::size_t(a.token_offsets[t]); i < std::size_t(a.token_offsets[t + 1]); ++i) {
      r.choice[t].push_back(a.expert[i]);
      r.kept[t].push_back(a.row[i] != none);
      r.weights[t].push_back(a.weight[i]);
    }
  }
  return r;
}

void add_tensors(reference::Inputs& inputs, Tensors const& tensors) {
  for (auto const& [name, tensor] : tensors) inputs.parameters[name] = tensor.read();
}

void check_grouping(HostAssignment const& a) {
  REQUIRE(a.token_offsets[0] == 0);
  REQUIRE(a.expert_offsets[0] == 0);
  std::size_t next = 0;
  for (index_t e = 0; e < a.experts; ++e) {
    REQUIRE(a.expert_offsets[std::size_t(e)] == offset_t(next));
    for (std::size_t t = 0; t < std::size_t(a.tokens); ++t)
      for (auto i = std::size_t(a.token_offsets[t]); i < std::size_t(a.token_offsets[t + 1]); ++i) {
        if (a.row[i] == none || a.expert[i] != e) continue;
        REQUIRE(a.row[i] == index_t(next));
        REQUIRE(a.entry_of_row[next] == index_t(i));
        REQUIRE(a.token_of_row[next] == index_t(t));
        REQUIRE(a.expert_of_row[next] == e);
        // a NaN logit's weight is NaN
        REQUIRE((a.weight_of_row[next] == a.weight[i] || a.weight[i] != a.weight[i]));
        ++next;
      }
  }
  REQUIRE(a.expert_offsets[std::size_t(a.experts)] == offset_t(next));
}

void check_results(reference::Result const& out, reference::Result const& ref, double routing, double output) {
  CHECK(relative_error(flat(out.logits), flat(ref.logits)) <= routing);
  REQUIRE(out.choice == ref.choice);
  REQUIRE(out.kept == ref.kept);
  CHECK(relative_error(flat(out.weights), flat(ref.weights)) <= routing);
  CHECK(relative_error(flat(out.y), flat(ref.y)) <= output);
  CHECK(relative_error({out.loss}, {ref.loss}) <= routing);
  CHECK(out.dropped == ref.dropped);
  CHECK(out.tokens_without_expert == ref.tokens_without_expert);
}

} // namespace kokomo::test
