// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/loss_check.hpp>

#include <kokomo/experts/feed_forward.hpp>
#include <kokomo/gate/score_gate.hpp>
#include <kokomo/transform/freeze_by_score.hpp>
#include <kokomo/transform/spectral.hpp>

#include <random>

namespace spectral_test {

using namespace kokomo;
using namespace kokomo::test;

Rows random_rows(std::size_t n, std::size_t d, unsigned seed) {
  std::mt19937 engine(seed);
  Rows rows(n, Row(d));
  for (auto& row : rows)
    for (auto& value : row) value = double(engine()) / 2147483648.0 - 1;
  return rows;
}
Rows product(Rows const& a, Rows const& b) {
  Rows out(a.size(), Row(b[0].size(), 0.0));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < b.size(); ++k)
      for (std::size_t j = 0; j < b[0].size(); ++j) out[i][j] += a[i][k] * b[k][j];
  return out;
}
Rows transposed(Rows const& a) {
  Rows out(a[0].size(), Row(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[0].size(); ++j) out[j][i] = a[i][j];
  return out;
}
OwnedMatrix<double, Exec> device(Rows const& rows) {
  OwnedMatrix<double, Exec> view("rows", rows.size(), rows[0].size());
  to_device(flat(rows), view);
  return view;
}

struct Task {
  Exec exec;
  SecondMoment<Exec> moment;
  Spectrum<Exec> spectrum;

  explicit Task(Rows const& x, double energy = 1)
      : moment(exec, offset_t(x[0].size())), spectrum(exec, offset_t(x[0].size())) {
    accumulate(x);
    spectrum.decompose(exec, moment, energy);
    exec.fence();
  }
  void accumulate(Rows const& x) {
    moment.accumulate<double>(exec, device(x));
    exec.fence();
  }
  Rows apply(SpectralTransform const& transform, Rows const& grad) const {
    auto const view = device(grad);
    transform.apply<double>(exec, spectrum, view);
    exec.fence();
    return in_rows(to_host(view), grad.size());
  }
};

TEST_CASE("the second moment is that of all batches together, and predicts the mean of |dW x|^2") {
  auto const x = random_rows(11, 4, 1), more = random_rows(5, 4, 2), w = random_rows(3, 4, 3);
  Task task(x);
  task.accumulate(more);
  auto all = x;
  all.insert(all.end(), more.begin(), more.end());
  auto expected = product(transposed(all), all);
  for (auto& row : expected)
    for (auto& value : row) value /= 16;
  REQUIRE(relative_error(to_host(task.moment.moment), flat(expected)) <= 1e-14);
  double mean = 0, trace = 0;
  for (auto const& row : product(all, transposed(w)))
    for (double const value : row) mean += value * value / 16;
  auto const wc = product(product(w, in_rows(to_host(task.moment.moment), 4)), transposed(w));
  for (std::size_t i = 0; i < 3; ++i) trace += wc[i][i];
  REQUIRE(mean == Approx(trace).epsilon(1e-13));
  task.moment.reset(task.exec);
  task.exec.fence();
  REQUIRE(to_host(task.moment.count) == Row{0});
}

TEST_CASE("the spectrum: orthonormal eigenvectors, descending, as many as the energy asks for") {
  Task const task(random_rows(20, 9, 4));
  auto const c = in_rows(to_host(task.moment.moment), 9), v = in_rows(to_host(task.spectrum.vectors), 9);
  auto const s = to_host(task.spectrum.values);
  auto const gram = product(v, transposed(v)), image = product(v, c);
  for (std::size_t i = 0; i < 9; ++i) {
    if (i > 0) REQUIRE(s[i] <= s[i - 1]);
    for (std::size_t j = 0; j < 9; ++j) {
      REQUIRE(std::abs(gram[i][j] - (i == j ? 1 : 0)) <= 1e-13);
      REQUIRE(std::abs(image[i][j] - s[i] * v[i][j]) <= 1e-13);
    }
  }
  double total = 0;
  for (double const value : s) total += value * value;
  for (double const energy : {0.0, 0.5, 0.9, 0.999}) {
    Task const part(random_rows(20, 9, 4), energy);
    auto const k = std::size_t(to_host(part.spectrum.rank)[0]);
    double seen = 0;
    for (std::size_t i = 0; i < k; ++i) seen += s[i] * s[i];
    REQUIRE(seen >= energy * total);
    if (k > 0) REQUIRE(seen - s[k - 1] * s[k - 1] < energy * total);
  }
  REQUIRE(to_host(Task(Rows(3, Row(4, 0.0))).spectrum.rank)[0] == 0); // nothing was seen
}

TEST_CASE("a centred moment is the batch's covariance, and a rank may be bounded") {
  Exec const exec;
  auto x = random_rows(9, 4, 21);
  for (auto& row : x) row[2] += 5; // a mean that would drown the rest
  SecondMoment<Exec> const moment(exec, 4);
  moment.accumulate<double>(exec, device(random_rows(3, 4, 22)));
  moment.reset(exec);
  moment.accumulate<double>(exec, device(x), Centre::batch);
  exec.fence();
  Row mean(4);
  for (auto const& row : x)
    for (std::size_t h = 0; h < 4; ++h) mean[h] += row[h] / 9;
  auto deviations = x;
  for (auto& row : deviations)
    for (std::size_t h = 0; h < 4; ++h) row[h] -= mean[h];
  auto expected = product(transposed(deviations), deviations);
  for (auto& row : expected)
    for (auto& value : row) value /= 9;
  REQUIRE(relative_error(to_host(moment.moment), flat(expected)) <= 1e-13);
  Spectrum<Exec> const spectrum(exec, 4);
  for (auto const& [most, rank] : {std::pair{0, 4}, std::pair{2, 2}, std::pair{9, 4}}) {
    spectrum.decompose(exec, moment, 1, most);
    exec.fence();
    REQUIRE(to_host(spectrum.rank)[0] == rank);
  }
  REQUIRE_THROWS_AS(spectrum.decompose(exec, moment, 1, -1), Error);
}

TEST_CASE("null space: after any steps old inputs keep their logits, new ones do not") {
  std::size_t const d = 8;
  auto old = random_rows(40, d, 5);
  for (auto& row : old) row[6] = row[0] - row[1], row[7] = 2 * row[2], row[5] = 0; // rank 5
  Task const task(old);
  auto w = random_rows(3, d, 6);
  auto const before = product(old, transposed(w));
  for (unsigned step = 0; step < 20; ++step) {
    auto const g = task.apply({.scale = SpectralScale::null_space}, random_rows(3, d, 100 + step));
    for (std::size_t i = 0; i < 3; ++i)
      for (std::size_t k = 0; k < d; ++k) w[i][k] -= 0.5 * g[i][k];
  }
  REQUIRE(relative_error(flat(product(old, transposed(w))), flat(before)) <= 1e-6);
  auto const fresh = random_rows(5, d, 7);
  REQUIRE(distance(flat(product(fresh, transposed(w))), flat(product(fresh, transposed(random_rows(3, d, 6))))) > 1);
}

TEST_CASE("inverse: equals the dense (C + mu)^-1 where all is kept, and the low-rank formula otherwise") {
  auto const x = random_rows(30, 5, 8), g = random_rows(2, 5, 9);
  Task const all(x);
  auto const out = all.apply({.scale = SpectralScale::inverse, .mu = 0.5f}, g);
  auto c = in_rows(to_host(all.moment.moment), 5);
  for (std::size_t i = 0; i < 5; ++i) c[i][i] += 0.5;
  REQUIRE(relative_error(flat(product(out, c)), flat(g)) <= 1e-12); // (g (C + mu)^-1) (C + mu) = g

  Task const part(x, 0.7);
  auto const k = std::size_t(to_host(part.spectrum.rank)[0]);
  REQUIRE((k > 0 && k < 5));
  auto const v = in_rows(to_host(part.spectrum.vectors), 5);
  auto const s = to_host(part.spectrum.values);
  auto expected = g;
  for (std::size_t r = 0; r < 2; ++r)
    for (std::size_t h = 0; h < 5; ++h) {
      expected[r][h] = g[r][h] / 0.5;
      for (std::size_t i = 0; i < k; ++i)
        for (std::size_t j = 0; j < 5; ++j)
          expected[r][h] += (1 / (s[i] + 0.5) - 1 / 0.5) * g[r][j] * v[i][j] * v[i][h];
    }
  REQUIRE(relative_error(flat(part.apply({.scale = SpectralScale::inverse, .mu = 0.5f}, g)), flat(expected)) <= 1e-12);
}

TEST_CASE("smoothed: scales within [low, 1], the smallest kept eigenvalue's unchanged, the rest untouched") {
  auto const x = random_rows(30, 6, 10);
  Task const task(x, 0.8);
  auto const k = std::size_t(to_host(task.spectrum.rank)[0]);
  REQUIRE((k > 1 && k < 6));
  auto const v = in_rows(to_host(task.spectrum.vectors), 6);
  auto const s = to_host(task.spectrum.values);
  for (std::size_t i = 0; i < 6; ++i) { // along an eigenvector the transform is a factor
    auto const out = task.apply({.scale = SpectralScale::smoothed, .window = 1}, Rows{v[i]})[0];
    double const factor = i < k ? std::max(0.8, s[k - 1] / s[i]) : 1;
    for (std::size_t h = 0; h < 6; ++h) REQUIRE(out[h] == Approx(factor * v[i][h]).margin(1e-7)); // 0.8 is a float
  }
}

TEST_CASE("two tasks of linear regression: with null-space steps the first stays learnt") {
  std::size_t const d = 6;
  auto first = random_rows(20, d, 11), second = random_rows(20, d, 12);
  for (auto& row : first) row[3] = row[4] = row[5] = 0;
  for (auto& row : second) row[0] *= 0.5; // overlaps with the first
  auto const truth = random_rows(1, d, 13), other = random_rows(1, d, 14);
  auto const loss = [&](Rows const& w, Rows const& x, Rows const& target) {
    return std::pow(distance(flat(product(x, transposed(w))), flat(product(x, transposed(target)))), 2) /
           double(x.size());
  };
  auto const train = [&](Rows w, Rows const& x, Rows const& target, Task const* old) {
    for (int n = 0; n < 300; ++n) {
      auto error = product(x, transposed(w));
      auto const wanted = product(x, transposed(target));
      for (std::size_t t = 0; t < x.size(); ++t) error[t][0] -= wanted[t][0];
      auto g = product(transposed(error), x);
      if (old != nullptr) g = old->apply({}, g);
      for (std::size_t k = 0; k < d; ++k) w[0][k] -= 0.5 * g[0][k] / double(x.size());
    }
    return w;
  };
  auto const learnt = train(Rows(1, Row(d, 0.0)), first, truth, nullptr);
  Task const old(first);
  double const at_first = loss(learnt, first, truth);
  REQUIRE(at_first < 1e-6);
  REQUIRE(loss(train(learnt, second, other, &old), first, truth) <= at_first + 1e-12);
  REQUIRE(loss(train(learnt, second, other, nullptr), first, truth) > 1e-2);
}

TEST_CASE("transforms refuse what makes no sense") {
  Exec const exec;
  Spectrum<Exec> const spectrum(exec, 3);
  auto const grad = device(random_rows(2, 3, 1)), wide = device(random_rows(2, 4, 1));
  REQUIRE_THROWS_AS((SpectralTransform{.mu = 0}.apply<double>(exec, spectrum, grad)), Error);
  REQUIRE_THROWS_AS((SpectralTransform{.window = 0}.apply<double>(exec, spectrum, grad)), Error);
  REQUIRE_THROWS_AS((SpectralTransform{.low = 2}.apply<double>(exec, spectrum, grad)), Error);
  REQUIRE_THROWS_AS((SpectralTransform{}.apply<double>(exec, spectrum, wide)), Error);
  REQUIRE_THROWS_AS(spectrum.decompose(exec, SecondMoment<Exec>(exec, 4), 0.9), Error);
  REQUIRE_THROWS_AS(spectrum.decompose(exec, SecondMoment<Exec>(exec, 3), 1.5), Error);
}

TEST_CASE("freezing by score: averages, scores by hand, the kept expert") {
  Exec const exec;
  ExpertUsage<Exec> const usage(exec, 3);
  auto f = fixture_of({.logits = {{2, 0, -9}, {2, -9, 0}, {-9, 1, 0}}, .k = 2});
  f.weigh(NormalizedSoftmaxGate{});
  auto const w = f.weights();
  auto const x = device({{1, 2}, {0, 3}, {1, 1}}); // |x|^2 = 5, 9, 2
  FreezeByScore const policy{.threshold = 0.1f};
  policy.update<double>(exec, usage, x, f.assignment);
  policy.update<double>(exec, usage, x, f.assignment);
  exec.fence();
  Row const u{(w[0][0] + w[1][0]) / 3, (w[0][1] + w[2][0]) / 3, (w[1][1] + w[2][1]) / 3};
  Row const g{(5 * w[0][0] + 9 * w[1][0]) / 3, (5 * w[0][1] + 2 * w[2][0]) / 3, (9 * w[1][1] + 2 * w[2][1]) / 3};
  REQUIRE(relative_error(to_host(usage.utilization), u) <= 1e-14);
  REQUIRE(relative_error(to_host(usage.importance), g) <= 1e-14);

  auto const frozen = [&](FreezeByScore const& p) {
    p.decide(exec, usage);
    exec.fence();
    return to_host(usage.frozen);
  };
  to_device(Row{0.8, 0.5, 0.2}, usage.utilization), to_device(Row{1, 3, 1}, usage.importance);
  // places (1, 1/2, 0) and (0, 1, 0): scores 1, -1/2, 0
  REQUIRE(frozen({.threshold = 0.1f}) == std::vector<index_t>{0, 1, 1});
  REQUIRE(frozen({.threshold = 0}) == std::vector<index_t>{0, 1, 0});
  REQUIRE(frozen({.threshold = 0.1f, .keep = 2}) == std::vector<index_t>{0, 1, 0});
  REQUIRE(frozen({.threshold = -1}) == std::vector<index_t>{0, 0, 0});
  to_device(Row{1, 1, 1}, usage.utilization), to_device(Row{2, 2, 2}, usage.importance);
  REQUIRE(frozen({.threshold = 0.1f}) == std::vector<index_t>{1, 1, 1}); // no difference anywhere: score 0

  ExpertUsage<Exec> const decaying(exec, 3);
  FreezeByScore const exponential{.decay = 0.75f};
  exponential.update<double>(exec, decaying, x, f.assignment);
  auto const twice = device({{2, 4}, {0, 6}, {2, 2}});
  exponential.update<double>(exec, decaying, twice, f.assignment);
  exec.fence();
  REQUIRE(to_host(decaying.importance)[0] == Approx(0.75 * g[0] + 0.25 * 4 * g[0]).epsilon(1e-13));
}

TEST_CASE("a frozen expert's parameters and AdamW moments are bit-identical after a step, a zero gradient alone is not "
          "enough") {
  Exec const exec;
  ExpertUsage<Exec> const usage(exec, 3);
  to_device(std::vector<index_t>{0, 1, 0}, usage.frozen);
  Sizes sizes;
  sizes.hidden = 2, sizes.experts = sizes.weighted = 3;
  ReluExperts const experts{.intermediate = 2};
  Allocator<Exec> const allocate(exec);
  parameters_t<ReluExperts, double, Exec> const grads(allocate, experts, sizes);
  to_device(Row(12, 1.0), grads.up), to_device(Row(12, 2.0), grads.down);
  FreezeByScore{}.clear(exec, usage, grads);
  exec.fence();
  REQUIRE(to_host(grads.up) == Row{1, 1, 1, 1, 0, 0, 0, 0, 1, 1, 1, 1});
  REQUIRE(to_host(grads.down) == Row{2, 2, 2, 2, 0, 0, 0, 0, 2, 2, 2, 2});

  auto const adamw = [&](bool leaves_out_frozen) {
    Row weight(12, 0.5), m(12, 0.1), v(12, 0.2);
    auto const g = to_host(grads.up);
    auto const frozen = to_host(usage.frozen);
    for (std::size_t i = 0; i < 12; ++i) {
      if (leaves_out_frozen && frozen[i / 4] != 0) continue;
      m[i] = 0.9 * m[i] + 0.1 * g[i], v[i] = 0.99 * v[i] + 0.01 * g[i] * g[i];
      weight[i] -= 0.1 * (m[i] / (std::sqrt(v[i]) + 1e-8) + 0.01 * weight[i]);
    }
    return weight[4] == 0.5 && m[4] == 0.1 && v[4] == 0.2 && weight[0] != 0.5;
  };
  REQUIRE(adamw(true));
  REQUIRE(!adamw(false));
}

} // namespace spectral_test
