// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/experts/packed.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

/// The fused path of a host (forward_combined, of unpacked and of packed weights) against the plain one and against sums
/// in double, for every instruction set of the machine that runs the test.

namespace {

using namespace kokomo;
using namespace kokomo::detail;
using Exec = Kokkos::DefaultHostExecutionSpace;

struct Case {
  std::vector<offset_t> rows_of_expert;
  offset_t tokens, hidden, intermediate;
  bool bias = false;
  GateUp gate_up = GateUp::concatenated;
  WeightOrder up_order = WeightOrder::out_in, down_order = WeightOrder::out_in;
  bool weighted = true, scaled = false;
};

template <class S> void randomize(std::mt19937& engine, S* values, std::size_t count, float scale) {
  std::uniform_real_distribution<float> uniform(-scale, scale);
  for (std::size_t i = 0; i < count; ++i) values[i] = static_cast<S>(uniform(engine));
}

/// Half of a unit in the last place of 1.
template <class S> double rounding() {
  if constexpr (std::is_same_v<S, bfloat16>) return std::ldexp(1.0, -8);
  if constexpr (std::is_same_v<S, float16>) return std::ldexp(1.0, -11);
  if constexpr (std::is_same_v<S, float>) return std::ldexp(1.0, -24);
  return std::ldexp(1.0, -53);
}

template <class T, class Experts> struct Problem {
  using C = compute_t<T>;
  Case sizes;
  Experts policy;
  std::vector<offset_t> offsets{0};
  std::vector<index_t> expert_of_row, token_of_row;
  std::vector<C> weight, scale;
  std::vector<T> x;
  parameters_t<Experts, T, Exec> parameters;
  offset_t rows = 0;

  Problem(Case const& s, Experts const& experts, std::mt19937& engine) : sizes(s), policy(experts) {
    policy.intermediate = s.intermediate;
    policy.bias = s.bias;
    policy.gate_up = s.gate_up;
    policy.up_order = s.up_order;
    policy.down_order = s.down_order;
    for (std::size_t e = 0; e < s.rows_of_expert.size(); ++e) {
      offsets.push_back(offsets.back() + s.rows_of_expert[e]);
      for (offset_t i = 0; i < s.rows_of_expert[e]; ++i) {
        expert_of_row.push_back(index_t(e));
        // as a stable grouping has them: ascending tokens within an expert
        token_of_row.push_back(index_t(i * s.tokens / s.rows_of_expert[e]));
      }
    }
    rows = offsets.back();
    weight.resize(std::size_t(rows)), scale.resize(std::size_t(rows)), x.resize(std::size_t(s.tokens * s.hidden));
    randomize(engine, weight.data(), weight.size(), 1.f);
    randomize(engine, scale.data(), scale.size(), 2.f);
    randomize(engine, x.data(), x.size(), 1.f);
    Exec const exec;
    parameters = parameters_t<Experts, T, Exec>(Allocator<Exec>(exec), policy, layer_sizes());
    exec.fence("kokomo::test");
    parameters.for_each([&](auto const&, auto const& view) { randomize(engine, view.data(), view.size(), 0.7f); }, "");
  }

  index_t experts() const { return index_t(sizes.rows_of_expert.size()); }
  Sizes layer_sizes() const {
    Sizes all;
    all.tokens = sizes.tokens, all.hidden = sizes.hidden, all.experts = all.weighted = experts();
    all.entries = rows + 2; // an upper bound, as a host that knows only the capacity has
    return all;
  }
};

/// What one forward pass leaves: sums by token, pre-activations.
template <class T> struct Result {
  std::vector<compute_t<T>> out;
  std::vector<T> pre;
};

template <class T> bool same_bits(std::vector<T> const& a, std::vector<T> const& b) {
  return a.size() == b.size() && (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0);
}

template <class T> bool same_bits(Result<T> const& a, Result<T> const& b) {
  bool const both = !a.pre.empty() && !b.pre.empty(); // packed experts keep none
  return same_bits(a.out, b.out) && (!both || same_bits(a.pre, b.pre));
}

/// Runs `call(in, saved, scratch, out)` on memory full of NaN.
template <class T, class Experts, class P, class Call>
Result<T> run(P const& p, Experts const& policy, int workers, Call const& call) {
  using C = compute_t<T>;
  Arena counted;
  (void)make<saved_t<Experts, T, Exec>>(counted, policy, p.layer_sizes());
  (void)scratch_t<Experts, T, Exec>(counted, policy, p.layer_sizes());
  std::vector<std::byte> memory(counted.used() + 64, std::byte{0xff});
  Arena arena(memory.data() + (64 - reinterpret_cast<std::uintptr_t>(memory.data()) % 64) % 64);
  auto const saved = make<saved_t<Experts, T, Exec>>(arena, policy, p.layer_sizes());
  scratch_t<Experts, T, Exec> const scratch(arena, policy, p.layer_sizes());
  offset_t const bytes = product_scratch_bytes<C, Exec>();
  std::vector<std::byte> worker_memory(std::size_t(bytes * workers), std::byte{0xff});
  Result<T> result{std::vector<C>(std::size_t(p.sizes.tokens * p.sizes.hidden), C(NAN)), {}};
  ExpertRows<T, Exec> const in{
      {p.x.data(), p.sizes.hidden, p.token_of_row.data(), p.sizes.scaled ? p.scale.data() : nullptr},
      {p.offsets.data(), p.expert_of_row.data(), p.experts(), p.rows + 2},
      {worker_memory.data(), bytes, workers}};
  call(in, saved, scratch, result.out);
  Exec().fence("kokomo::test");
  if constexpr (requires { saved.pre; })
    result.pre.assign(saved.pre.data(), saved.pre.data() + p.rows * offset_t(saved.pre.extent(1)));
  return result;
}

template <class T, class Experts> Result<T> fused(Problem<T, Experts> const& p, int workers) {
  return run<T>(p, p.policy, workers, [&](auto const& in, auto const& saved, auto const& scratch, auto& out) {
    CombinedRows<compute_t<T>> const target{out.data(), p.sizes.tokens, p.token_of_row.data(),
                                            p.sizes.weighted ? p.weight.data() : nullptr};
    p.policy.template forward_combined<T>(Exec(), p.parameters, in, target, p.sizes.hidden, saved, scratch);
  });
}

template <class T, class Experts> Result<T> packed(Problem<T, Experts> const& p, int workers, int panel_columns = 0) {
  Packed<Experts> const policy{.inner = p.policy, .panel_columns = panel_columns};
  Exec const exec;
  parameters_t<Packed<Experts>, T, Exec> const parameters(Allocator<Exec>(exec), policy, p.layer_sizes());
  policy.template pack<T>(exec, p.parameters, parameters);
  return run<T>(p, policy, workers, [&](auto const& in, auto const& saved, auto const& scratch, auto& out) {
    CombinedRows<compute_t<T>> const target{out.data(), p.sizes.tokens, p.token_of_row.data(),
                                            p.sizes.weighted ? p.weight.data() : nullptr};
    policy.template forward_combined<T>(exec, parameters, in, target, p.sizes.hidden, saved, scratch);
  });
}

/// Rows by the packed path, without a sum.
template <class T, class Experts> std::vector<compute_t<T>> packed_rows(Problem<T, Experts> const& p) {
  using C = compute_t<T>;
  Packed<Experts> const policy{.inner = p.policy};
  Exec const exec;
  parameters_t<Packed<Experts>, T, Exec> const parameters(Allocator<Exec>(exec), policy, p.layer_sizes());
  policy.template pack<T>(exec, p.parameters, parameters);
  std::vector<C> rows(std::size_t((p.rows + 2) * p.sizes.hidden), C(7));
  (void)run<T>(p, policy, 2, [&](auto const& in, auto const& saved, auto const& scratch, auto&) {
    policy.template forward<T>(exec, parameters, in,
                               Matrix<C, Exec>(rows.data(), std::size_t(p.rows + 2), std::size_t(p.sizes.hidden)),
                               saved, scratch);
  });
  return rows;
}

/// Rows by the plain path, summed up by token in ascending order of rows.
template <class T, class Experts> Result<T> plain(Problem<T, Experts> const& p, std::vector<compute_t<T>>& rows) {
  using C = compute_t<T>;
  rows.assign(std::size_t((p.rows + 2) * p.sizes.hidden), C(7)); // rows of no expert are not touched
  return run<T>(p, p.policy, 2, [&](auto const& in, auto const& saved, auto const& scratch, auto& out) {
    p.policy.template forward<T>(Exec(), p.parameters, in,
                                 Matrix<C, Exec>(rows.data(), std::size_t(p.rows + 2), std::size_t(p.sizes.hidden)),
                                 saved, scratch);
    Exec().fence("kokomo::test");
    std::fill(out.begin(), out.end(), C(0));
    for (offset_t r = 0; r < p.rows; ++r)
      for (offset_t h = 0; h < p.sizes.hidden; ++h)
        out[std::size_t(p.token_of_row[std::size_t(r)] * p.sizes.hidden + h)] +=
            (p.sizes.weighted ? p.weight[std::size_t(r)] : C(1)) * rows[std::size_t(r * p.sizes.hidden + h)];
  });
}

/// Sums in double: of the pre-activations, and of the output from the same pre-activations.
template <class T, class Experts> void check_reference(Problem<T, Experts> const& p, Result<T> const& result) {
  using C = compute_t<T>;
  constexpr int parts = Experts::gated ? 2 : 1;
  offset_t const inner = p.sizes.intermediate, hidden = p.sizes.hidden;
  auto const up = p.policy.up_projection(p.parameters, hidden), down = p.policy.down_projection(p.parameters, hidden);
  auto gate = up;
  if constexpr (Experts::gated) gate = p.policy.gate_projection(p.parameters, hidden);
  auto const bias_of = [](auto const& b, index_t e, offset_t n) {
    return b.data == nullptr ? 0.0 : double(b.data[e * b.group_stride + n * b.n_stride]);
  };
  std::vector<double> out(result.out.size(), 0.0), magnitude(result.out.size(), 0.0);
  std::vector<double> a(std::size_t(inner), 0.0);
  for (offset_t r = 0; r < p.rows; ++r) {
    index_t const e = p.expert_of_row[std::size_t(r)];
    offset_t const token = p.token_of_row[std::size_t(r)];
    T const* const pre = result.pre.data() + r * parts * inner;
    for (offset_t i = 0; i < parts * inner; ++i) {
      auto const& projection = Experts::gated && i < inner ? gate : up;
      double sum = bias_of(projection.bias, e, i % inner), terms = std::abs(sum);
      for (offset_t k = 0; k < hidden; ++k) {
        double const value = (p.sizes.scaled ? double(p.scale[std::size_t(r)]) : 1.0) *
                             double(p.x[std::size_t(token * hidden + k)]) * double(projection.weight(e, i % inner, k));
        sum += value, terms += std::abs(value);
      }
      // the sum in C, one rounding of the product and one with the bias to T; below float16's normal range 2^-25 each
      double const bound = double(hidden + 4) * rounding<C>() * terms + 2.02 * rounding<T>() * terms +
                           (std::is_same_v<T, float16> ? std::ldexp(1.0, -24) : 0.0);
      if (!(std::abs(double(pre[i]) - sum) <= bound)) FAIL("pre-activation " << double(pre[i]) << ", expected " << sum);
    }
    for (offset_t i = 0; i < inner; ++i)
      a[std::size_t(i)] = double(T(p.policy.activation.template value<T>(C(pre[i]), C(pre[(parts - 1) * inner + i]))));
    double const w = p.sizes.weighted ? double(p.weight[std::size_t(r)]) : 1.0;
    for (offset_t h = 0; h < hidden; ++h) {
      double sum = bias_of(down.bias, e, h), terms = std::abs(sum);
      for (offset_t i = 0; i < inner; ++i) {
        double const value = a[std::size_t(i)] * double(down.weight(e, h, i));
        sum += value, terms += std::abs(value);
      }
      out[std::size_t(token * hidden + h)] += w * sum;
      magnitude[std::size_t(token * hidden + h)] += std::abs(w) * terms;
    }
  }
  double error = 0.0, scale = 0.0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    error += std::pow(double(result.out[i]) - out[i], 2);
    scale += std::pow(magnitude[i], 2);
  }
  // sums of `inner` terms, then of a token's experts, in C. The hidden layer is the same to within an exponential whose
  // last bits a compiler may contract differently; where that passes a rounding to T, by half a unit of T.
  double const arithmetic =
      double(inner + p.experts() + 8) * rounding<C>() + (std::is_same_v<T, C> ? 0.0 : rounding<T>() / 8);
  REQUIRE(std::sqrt(error) <= arithmetic * std::sqrt(scale));
}

std::vector<host::InstructionSet> instruction_sets() {
  std::vector<host::InstructionSet> sets;
  for (auto set : {host::InstructionSet::portable, host::InstructionSet::avx2, host::InstructionSet::avx512})
    if (host::supports(set)) sets.push_back(set);
  return sets;
}

/// The instruction set that products use, for a scope.
struct Use {
  host::InstructionSet before = host::instruction_set();
  explicit Use(host::InstructionSet set) { host::instruction_set() = set; }
  ~Use() { host::instruction_set() = before; }
  Use(Use const&) = delete;
  Use& operator=(Use const&) = delete;
};

template <class T, class Experts> void check(Case const& sizes, Experts const& experts, std::mt19937& engine) {
  Problem<T, Experts> const p(sizes, experts, engine);
  CAPTURE(sizes.rows_of_expert, sizes.tokens, sizes.hidden, sizes.intermediate, sizes.bias, int(sizes.gate_up));
  CAPTURE(int(sizes.up_order), int(sizes.down_order), sizes.weighted, sizes.scaled, sizeof(T));
  for (auto set : instruction_sets()) {
    Use const use(set);
    INFO(host::to_text(set));
    Result<T> const one = fused(p, 1);
    check_reference(p, one);
    for (int workers : {2, 5}) REQUIRE(same_bits(one, fused(p, workers)));
    // the same chains of multiply-adds, so not a bit differs
    for (int workers : {1, 3}) REQUIRE(same_bits(one, packed(p, workers)));
    std::vector<compute_t<T>> rows;
    Result<T> const reference = plain(p, rows);
    REQUIRE(same_bits(reference.pre, one.pre));
    check_reference(p, reference);
    REQUIRE(packed_rows(p) == rows);
  }
  // panels of a narrower instruction set on a machine that has a wider one
  for (auto set : instruction_sets()) {
    Result<T> const narrow = packed(p, 2, host::panel_columns<compute_t<T>>(set));
    Use const use(set);
    REQUIRE(same_bits(narrow, packed(p, 1)));
  }
}

} // namespace

TEST_CASE("fused experts: odd shapes, storage orders and types") {
  std::mt19937 engine(4711);
  GateUp const gate_ups[] = {GateUp::concatenated, GateUp::interleaved, GateUp::separate};
  WeightOrder const orders[] = {WeightOrder::out_in, WeightOrder::in_out};
  for (int round = 0; round < 6; ++round) {
    Case sizes{{3, 0, 1, 13}, 13, 37, 19};
    sizes.bias = round % 2 == 1;
    sizes.gate_up = gate_ups[round % 3];
    sizes.up_order = orders[round / 3];
    sizes.down_order = orders[(round + 1) % 2];
    sizes.weighted = round != 2;
    sizes.scaled = round == 4;
    check<float>(sizes, SwiGluExperts{}, engine);
    check<bfloat16>(sizes, SwiGluExperts{}, engine);
    check<float16>(sizes, SwiGluExperts{}, engine);
    check<double>(sizes, SwiGluExperts{}, engine);
  }
}

TEST_CASE("fused experts: loads from nothing to everything on one expert") {
  std::mt19937 engine(13);
  for (auto const& rows : std::vector<std::vector<offset_t>>{
           {0}, {0, 0, 0}, {1}, {0, 0, 1}, {2, 3, 4, 5, 6, 7, 8}, {0, 131, 0}, {1, 121, 1, 1}})
    for (offset_t hidden : {1, 16, 33}) check<float>({rows, 131, hidden, 17}, SwiGluExperts{}, engine);
  check<float>({{5, 0, 2}, 7, 12, 9, true}, ReluExperts{}, engine);
  check<bfloat16>({{0, 0}, 0, 8, 8}, SwiGluExperts{}, engine); // no token
  check<bfloat16>({{1}, 1, 300, 1}, SwiGluExperts{}, engine);  // one, of one expert of width 1
}

TEST_CASE("fused experts: more than one block of rows, columns and depth") {
  std::mt19937 engine(5);
  // Blocks hold 120 rows, 256 steps of a sum and 512 columns (256 of gate and up) of float32: each pair of them at once.
  for (Case const& sizes : {Case{{1, 121, 0, 3}, 121, 257, 40, true}, // rows and depth of gate and up
                            Case{{2, 121}, 121, 33, 257, true},       // rows and columns of gate and up, depth of down
                            Case{{121, 3}, 121, 513, 9, true},        // rows and columns of down
                            Case{{1, 4}, 4, 257, 257, true}}) {       // columns and depth of gate and up
    check<float>(sizes, SwiGluExperts{}, engine);
    check<bfloat16>(sizes, SwiGluExperts{}, engine);
  }
}
