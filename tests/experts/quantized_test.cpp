// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/experts/quantized.hpp>
#include <kokomo/layer.hpp>

#include <cmath>
#include <random>
#include <vector>

namespace quantized_test {

using namespace kokomo;
using Exec = Kokkos::DefaultHostExecutionSpace;
using Row = std::vector<double>;

double norm(Row const& values) {
  double sum = 0;
  for (double const value : values) sum += value * value;
  return std::sqrt(sum);
}
double relative_error(Row const& out, Row const& ref) {
  Row difference(ref.size());
  for (std::size_t i = 0; i < ref.size(); ++i) difference[i] = out[i] - ref[i];
  return norm(difference) / norm(ref);
}

template <class V> void fill(V const& view, std::mt19937& engine, double size) {
  std::normal_distribution<double> normal(0, size);
  for (std::size_t i = 0; i < view.size(); ++i) view.data()[i] = typename V::value_type(float(normal(engine)));
}

/// Quantised experts beside those that they were made of, rows grouped by expert, and what a loop of double makes of them.
template <class Policy, class T> struct Subject {
  using Format = typename Policy::Format;
  using Experts = FeedForwardExperts<typename Policy::Activation>;
  using C = compute_t<T>;

  Policy policy;
  Experts source;
  offset_t experts, width;
  typename Policy::template Parameters<T, Exec> quantized;
  typename Experts::template Parameters<T, Exec> original;
  std::vector<offset_t> offsets{0};
  std::vector<index_t> expert_of_row;
  OwnedMatrix<T, Exec> x;
  Sizes sizes;

  Subject(Policy const& policy_, Experts const& source_, offset_t width_, std::vector<offset_t> const& rows)
      : policy(policy_), source(source_), experts(offset_t(rows.size())), width(width_) {
    for (offset_t e = 0; e < experts; ++e) {
      offsets.push_back(offsets.back() + rows[std::size_t(e)]);
      expert_of_row.insert(expert_of_row.end(), std::size_t(rows[std::size_t(e)]), index_t(e));
    }
    sizes.hidden = width, sizes.weighted = sizes.experts = index_t(experts), sizes.entries = offsets.back();
    std::mt19937 engine(7);
    Exec const exec;
    Allocator<Exec> const allocate(exec);
    policy.check(sizes);
    quantized = {allocate, policy, sizes}, original = {allocate, source, sizes};
    x = OwnedMatrix<T, Exec>("x", std::size_t(sizes.entries), std::size_t(width));
    exec.fence();
    original.for_each([&](std::string const&, auto const& view) { fill(view, engine, 0.2); }, "");
    fill(x, engine, 1);
    policy.quantize(exec, source, original, quantized);
    exec.fence();
  }

  std::vector<C> forward(int workers) {
    Exec const exec;
    detail::Arena counted;
    using Scratch = typename Policy::template Scratch<T, Exec>;
    (void)Scratch(counted, policy, sizes);
    offset_t const bytes = detail::product_scratch_bytes<C, Exec>();
    std::vector<std::byte> memory(counted.used() + 64), scratch_memory(std::size_t(bytes * workers));
    auto const misaligned = reinterpret_cast<std::uintptr_t>(memory.data()) % 64;
    detail::Arena arena(memory.data() + (64 - misaligned) % 64);
    Scratch const scratch(arena, policy, sizes);
    std::vector<C> out(std::size_t(sizes.entries * width), C(99));
    ExpertRows<T, Exec> const in{{x.data(), width},
                                 {offsets.data(), expert_of_row.data(), index_t(experts), sizes.entries},
                                 {scratch_memory.data(), bytes, workers}};
    policy.template forward<T>(exec, quantized, in,
                               Matrix<C, Exec>(out.data(), std::size_t(sizes.entries), std::size_t(width)), Nothing{},
                               scratch);
    exec.fence();
    return out;
  }

  /// Weight (n, k) of rows first, first + step, ... of a tensor, read from its bytes.
  static double weight(QuantizedTensor<Format, Exec> const& t, offset_t e, offset_t part_rows, offset_t first,
                       offset_t step, offset_t n, offset_t k) {
    offset_t const row = first + step * n;
    offset_t const blocks = (part_rows + Format::row_block - 1) / Format::row_block;
    offset_t const block =
        Format::row_block == 1 ? row : first / part_rows * blocks + n / Format::row_block; // parts begin anew
    offset_t const group = Format::group == 0 ? 0 : k / std::max(Format::group, 1);
    int code = t.codes(e, row, k * Format::bits / 8);
    if (Format::bits == 4) code = k % 2 == 0 ? code & 15 : code >> 4;
    return Format::dequantize(std::uint8_t(code), t.scales(e, block, group),
                              Format::zero_points ? t.zeros(e, block, group) : std::uint8_t(0));
  }

  /// The activations' grid, in the type that says where a tie falls.
  Row rounded(Row const& a) const {
    if (policy.activations == Activations::as_stored) return a;
    Row result(a.size());
    for (std::size_t first = 0; first < a.size(); first += 32) {
      float largest = 0;
      for (std::size_t k = first; k < std::min(a.size(), first + 32); ++k)
        largest = std::max(largest, std::abs(float(a[k])));
      float const step = largest / 127, inverse = 1 / step;
      for (std::size_t k = first; k < std::min(a.size(), first + 32); ++k)
        result[k] = std::nearbyint(float(a[k]) * inverse) * step;
    }
    return result;
  }

  Row reference() const {
    offset_t const inner = policy.intermediate;
    bool const fused = Policy::gated && policy.gate_up != GateUp::separate;
    bool const alternate = policy.gate_up == GateUp::interleaved;
    auto const projection = [&](int part, offset_t e, offset_t n, Row const& a) {
      auto const& tensor = fused ? quantized.gate_up : part == 0 ? quantized.gate : quantized.up;
      offset_t const first = !fused ? 0 : alternate ? part : part * inner, step = fused && alternate ? 2 : 1;
      double sum = 0;
      for (offset_t k = 0; k < width; ++k) sum += weight(tensor, e, inner, first, step, n, k) * a[std::size_t(k)];
      auto const& bias = fused ? quantized.gate_up_bias : part == 0 ? quantized.gate_bias : quantized.up_bias;
      return sum + (policy.bias ? double(bias(e, first + step * n)) : 0.0);
    };
    Row out;
    for (std::size_t row = 0; row < expert_of_row.size(); ++row) {
      offset_t const e = expert_of_row[row];
      Row a, hidden;
      for (offset_t k = 0; k < width; ++k) a.push_back(double(x(row, k)));
      a = rounded(a);
      for (offset_t n = 0; n < inner; ++n) {
        double const up = projection(1, e, n, a), gate = Policy::gated ? projection(0, e, n, a) : 0.0;
        hidden.push_back(policy.activation.template value<double>(gate, up));
      }
      hidden = rounded(hidden);
      for (offset_t n = 0; n < width; ++n) {
        double sum = policy.bias ? double(quantized.down_bias(e, n)) : 0.0;
        for (offset_t k = 0; k < inner; ++k)
          sum += weight(quantized.down, e, width, 0, 1, n, k) * hidden[std::size_t(k)];
        out.push_back(sum);
      }
    }
    return out;
  }
};

// Products of some 300 terms in another order than the reference's: float32 is within 1e-5. With int8 activations a
// hidden value that float32 moves across a tie changes by one of its group's 127 steps, a few of some hundred at most.
template <class T> double tolerance(Activations activations) {
  double const exact = std::is_same_v<T, double> ? 1e-12 : std::is_same_v<T, float> ? 1e-5 : 1e-2;
  return activations == Activations::as_stored ? exact : std::max(exact, 1e-3);
}

template <class Policy, class T>
void check(Policy policy, typename Subject<Policy, T>::Experts source, offset_t width,
           std::vector<offset_t> const& rows) {
  source.intermediate = policy.intermediate, source.bias = policy.bias, source.activation = policy.activation;
  Subject<Policy, T> subject(policy, source, width, rows);
  auto const reference = subject.reference();
  auto& set = detail::host::instruction_set();
  auto const widest = set;
  for (auto const each : {widest, detail::host::InstructionSet::portable}) {
    set = each;
    auto const one = subject.forward(1);
    for (int const workers : {2, 5}) REQUIRE(subject.forward(workers) == one); // the same bits
    CHECK(relative_error(Row(one.begin(), one.end()), reference) <= tolerance<T>(policy.activations));
  }
  set = widest;
}

std::vector<offset_t> const few{1, 0, 2, 5}, many{14, 3, 0, 13};

TEMPLATE_TEST_CASE("experts of quantised weights compute with the dequantised ones", "", Int8<0>, Int8<64>, Int4,
                   Int4ZeroPoint, Mxfp4, Fp8Blocks) {
  using Policy = QuantizedExperts<SwiGlu, TestType>;
  for (auto const& rows : {few, many})
    for (Activations const activations : {Activations::as_stored, Activations::int8}) {
      if (activations == Activations::int8 && !TestType::integers) continue;
      check<Policy, float>({.intermediate = 96, .activations = activations}, {}, 64, rows);
      check<Policy, float>({.intermediate = 37, .bias = true, .gate_up = GateUp::separate, .activations = activations},
                           {.gate_up = GateUp::interleaved, .up_order = WeightOrder::in_out}, 75, rows);
    }
  check<Policy, float>({.intermediate = 150, .bias = true}, {.gate_up = GateUp::separate}, 300, many);
  if constexpr (TestType::zero_points || !TestType::integers) // one thread an element, as on a device
    check<Policy, double>({.intermediate = 37, .bias = true}, {.down_order = WeightOrder::in_out}, 75, few);
}

TEST_CASE("quantised experts: interleaved rows, plain experts, bfloat16 storage, clamped activation") {
  ClampedSwiGlu const gpt_oss{.alpha = 1.702f, .gate_max = 7, .up_limit = 7, .up_offset = 1};
  using Clamped = QuantizedExperts<ClampedSwiGlu, Mxfp4>;
  Clamped const interleaved{.intermediate = 64, .bias = true, .gate_up = GateUp::interleaved, .activation = gpt_oss};
  check<Clamped, bfloat16>(interleaved, {.gate_up = GateUp::interleaved}, 96, few);
  check<Clamped, bfloat16>(interleaved, {}, 96, many);
  using Plain8 = QuantizedExperts<Plain<SquaredRelu>, Int8<>>;
  check<Plain8, float>({.intermediate = 70, .bias = true}, {}, 50, few);
}

TEST_CASE("no rows at all, and a row beyond what is grouped") {
  using Policy = QuantizedExperts<SwiGlu, Int4>;
  Subject<Policy, float> none({.intermediate = 8}, {.intermediate = 8}, 8, {0, 0});
  REQUIRE(none.forward(2).empty());
  Subject<Policy, float> spare({.intermediate = 8}, {.intermediate = 8}, 8, {1, 1});
  spare.offsets = {0, 1, 1}; // the second row belongs to nobody
  auto const out = spare.forward(2);
  for (std::size_t i = 8; i < 16; ++i) REQUIRE(out[i] == 99.f);
}

template <class Format, class Change>
void check_not_a_number(std::vector<offset_t> const& rows, Activations activations, Change const& change) {
  using Policy = QuantizedExperts<SwiGlu, Format>;
  Subject<Policy, float> s({.intermediate = 96, .activations = activations}, {.intermediate = 96}, 64, rows);
  change(s.quantized.down);
  auto const out = s.forward(2);
  for (std::size_t i = 0; i < out.size(); ++i) // column 3 of expert 0 alone
    REQUIRE(std::isnan(out[i]) == (i % 64 == 3 && s.expert_of_row[i / 64] == 0));
}

TEST_CASE("a code or a scale that is no number shows in its column, with few rows and with many") {
  for (auto const& rows : {few, many}) {
    check_not_a_number<Fp8Blocks>(rows, Activations::as_stored, [](auto const& down) { down.codes(0, 3, 40) = 0xff; });
    for (auto const activations : {Activations::as_stored, Activations::int8})
      check_not_a_number<Mxfp4>(rows, activations, [](auto const& down) {
        down.scales(0, 3, 1) = 255;
        down.scales(0, 4, 1) = 0; // 2^-127
      });
  }
}

TEST_CASE("the error of the output is bounded by that of the weights") {
  // With plain experts of the identity, out = D (U x): |D' U' x - D U x| <= (|D' - D| |U'| + |D| |U' - U|) |x| elementwise
  // with |U' - U| <= scale / 2 of its group.
  using Policy = QuantizedExperts<Plain<Identity>, Int8<32>>;
  Subject<Policy, float> s({.intermediate = 64}, {.intermediate = 64}, 64, {4});
  auto const out = s.forward(1);
  auto const half_step = [](QuantizedTensor<Int8<32>, Exec> const& t, offset_t n, offset_t k) {
    return double(float(t.scales(0, n, k / 32))) / 2;
  };
  double largest_share = 0;
  for (offset_t row = 0; row < 4; ++row) {
    Row exact(64, 0.0), bound(64, 0.0);
    for (offset_t i = 0; i < 64; ++i) {
      double u = 0, u_off = 0, u_size = 0;
      for (offset_t k = 0; k < 64; ++k) {
        double const a = s.x(row, k);
        u += s.original.up(0, i, k) * a;
        u_off += half_step(s.quantized.up, i, k) * std::abs(a);
        u_size += (std::abs(s.original.up(0, i, k)) + half_step(s.quantized.up, i, k)) * std::abs(a);
      }
      for (offset_t n = 0; n < 64; ++n) {
        double const d = s.original.down(0, n, i);
        exact[n] += d * u, bound[n] += half_step(s.quantized.down, n, i) * u_size + std::abs(d) * u_off;
      }
    }
    for (offset_t n = 0; n < 64; ++n) {
      double const off = std::abs(double(out[std::size_t(row * 64 + n)]) - exact[n]);
      REQUIRE(off <= bound[n] + 1e-5); // float32 sums
      largest_share = std::max(largest_share, off / bound[n]);
    }
  }
  REQUIRE(largest_share > 0.005); // the bound is a bound, and not something else
}

TEST_CASE("a layer of quantised experts, routed and shared") {
  using Quantized = QuantizedExperts<SwiGlu, Int8<64>>;
  using Original = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, WithShared<SwiGluExperts>, float, Exec>;
  using Subject = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, WithShared<Quantized>, float, Exec>;
  Shape const shape{.tokens = 30, .hidden = 48, .experts = 4};
  Original const original(shape, {.router = {.selector = {.k = 2}},
                                  .experts = {.routed = {.intermediate = 40}, .shared = {.intermediate = 24}}});
  Subject const layer(shape, {.router = {.selector = {.k = 2}},
                              .experts = {.routed = {.intermediate = 40}, .shared = {.intermediate = 24}}});
  Exec const exec;
  auto const from = original.make_parameters(exec);
  auto const to = layer.make_parameters(exec);
  exec.fence();
  std::mt19937 engine(3);
  from.for_each([&](std::string const&, auto const& view) { fill(view, engine, 0.3); });
  auto parameters = to;
  parameters.router = from.router; // the same Views
  layer.policies().experts.routed.quantize(exec, original.policies().experts.routed, from.experts, to.experts);
  layer.policies().experts.shared.quantize(exec, original.policies().experts.shared, from.shared.experts,
                                           to.shared.experts);
  OwnedMatrix<float, Exec> const x("x", 30, 48), y("y", 30, 48), reference("reference", 30, 48);
  fill(x, engine, 1);
  auto const forward = [&](auto const& subject, auto const& weights, auto const& out) {
    auto const state = subject.make_state(exec);
    auto const plan = subject.plan(exec);
    Workspace<Exec> const workspace(exec, plan);
    Tape<Exec> tape(exec, plan);
    subject.forward(exec, weights, state, x, out, workspace, tape);
    exec.fence();
  };
  forward(original, from, reference), forward(layer, parameters, y);
  // Three products with weights off by at most half of max / 127 of groups of 24 to 48 normal ones, some 2.2 sigma / 254 at most and
  // 1 / sqrt(3) of that in the mean: 0.5 % each, and in the root of their squares 0.9 %.
  Row const out(y.data(), y.data() + y.size()), ref(reference.data(), reference.data() + reference.size());
  REQUIRE(relative_error(out, ref) <= 0.02);
  REQUIRE(relative_error(out, ref) >= 1e-4); // it is quantised
  parameters.experts.down.scales = {};
  REQUIRE_THROWS_AS(forward(layer, parameters, y), Error); // 202
}

TEST_CASE("settings that a format does not have, and experts that do not fit, are refused") {
  auto const id = [](auto&& action) {
    try {
      action();
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  Sizes sizes;
  sizes.hidden = 8, sizes.weighted = sizes.experts = 2;
  REQUIRE(id([&] { QuantizedExperts<SwiGlu, Int4>{}.check(sizes); }) == 101);
  REQUIRE(id([&] {
            QuantizedExperts<SwiGlu, Fp8Blocks>{.intermediate = 8, .gate_up = GateUp::interleaved}.check(sizes);
          }) == 109);
  REQUIRE(id([&] {
            QuantizedExperts<SwiGlu, Fp8Blocks>{.intermediate = 8, .activations = Activations::int8}.check(sizes);
          }) == 109);
  Subject<QuantizedExperts<SwiGlu, Int4>, float> s({.intermediate = 8}, {.intermediate = 8}, 8, {1});
  REQUIRE(id([&] { s.policy.quantize(Exec(), {.intermediate = 9}, s.original, s.quantized); }) == 202);
}

} // namespace quantized_test
