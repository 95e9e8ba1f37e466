// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/detail/product.hpp>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

namespace {

using namespace kokomo;
using namespace kokomo::detail;
using Exec = Kokkos::DefaultHostExecutionSpace;

enum class Layout { out_in, in_out, strided };

template <class S> double read(S const& value) {
  return static_cast<double>(value);
}

template <class S> std::vector<S> random_values(std::mt19937& engine, offset_t count) {
  std::uniform_real_distribution<float> uniform(-1.0f, 1.0f);
  std::vector<S> values(static_cast<std::size_t>(count));
  for (S& value : values) value = static_cast<S>(uniform(engine));
  return values;
}

/// Half of a unit in the last place of 1: what one rounding to S may change, relative to the value.
template <class S> double rounding() {
  if constexpr (std::is_same_v<S, bfloat16>) return std::ldexp(1.0, -8);
  if constexpr (std::is_same_v<S, float16>) return std::ldexp(1.0, -11);
  if constexpr (std::is_same_v<S, float>) return std::ldexp(1.0, -24);
  return std::ldexp(1.0, -53);
}

/// A result in double, with the sum of the magnitudes of its terms.
struct Reference {
  std::vector<double> value, magnitude;
};

/// ||out - ref|| against the forward error of sums of `terms` products in C, however they are ordered, and of one
/// rounding to S. The norm of the magnitudes stands for ||ref||, which cancellation could make small. float16 results
/// below its normal range lose at most 2^-25 an element.
template <class C, class S> void check(std::vector<S> const& out, Reference const& reference, offset_t terms) {
  double error = 0.0, value = 0.0, magnitude = 0.0;
  for (std::size_t i = 0; i < out.size(); ++i) {
    error += std::pow(read(out[i]) - reference.value[i], 2);
    value += std::pow(reference.value[i], 2);
    magnitude += std::pow(reference.magnitude[i], 2);
  }
  double const arithmetic = double(terms + 4) * rounding<C>() * std::sqrt(magnitude);
  double const underflow = std::is_same_v<S, float16> ? std::ldexp(1.0, -25) * std::sqrt(double(out.size())) : 0.0;
  // 1.01: the storage rounding applies to the computed value, not to the reference
  REQUIRE(std::sqrt(error) <= arithmetic + 1.01 * rounding<S>() * std::sqrt(value) + underflow);
}

template <class T> bool same_bits(std::vector<T> const& x, std::vector<T> const& y) {
  return x.size() == y.size() && (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(T)) == 0);
}

struct Case {
  std::vector<offset_t> rows_of_group;
  offset_t columns, depth;
  Layout layout = Layout::out_in;
  bool gathered = false, scaled = false, biased = false;
  Write write = Write::overwrite;
};

/// Random operands of one product and of its gradients, with padding around every row.
template <class SA, class SB, class SO> struct Problem {
  using C = std::conditional_t<std::is_same_v<compute_t<SA>, double>, double, compute_t<SB>>;
  static constexpr offset_t padding = 3;

  Case sizes;
  std::vector<offset_t> offsets{0};
  std::vector<index_t> group_of_row, index;
  offset_t rows = 0, tokens = 5;
  std::vector<SA> a;
  std::vector<SB> b, bias;
  std::vector<SO> out, d;
  std::vector<C> scale;

  Problem(Case const& s, std::mt19937& engine) : sizes(s) {
    for (std::size_t g = 0; g < s.rows_of_group.size(); ++g) {
      offsets.push_back(offsets.back() + s.rows_of_group[g]);
      group_of_row.insert(group_of_row.end(), std::size_t(s.rows_of_group[g]), index_t(g));
    }
    rows = offsets.back();
    for (offset_t r = 0; r < rows; ++r) index.push_back(index_t(engine() % unsigned(tokens)));
    if (!s.gathered) tokens = rows;
    a = random_values<SA>(engine, tokens * (s.depth + padding));
    b = random_values<SB>(engine, groups() * weight().group_stride);
    bias = random_values<SB>(engine, groups() * s.columns);
    out = random_values<SO>(engine, rows * (s.columns + padding));
    d = random_values<SO>(engine, rows * (s.columns + padding));
    scale = random_values<C>(engine, rows);
  }

  index_t groups() const { return index_t(sizes.rows_of_group.size()); }
  /// An upper bound, as a host that knows only the capacity would give.
  GroupedRows grouped() const { return {offsets.data(), group_of_row.data(), groups(), rows + 2}; }
  RowSource<SA, C> source() const {
    return {a.data(), sizes.depth + padding, sizes.gathered ? index.data() : nullptr,
            sizes.scaled ? scale.data() : nullptr};
  }
  RowSource<SO, C> gradient() const { return {d.data(), sizes.columns + padding, nullptr, nullptr}; }
  template <class S = SB const> WeightRef<S> weight(S* data = nullptr) const {
    offset_t const n = sizes.columns, k = sizes.depth;
    if (sizes.layout == Layout::out_in) return {data, n * k, k, 1};
    if (sizes.layout == Layout::in_out) return {data, n * k, 1, n};
    return {data, 2 * n * (k + 1), 2 * (k + 1), 2}; // every second element: no unit stride at all
  }
  BiasRef<SB const> bias_ref() const { return {sizes.biased ? bias.data() : nullptr, sizes.columns, 1}; }

  RowTarget<SO> target(std::vector<SO>& rows_of_out) const { return {rows_of_out.data(), sizes.columns + padding}; }
  BiasRef<SB> bias_target(std::vector<SB>& values) const { return {values.data(), sizes.columns, 1}; }

  double a_value(offset_t r, offset_t k) const {
    offset_t const at = sizes.gathered ? offset_t(index[std::size_t(r)]) : r;
    double const value = read(a[std::size_t(at * (sizes.depth + padding) + k)]);
    return sizes.scaled ? read(scale[std::size_t(r)]) * value : value;
  }
  double d_value(offset_t r, offset_t n) const { return read(d[std::size_t(r * (sizes.columns + padding) + n)]); }
};

template <class S> Reference start(std::vector<S> const& old) {
  Reference reference;
  for (S const& x : old) reference.value.push_back(read(x));
  reference.magnitude.assign(old.size(), 0.0);
  return reference;
}

/// Adds a sum to, or puts it in the place of, element `at`.
void put(Reference& reference, std::size_t at, double sum, double magnitude, Write write) {
  bool const add = write == Write::add;
  reference.magnitude[at] = magnitude + (add ? std::abs(reference.value[at]) : 0.0);
  reference.value[at] = sum + (add ? reference.value[at] : 0.0);
}

template <class P> Reference product_reference(P const& p) {
  Reference reference = start(p.out);
  auto const w = p.weight(p.b.data());
  for (offset_t r = 0; r < p.rows; ++r)
    for (offset_t n = 0; n < p.sizes.columns; ++n) {
      index_t const g = p.group_of_row[std::size_t(r)];
      double sum = p.sizes.biased ? read(p.bias[std::size_t(g * p.sizes.columns + n)]) : 0.0;
      double magnitude = std::abs(sum);
      for (offset_t k = 0; k < p.sizes.depth; ++k) {
        double const term = p.a_value(r, k) * read(w(g, n, k));
        sum += term;
        magnitude += std::abs(term);
      }
      put(reference, std::size_t(r * (p.sizes.columns + p.padding) + n), sum, magnitude, p.sizes.write);
    }
  return reference;
}

template <class P> Reference outer_reference(P const& p) {
  Reference reference = start(p.b);
  auto const w = p.weight(p.b.data());
  for (index_t g = 0; g < p.groups(); ++g)
    for (offset_t n = 0; n < p.sizes.columns; ++n)
      for (offset_t k = 0; k < p.sizes.depth; ++k) {
        double sum = 0.0, magnitude = 0.0;
        for (offset_t r = p.offsets[std::size_t(g)]; r < p.offsets[std::size_t(g) + 1]; ++r) {
          double const term = p.d_value(r, n) * p.a_value(r, k);
          sum += term;
          magnitude += std::abs(term);
        }
        put(reference, std::size_t(&w(g, n, k) - p.b.data()), sum, magnitude, p.sizes.write);
      }
  return reference;
}

template <class P> Reference row_sum_reference(P const& p) {
  Reference reference = start(p.bias);
  for (index_t g = 0; g < p.groups(); ++g)
    for (offset_t n = 0; n < p.sizes.columns; ++n) {
      double sum = 0.0, magnitude = 0.0;
      for (offset_t r = p.offsets[std::size_t(g)]; r < p.offsets[std::size_t(g) + 1]; ++r) {
        sum += p.d_value(r, n);
        magnitude += std::abs(p.d_value(r, n));
      }
      put(reference, std::size_t(g * p.sizes.columns + n), sum, magnitude, p.sizes.write);
    }
  return reference;
}

/// Scratch for `workers`, wherever the allocator puts it, filled with NaN: whatever is read before it is written shows.
template <class C> struct Scratch {
  std::vector<std::byte> memory;
  int workers;

  explicit Scratch(int n)
      : memory(std::size_t(n * product_scratch_bytes<C, Exec>() + 4), std::byte{0xff}), workers(n) {}
  WorkerScratch ref() { return {memory.data() + 4, product_scratch_bytes<C, Exec>(), workers}; }
};

template <class P> struct Results {
  decltype(P::out) out;
  decltype(P::b) weight_gradient;
  decltype(P::bias) bias_gradient;
};

template <class P> Results<P> on_host(P const& p, int workers) {
  Exec const exec;
  Results<P> results{p.out, p.b, p.bias};
  Scratch<typename P::C> scratch(workers);
  grouped_product(exec, "kokomo::test::product", p.grouped(), p.source(), p.sizes.depth, p.weight(p.b.data()),
                  p.bias_ref(), p.sizes.columns, p.target(results.out), p.sizes.write, scratch.ref());
  grouped_outer_product(exec, "kokomo::test::outer_product", p.grouped(), p.gradient(), p.sizes.columns, p.source(),
                        p.sizes.depth, p.weight(results.weight_gradient.data()), p.sizes.write, scratch.ref());
  grouped_row_sum(exec, "kokomo::test::row_sum", p.grouped(), p.gradient(), p.sizes.columns,
                  p.bias_target(results.bias_gradient), p.sizes.write);
  exec.fence("kokomo::test");
  return results;
}

template <class P> Results<P> on_portable(P const& p) {
  Exec const exec;
  Results<P> results{p.out, p.b, p.bias};
  portable::grouped_product(exec, "kokomo::test::product", p.grouped(), p.source(), p.sizes.depth, p.weight(p.b.data()),
                            p.bias_ref(), p.sizes.columns, p.target(results.out), p.sizes.write);
  portable::grouped_outer_product(exec, "kokomo::test::outer_product", p.grouped(), p.gradient(), p.sizes.columns,
                                  p.source(), p.sizes.depth, p.weight(results.weight_gradient.data()), p.sizes.write);
  portable::grouped_row_sum(exec, "kokomo::test::row_sum", p.grouped(), p.gradient(), p.sizes.columns,
                            p.bias_target(results.bias_gradient), p.sizes.write);
  exec.fence("kokomo::test");
  return results;
}

template <class P> bool same_bits(Results<P> const& x, Results<P> const& y) {
  return same_bits(x.out, y.out) && same_bits(x.weight_gradient, y.weight_gradient) &&
         same_bits(x.bias_gradient, y.bias_gradient);
}

std::vector<host::InstructionSet> instruction_sets() {
  std::vector<host::InstructionSet> sets;
  for (auto set : {host::InstructionSet::portable, host::InstructionSet::avx2, host::InstructionSet::avx512})
    if (host::supports(set)) sets.push_back(set);
  return sets;
}

/// Every path that this machine has against the reference, for any number of workers to the bit.
template <class SA, class SB, class SO> void check_problem(Case const& sizes, std::mt19937& engine) {
  Problem<SA, SB, SO> const p(sizes, engine);
  using P = Problem<SA, SB, SO>;
  using C = typename P::C;
  Reference const out = product_reference(p), weights = outer_reference(p), bias = row_sum_reference(p);
  offset_t longest = 0;
  for (offset_t rows : sizes.rows_of_group) longest = std::max(longest, rows);
  auto const check_results = [&](Results<P> const& results) {
    check<C>(results.out, out, sizes.depth);
    check<C>(results.weight_gradient, weights, longest);
    check<C>(results.bias_gradient, bias, longest);
  };
  CAPTURE(sizes.columns, sizes.depth, int(sizes.layout), sizes.gathered, sizes.scaled, sizes.biased, int(sizes.write));
  CAPTURE(sizes.rows_of_group);
  check_results(on_portable(p));
  auto const best = host::instruction_set();
  for (auto set : instruction_sets()) {
    host::instruction_set() = set;
    INFO(host::to_text(set));
    Results<P> const results = on_host(p, 1);
    check_results(results);
    for (int workers : {2, 7}) REQUIRE(same_bits(results, on_host(p, workers)));
  }
  host::instruction_set() = best;
}

} // namespace

TEST_CASE("grouped products agree with sums in double, in every storage type and layout") {
  std::mt19937 engine(20250117);
  auto const pick = [&](auto... choices) {
    std::array const all{choices...};
    return all[engine() % all.size()];
  };
  for (int round = 0; round < 16; ++round) {
    Case sizes;
    int const groups = pick(1, 2, 3, 5);
    for (int g = 0; g < groups; ++g) sizes.rows_of_group.push_back(pick(0, 0, 1, 1, 2, 7, 17, 33));
    sizes.columns = pick(1, 2, 7, 17, 33, 100);
    sizes.depth = pick(0, 1, 2, 7, 17, 33, 100);
    sizes.layout = Layout(round % 3);
    sizes.gathered = pick(false, true);
    sizes.scaled = pick(false, true);
    sizes.biased = pick(false, true);
    sizes.write = pick(Write::overwrite, Write::add);
    check_problem<float, float, float>(sizes, engine);
    check_problem<bfloat16, bfloat16, float>(sizes, engine);
    check_problem<bfloat16, float, float>(sizes, engine);
    check_problem<float16, float16, float>(sizes, engine);
    check_problem<float, bfloat16, bfloat16>(sizes, engine);
    check_problem<bfloat16, float16, float16>(sizes, engine);
    check_problem<double, double, double>(sizes, engine);
  }
}

TEST_CASE("grouped products larger than a block, and few columns of many rows") {
  std::mt19937 engine(7);
  Layout const layouts[] = {Layout::out_in, Layout::in_out};
  for (Layout layout : layouts) {
    // Blocks hold 120 rows, 256 steps of a sum and 512 columns of float32: each pair of them at once, for products
    // (rows, depth, columns) and for outer products (columns, rows, depth). Then the shape of router logits.
    for (Case const& large : {Case{{1, 257, 0, 33}, 40, 257, layout, true, true, true, Write::add},
                              Case{{257, 2}, 130, 19, layout, true, true, true, Write::add},
                              Case{{3, 121}, 513, 19, layout, true, true, true, Write::add},
                              Case{{2, 9}, 121, 513, layout, true, true, true, Write::add},
                              Case{{7}, 513, 257, layout, true, true, true, Write::add}})
      check_problem<float, float, float>(large, engine);
    Case const logits{{513}, 16, 65, layout, false, false, true, Write::overwrite};
    check_problem<float, float, float>(logits, engine);
    check_problem<bfloat16, float, float>(logits, engine);
  }
  check_problem<double, double, double>({{129, 2}, 130, 130, Layout::out_in, true, false, true, Write::add}, engine);
}

TEST_CASE("a row's product does not depend on its place in the group") {
  std::mt19937 engine(11);
  Problem<float, float, float> p({{101}, 70, 300}, engine);
  for (auto set : instruction_sets()) {
    host::instruction_set() = set;
    Problem<float, float, float> alone = p;
    alone.sizes.rows_of_group = {1};
    alone.offsets = {0, 1};
    auto const together = on_host(p, 2).out;
    offset_t const pitch = p.sizes.columns + p.padding, source_pitch = p.sizes.depth + p.padding;
    for (offset_t r = 0; r < p.rows; r += 10) {
      std::copy_n(p.a.begin() + r * source_pitch, source_pitch, alone.a.begin());
      auto const single = on_host(alone, 1).out;
      REQUIRE(std::memcmp(single.data(), together.data() + r * pitch, std::size_t(p.sizes.columns) * sizeof(float)) ==
              0);
    }
  }
}

TEST_CASE("empty grouped products touch nothing") {
  std::mt19937 engine(3);
  for (Case const& sizes : {Case{{}, 3, 4}, Case{{0, 0}, 3, 4}, Case{{2, 1}, 0, 4}}) {
    Problem<float, float, float> const p(sizes, engine);
    REQUIRE(same_bits(on_host(p, 2).out, p.out));
    REQUIRE(same_bits(on_portable(p).out, p.out));
  }
}

TEST_CASE("one group without offsets holds all rows") {
  std::mt19937 engine(5);
  Problem<float, float, float> const p({{19}, 16, 40}, engine);
  auto const expected = on_host(p, 1).out;
  auto out = p.out;
  Scratch<float> scratch(2);
  grouped_product(Exec{}, "kokomo::test::product", GroupedRows{.groups = 1, .rows = p.rows}, p.source(), p.sizes.depth,
                  p.weight(p.b.data()), p.bias_ref(), p.sizes.columns, p.target(out), p.sizes.write, scratch.ref());
  Exec{}.fence("kokomo::test");
  REQUIRE(same_bits(out, expected));
}

TEST_CASE("16-bit values convert four at a time as they do alone") {
  int different = 0;
  for (std::uint32_t bits = 0; bits < 0x10000u; bits += 4) {
    bfloat16 b[4];
    float16 h[4];
    for (std::uint32_t i = 0; i < 4; ++i) {
      b[i] = bfloat16::from_bits(std::uint16_t(bits + i));
      h[i] = float16::from_bits(std::uint16_t(bits + i));
    }
    float from_b[4], from_h[4];
    host::Quad<float>::load(b).store(from_b);
    host::Quad<float>::load(h).store(from_h);
    for (int i = 0; i < 4; ++i) {
      different += Kokkos::bit_cast<std::uint32_t>(from_b[i]) != Kokkos::bit_cast<std::uint32_t>(float(b[i]));
      different += Kokkos::bit_cast<std::uint32_t>(from_h[i]) != Kokkos::bit_cast<std::uint32_t>(float(h[i]));
    }
  }
  std::mt19937 engine(13);
  for (int round = 0; round < 20000; ++round) { // any bits: NaN, infinities and ties among them
    float value[4];
    for (float& x : value) x = Kokkos::bit_cast<float>(std::uint32_t(engine()) & (round % 2 ? ~0u : 0xffff8000u));
    bfloat16 b[4];
    host::Quad<float>::load(value).store(b);
    for (int i = 0; i < 4; ++i) different += b[i].bits != bfloat16(value[i]).bits;
  }
  REQUIRE(different == 0);
}
