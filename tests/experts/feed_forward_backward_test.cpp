// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/catch.hpp>

#include <kokomo/layer.hpp>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

namespace feed_forward_backward_test {

using namespace kokomo;
using Exec = Kokkos::DefaultHostExecutionSpace;

/// Everything that backward writes, by name, in double.
using Result = std::map<std::string, std::vector<double>>;

template <class Values> std::vector<double> in_double(Values const* values, std::size_t count) {
  std::vector<double> result;
  for (std::size_t i = 0; i < count; ++i) result.push_back(static_cast<double>(values[i]));
  return result;
}

double norm(std::vector<double> const& values) {
  double sum = 0;
  for (double const value : values) sum += value * value;
  return std::sqrt(sum);
}
double relative_error(std::vector<double> out, std::vector<double> const& ref) {
  REQUIRE(out.size() == ref.size());
  for (std::size_t i = 0; i < ref.size(); ++i) out[i] -= ref[i];
  return norm(out) / (norm(ref) > 0 ? norm(ref) : 1);
}

/// Experts with rows of their own, called without a layer.
template <class Experts, class T> struct Subject {
  using C = compute_t<T>;
  static constexpr offset_t tokens = 37;

  Experts experts;
  Exec exec{};
  Sizes sizes;
  bool weighs_input;
  std::mt19937 engine{3};
  std::vector<offset_t> offsets{0};
  std::vector<index_t> group_of_row, token_of_row;
  std::vector<T> x;
  std::vector<C> d_out, weight;
  parameters_t<Experts, T, Exec> parameters, old_gradients;

  Subject(Experts const& policy, std::vector<offset_t> const& rows_of_expert, offset_t hidden, bool on_input = false)
      : experts(policy), weighs_input(on_input) {
    for (std::size_t e = 0; e < rows_of_expert.size(); ++e) {
      offsets.push_back(offsets.back() + rows_of_expert[e]);
      group_of_row.insert(group_of_row.end(), std::size_t(rows_of_expert[e]), index_t(e));
    }
    sizes.tokens = tokens, sizes.hidden = hidden, sizes.entries = offsets.back();
    sizes.experts = sizes.weighted = index_t(rows_of_expert.size());
    for (offset_t r = 0; r < sizes.entries; ++r) token_of_row.push_back(index_t(engine() % tokens));
    x = values<T>(tokens * hidden), d_out = values<C>(tokens * hidden), weight = values<C>(sizes.entries);
    parameters = make(), old_gradients = make();
  }

  template <class S> std::vector<S> values(offset_t count) {
    std::vector<S> result;
    std::uniform_real_distribution<float> uniform(-0.5f, 0.5f);
    for (offset_t i = 0; i < count; ++i) result.push_back(static_cast<S>(uniform(engine)));
    return result;
  }
  parameters_t<Experts, T, Exec> make() {
    parameters_t<Experts, T, Exec> made(Allocator<Exec>(exec), experts, sizes);
    exec.fence();
    fill(made);
    return made;
  }
  void fill(parameters_t<Experts, T, Exec> const& p) {
    p.for_each(
        [&](auto const&, auto const& view) {
          auto const numbers = values<T>(offset_t(view.size()));
          std::copy(numbers.begin(), numbers.end(), view.data());
        },
        "");
  }

  /// Memory of an object that lies in an arena, filled with NaN.
  template <class Object> struct Laid {
    std::vector<std::byte> memory;
    Object object;

    static std::size_t size(Experts const& experts, Sizes const& sizes) {
      detail::Arena counted;
      (void)Object(counted, experts, sizes);
      return counted.used() + 64;
    }
    static Object lay(std::byte* memory, Experts const& experts, Sizes const& sizes) {
      auto const misplaced = reinterpret_cast<std::uintptr_t>(memory) % 64;
      detail::Arena arena(memory + (64 - misplaced) % 64);
      return Object(arena, experts, sizes);
    }
    Laid(Experts const& experts, Sizes const& sizes)
        : memory(size(experts, sizes), std::byte{0xff}), object(lay(memory.data(), experts, sizes)) {}
  };

  /// \param[in] combined by the fused path or by the plain one
  Result backward(bool combined, int workers = 1, Write write = Write::overwrite, Save save = Save::pre_activations) {
    Experts policy = experts;
    policy.save = save;
    offset_t const bytes = detail::product_scratch_bytes<C, Exec>();
    std::vector<std::byte> scratch(std::size_t(bytes * workers), std::byte{0xff});
    ExpertRows<T, Exec> const in{{x.data(), sizes.hidden, token_of_row.data(), weighs_input ? weight.data() : nullptr},
                                 {offsets.data(), group_of_row.data(), sizes.experts, sizes.entries + 2},
                                 {scratch.data(), bytes, workers}};
    Laid<saved_t<Experts, T, Exec>> saved(policy, sizes);
    Laid<scratch_t<Experts, T, Exec>> forward(policy, sizes);
    std::vector<C> out(std::size_t(sizes.entries * sizes.hidden)), dx(combined ? x.size() : out.size());
    policy.template forward<T>(exec, parameters, in, matrix(out), saved.object, forward.object);

    parameters_t<Experts, T, Exec> const gradients(Allocator<Exec>(exec), policy, sizes);
    copy(old_gradients, gradients);
    std::vector<C> d_weight(weight.size(), C(NAN));
    detail::RowSource<C, C> const d_rows{d_out.data(), sizes.hidden, token_of_row.data()};
    C const* const on_output = weighs_input ? nullptr : weight.data();
    Result result;
    if (combined) {
      Laid<typename Experts::template CombinedBackwardScratch<T, Exec>> backward(policy, sizes);
      CombinedRowGradients<T, Exec> const d{
          d_rows,
          on_output,
          sizes.hidden,
          {dx.data(), tokens, token_of_row.data(), weighs_input ? weight.data() : nullptr},
          Write::overwrite,
          weighs_input ? nullptr : d_weight.data(),
          weighs_input ? d_weight.data() : nullptr};
      policy.template backward_combined<T>(exec, parameters, in, d, gradients, write, saved.object, backward.object);
      exec.fence();
      result["x"] = in_double(dx.data(), dx.size());
    } else {
      Laid<backward_scratch_t<Experts, T, Exec>> backward(policy, sizes);
      ExpertRowGradients<T, Exec> const d{d_rows, on_output, matrix(dx), weighs_input ? nullptr : d_weight.data()};
      policy.template backward<T>(exec, parameters, in, d, gradients, write, saved.object, backward.object);
      exec.fence();
      result["x"] = combine(dx, d_weight);
    }
    result["weight"] = in_double(d_weight.data(), d_weight.size());
    gradients.for_each(
        [&](std::string const& name, auto const& view) { result[name] = in_double(view.data(), view.size()); }, "");
    return result;
  }

  Matrix<C, Exec> matrix(std::vector<C>& rows) const {
    return {rows.data(), std::size_t(sizes.entries), std::size_t(sizes.hidden)};
  }
  void copy(parameters_t<Experts, T, Exec> const& from, parameters_t<Experts, T, Exec> const& to) const {
    exec.fence();
    std::vector<T const*> data;
    from.for_each([&](auto const&, auto const& view) { data.push_back(view.data()); }, "");
    std::size_t i = 0;
    to.for_each([&](auto const&, auto const& view) { std::copy_n(data[i++], view.size(), view.data()); }, "");
  }
  /// What a layer does with the plain path's rows.
  std::vector<double> combine(std::vector<C> const& rows, std::vector<C>& d_scale) const {
    std::vector<double> sum(x.size());
    for (offset_t r = 0; r < sizes.entries; ++r) {
      offset_t const token = token_of_row[std::size_t(r)];
      double along = 0;
      for (offset_t h = 0; h < sizes.hidden; ++h) {
        double const value = rows[std::size_t(r * sizes.hidden + h)];
        sum[std::size_t(token * sizes.hidden + h)] += (weighs_input ? weight[std::size_t(r)] : 1.0) * value;
        along += value * double(x[std::size_t(token * sizes.hidden + h)]);
      }
      if (weighs_input) d_scale[std::size_t(r)] = C(along);
    }
    return sum;
  }
};

/// Both paths sum the same products, in the compute type. float32: a hundred to seven hundred roundings of 6e-8 each,
/// most of which cancel. With 16-bit storage the fused path also rounds the gradient of the pre-activations, by up to
/// half a unit in the last place (2^-9 of it for bfloat16, 2^-12 for float16), and both round their results.
template <class T> double bound() {
  if constexpr (std::is_same_v<T, bfloat16>) return std::ldexp(3.0, -9);
  if constexpr (std::is_same_v<T, float16>) return std::ldexp(3.0, -12);
  return 5e-6;
}

template <class T, class Experts>
void check_paths(Experts const& experts, std::vector<offset_t> const& rows, offset_t hidden, bool weighs_input,
                 Write write = Write::overwrite) {
  Subject<Experts, T> subject(experts, rows, hidden, weighs_input);
  CAPTURE(experts.intermediate, hidden, rows, weighs_input, int(write));
  auto const plain = subject.backward(false, 1, write), fused = subject.backward(true, 1, write);
  REQUIRE(plain.size() == fused.size());
  for (auto const& [name, values] : plain) {
    INFO(name);
    CHECK(relative_error(fused.at(name), values) <= bound<T>());
  }
  auto const again = subject.backward(true, 1, write, Save::inputs);
  CHECK(again == fused); // the pre-activations are computed by the same chains of additions
  CHECK(subject.backward(false, 1, write, Save::inputs) == plain);
  for (int workers : {2, 3}) CHECK(subject.backward(true, workers, write) == fused);
}

/// No rows, one, few, many: of 70 hidden columns in two slices, of 300 in three.
std::vector<offset_t> const uneven{0, 1, 23, 0, 7}, tall{301, 0, 2};

TEST_CASE("fused and plain backward of experts agree, in every storage type") {
  SwiGluExperts const experts{.intermediate = 70};
  check_paths<float>(experts, uneven, 33, false, Write::add);
  check_paths<bfloat16>(experts, uneven, 33, false);
  check_paths<float16>(experts, uneven, 33, false);
  check_paths<float>(SwiGluExperts{.intermediate = 300}, tall, 40, false);
  check_paths<float>(SwiGluExperts{.intermediate = 1}, {1}, 1, false);
  check_paths<float>(experts, {0, 0}, 33, false);
}

TEST_CASE("fused and plain backward agree where the weight is on the input") {
  check_paths<float>(SwiGluExperts{.intermediate = 70}, uneven, 45, true);
  check_paths<bfloat16>(SwiGluExperts{.intermediate = 70}, uneven, 45, true, Write::add);
}

TEST_CASE("fused and plain backward agree with biases and in other layouts") {
  ClampedSwiGluExperts const gpt_oss{
      .intermediate = 70,
      .bias = true,
      .gate_up = GateUp::interleaved,
      .up_order = WeightOrder::in_out,
      .down_order = WeightOrder::in_out,
      .activation = {.alpha = 1.702f, .gate_max = 0.5f, .up_limit = 0.75f, .up_offset = 1}};
  check_paths<float>(gpt_oss, uneven, 34, false);
  check_paths<float>(SquaredReluExperts{.intermediate = 66, .bias = true}, uneven, 34, false, Write::add);
}

/// Gradients that do not fit into any cache are written past them.
TEST_CASE("large gradients are the same sums") {
  offset_t const rows = 3, columns = 2048, depth = 2064;
  std::mt19937 engine(5);
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> d(std::size_t(rows * columns)), a(std::size_t(rows * depth));
  for (auto* values : {&d, &a})
    for (float& value : *values) value = uniform(engine);
  Kokkos::View<float*, Kokkos::HostSpace> w("w", std::size_t(columns * depth));
  Kokkos::deep_copy(w, NAN);
  std::vector<std::byte> scratch(std::size_t(2 * detail::product_scratch_bytes<float, Exec>()));
  Exec const exec;
  detail::grouped_outer_product(exec, "kokomo::test::outer_product", detail::GroupedRows{nullptr, nullptr, 1, rows},
                                detail::RowSource<float, float>{d.data(), columns}, columns,
                                detail::RowSource<float, float>{a.data(), depth}, depth,
                                detail::WeightRef<float>{w.data(), columns * depth, depth, 1}, Write::overwrite,
                                {scratch.data(), detail::product_scratch_bytes<float, Exec>(), 2});
  exec.fence();
  double worst = 0;
  for (offset_t n = 0; n < columns; ++n)
    for (offset_t k = 0; k < depth; ++k) {
      double sum = 0;
      for (offset_t r = 0; r < rows; ++r)
        sum += double(d[std::size_t(r * columns + n)]) * double(a[std::size_t(r * depth + k)]);
      double const error = std::abs(double(w[std::size_t(n * depth + k)]) - sum);
      worst = error <= worst ? worst : error; // NaN stays
    }
  REQUIRE(worst <= 3 * 2 * 6e-8); // three roundings of sums below 3
}

/// What the workspace of a layer holds, against the bytes of its input X and of the pre-activations H.
template <class T> void check_memory(Shape const& shape, offset_t intermediate, int k) {
  using L = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, SwiGluExperts, T, Exec>;
  Exec const exec;
  auto const plan = [&](Save save) {
    return L(shape, {.router = {.selector = {.k = k}}, .experts = {.intermediate = intermediate, .save = save}})
        .plan(exec);
  };
  auto const size = offset_t(sizeof(T)), rows = shape.tokens * k;
  offset_t const x = shape.tokens * shape.hidden * size, h = rows * 2 * intermediate * size;
  Plan const saved = plan(Save::pre_activations), again = plan(Save::inputs);
  offset_t const workers = detail::product_scratch_bytes<compute_t<T>, Exec>() * saved.workers;
  CAPTURE(shape.experts, shape.hidden, intermediate, k, x, h, workers, saved.workspace_bytes, again.workspace_bytes);
  CHECK(offset_t(saved.workspace_bytes) <= x + h + workers);
  CHECK(offset_t(saved.tape_bytes - again.tape_bytes) == h);
}

TEST_CASE("the workspace is no larger than the input and the pre-activations") {
  check_memory<float>({.tokens = 512, .hidden = 2048, .experts = 64}, 1024, 8);
  check_memory<float>({.tokens = 512, .hidden = 2048, .experts = 128}, 768, 8);
  check_memory<float>({.tokens = 512, .hidden = 2048, .experts = 8}, 7168, 2);
  check_memory<float>({.tokens = 512, .hidden = 2880, .experts = 32}, 2880, 4);
  check_memory<bfloat16>({.tokens = 512, .hidden = 2048, .experts = 64}, 1024, 8);
  check_memory<bfloat16>({.tokens = 512, .hidden = 2048, .experts = 128}, 768, 8);
  check_memory<bfloat16>({.tokens = 512, .hidden = 2048, .experts = 8}, 7168, 2);
  check_memory<bfloat16>({.tokens = 512, .hidden = 2880, .experts = 32}, 2880, 4);
}

} // namespace feed_forward_backward_test
