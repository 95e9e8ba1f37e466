// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <support/layer_fixture.hpp>
#include <support/scale_experts.hpp>

#include <kokomo/gate/constant.hpp>
#include <kokomo/router/given.hpp>
#include <kokomo/schedule/least_loaded.hpp>

#include <numeric>
#include <random>

namespace least_loaded_test {

using namespace kokomo;
using namespace kokomo::test;

using Loads = std::vector<offset_t>;
using Pieces = std::vector<DeviceRows>;

offset_t sum(Loads const& loads) {
  return std::accumulate(loads.begin(), loads.end(), offset_t(0));
}

/// Every expert stays on its device.
bool stays(DevicePlan const& placement, Loads const& loads, index_t devices) {
  auto const each = index_t(loads.size()) / devices;
  for (std::size_t e = 0; e < loads.size(); ++e)
    if (placement.rows_of[e] != (loads[e] == 0 ? Pieces{} : Pieces{{index_t(e) / each, 0, loads[e]}})) return false;
  return placement.transfers == 0;
}

TEST_CASE("least-loaded placement: pieces cover each expert, loads add up, nobody is over capacity") {
  std::mt19937 engine(3);
  for (int plan = 0; plan < 3000; ++plan) {
    auto const devices = index_t(1 + engine() % 6), each = index_t(1 + engine() % 5);
    Loads loads(std::size_t(devices * each));
    bool const skewed = engine() % 2 == 0;
    for (auto& load : loads) load = offset_t(engine() % 20) * (skewed && engine() % 4 == 0 ? 30 : 1);
    loads[0] += devices - sum(loads) % devices; // the mean is a whole number
    for (auto const form : {LeastLoadedForm::paper, LeastLoadedForm::code}) {
      LeastLoaded const policy{.devices = devices,
                               .capacity = 1 + double(engine() % 3) / 4,
                               .least_rows = plan % 2 == 0 ? 1 : offset_t(1 + engine() % 40),
                               .form = form};
      auto const placement = policy.plan(loads);
      Loads seen(std::size_t(devices), 0);
      for (std::size_t e = 0; e < loads.size(); ++e) {
        offset_t next = 0;
        for (auto const& piece : placement.rows_of[e]) {
          REQUIRE((piece.begin == next && piece.end > piece.begin));
          next = piece.end;
          seen[std::size_t(piece.device)] += piece.end - piece.begin;
        }
        REQUIRE(next == loads[e]);
      }
      REQUIRE(seen == placement.load);
      if (policy.least_rows == 1) {
        auto const most = offset_t(policy.capacity * double(sum(loads) / devices));
        REQUIRE(*std::max_element(seen.begin(), seen.end()) <= most);
      }
    }
  }
}

TEST_CASE("least-loaded placement: hot experts of a million rows, eight devices of sixteen experts") {
  // imbalance without it, and how many experts travel: measurements made for the description that this follows
  struct Case {
    double share;
    std::size_t hot;
    double plain;
    offset_t transfers;
  };
  for (auto const& c :
       {Case{.30, 16, 2.40, 16}, Case{.50, 4, 4.39, 10}, Case{.80, 4, 6.56, 10}, Case{.95, 1, 7.65, 7}}) {
    offset_t const total = 1 << 20;
    Loads loads(128);
    for (std::size_t e = 0; e < 128; ++e)
      loads[e] = offset_t(double(total) * (e < c.hot ? c.share / double(c.hot) : (1 - c.share) / double(128 - c.hot)));
    loads[0] += total - sum(loads);
    auto const plain = LeastLoaded{.devices = 8, .guard = 1e9}.plan(loads);
    CHECK(stays(plain, loads, 8));
    CHECK(std::abs(plain.imbalance() - c.plain) < 0.01); // given to two digits
    auto const placed = LeastLoaded{.devices = 8, .least_rows = 1024}.plan(loads);
    CHECK(placed.imbalance() < 1.005);
    CHECK(placed.transfers == c.transfers);
  }
}

TEST_CASE("least-loaded placement: what stays, what is cut, and who leaves first") {
  Loads const uneven{7, 0, 12, 5};
  REQUIRE(stays(LeastLoaded{}.plan(uneven), uneven, 1)); // one device
  Loads const even{6, 4, 5, 5, 3, 7};
  REQUIRE(stays(LeastLoaded{.devices = 3}.plan(even), even, 3));
  REQUIRE(stays(LeastLoaded{.devices = 2, .guard = 3}.plan(uneven), uneven, 2));
  REQUIRE(!stays(LeastLoaded{.devices = 2, .guard = 1}.plan(uneven), uneven, 2));
  // by experts 12 / 6 = 2, by devices 17 / 12 = 1.4
  REQUIRE(!stays(LeastLoaded{.devices = 2, .guard = 1.5}.plan(uneven), uneven, 2));
  REQUIRE(stays(LeastLoaded{.devices = 2, .guard = 1.5, .form = LeastLoadedForm::code}.plan(uneven), uneven, 2));

  auto const one = LeastLoaded{.devices = 4}.plan(Loads{40, 0, 0, 0});
  REQUIRE(one.rows_of[0] == Pieces{{0, 0, 10}, {1, 10, 20}, {2, 20, 30}, {3, 30, 40}});
  REQUIRE(one.transfers == 3);

  // what a device's own experts wait for is kept free, so the first experts leave whole, and the last ones stay
  auto const four = LeastLoaded{.devices = 2}.plan(Loads{10, 10, 10, 10, 0, 0, 0, 0});
  REQUIRE(four.rows_of[0] == Pieces{{1, 0, 10}});
  REQUIRE(four.rows_of[1] == Pieces{{1, 0, 10}});
  REQUIRE((four.rows_of[2] == Pieces{{0, 0, 10}} && four.rows_of[3] == Pieces{{0, 0, 10}}));
  REQUIRE((four.transfers == 2 && four.imbalance() == 1));

  REQUIRE(LeastLoaded{.devices = 2}.plan(Loads{0, 0}).imbalance() == 1); // nobody
}

TEST_CASE("least-loaded placement: no piece is smaller than worth it, unless it is all that is left") {
  std::mt19937 engine(5);
  for (int plan = 0; plan < 500; ++plan) {
    Loads loads(12);
    for (auto& load : loads) load = offset_t(engine() % 30) * (engine() % 3 == 0 ? 20 : 1);
    LeastLoaded const policy{.devices = 4, .least_rows = 25};
    for (auto const& pieces : policy.plan(loads).rows_of)
      for (std::size_t i = 0; i + 1 < pieces.size();
           ++i) // the home device takes what fits, the last piece what is left
        REQUIRE((i == 0 || pieces[i].end - pieces[i].begin >= 25));
  }
  Loads const small{20, 0, 3, 3}; // 13 each: all of m's 30 or nothing, so the seven of expert 0 go as what is left
  REQUIRE(LeastLoaded{.devices = 2, .least_rows = 30}.plan(small).rows_of[0] == Pieces{{0, 0, 13}, {1, 13, 20}});
}

TEST_CASE("least-loaded placement: the code's capacity, and its one order of devices") {
  // 11 rows on two devices: 5.5 and 5 places; 11 * 1.1 / 2 = 6.05 and 5 * 1.1 = 5.5, both rounded down
  auto const of = [](LeastLoadedForm form) {
    return LeastLoaded{.devices = 2, .capacity = 1.1, .form = form}.plan(Loads{11, 0});
  };
  REQUIRE(of(LeastLoadedForm::paper).rows_of[0] == Pieces{{0, 0, 6}, {1, 6, 11}});
  REQUIRE(of(LeastLoadedForm::code).rows_of[0] == Pieces{{0, 0, 5}, {1, 5, 10}, {1, 10, 11}}); // the last one is forced
  // where all are full the rest is forced on the least loaded one: of now, or of before the first piece
  LeastLoaded policy{.devices = 3, .capacity = 0.5}; // three places each
  Loads const full{9, 9, 1, 0, 0, 0};
  REQUIRE(policy.plan(full).rows_of[0] == Pieces{{2, 0, 3}, {1, 3, 5}, {1, 5, 9}});
  policy.form = LeastLoadedForm::code;
  REQUIRE(policy.plan(full).rows_of[0] == Pieces{{2, 0, 3}, {1, 3, 5}, {2, 5, 9}});
}

TEST_CASE("least-loaded placement: settings and loads that make no sense") {
  auto const id = [](LeastLoaded const& policy, Loads const& loads) {
    try {
      policy.plan(loads);
    } catch (Error const& error) {
      return error.id();
    }
    return 0;
  };
  CHECK(id({.devices = 0}, {1, 2}) == 103);
  CHECK(id({.devices = 2}, {1, 2, 3}) == 103);
  CHECK(id({.devices = 1}, {}) == 103);
  CHECK(id({.capacity = 0}, {1}) == 106);
  CHECK(id({.least_rows = 0}, {1}) == 106);
  CHECK(id({.guard = -1}, {1}) == 106);
  CHECK(id({}, {-1}) == 106);
}

/// Each device computes the rows that a placement gives it, with whatever weights: the sum over devices is the layer, and so
/// is the sum of the gradients, whatever order the rows are numbered in.
TEST_CASE("least-loaded placement: devices together compute the layer and its gradients") {
  using Subject = Layer<Router<LinearScorer, Given>, ConstantGate, NoBalancer, ScaleExperts, double, Exec>;
  std::size_t const tokens = 24, k = 2;
  index_t const experts = 6, devices = 3;
  Fixture<Subject> f({.tokens = offset_t(tokens), .hidden = 3, .experts = experts},
                     {.router = {.selector = {.k = int(k)}}}, 4);
  std::mt19937 engine(8);
  std::vector<index_t> choice;
  for (std::size_t i = 0; i < tokens * k; ++i)
    choice.push_back(engine() % 3 > 0 ? 0 : index_t(engine() % 6)); // a hot one
  f.set_choice(choice, k);
  f.forward(), f.backward();
  auto const y = flat(f.result().y), gradient = in_double(to_host(f.gradients.experts.scale)),
             dx = in_double(to_host(f.dx));
  Loads loads(experts, 0);
  for (index_t const e : choice) ++loads[std::size_t(e)];
  auto const placement = LeastLoaded{.devices = devices}.plan(loads);
  REQUIRE(placement.transfers > 0);

  for (bool const backwards : {false, true}) { // in which order the rows of an expert are numbered
    Row y_sum(y.size()), gradient_sum(gradient.size()), dx_sum(dx.size());
    for (index_t device = 0; device < devices; ++device) {
      auto mine = choice;
      Loads seen(experts, 0);
      for (std::size_t j = 0; j < choice.size(); ++j) {
        auto const i = backwards ? choice.size() - 1 - j : j;
        auto const row = seen[std::size_t(choice[i])]++;
        bool here = false;
        for (auto const& piece : placement.rows_of[std::size_t(choice[i])])
          here = here || (piece.device == device && row >= piece.begin && row < piece.end);
        if (!here) mine[i] = none;
      }
      f.set_choice(mine, k);
      f.forward(), f.backward();
      auto const add = [](Row& total, Row const& part) {
        for (std::size_t i = 0; i < part.size(); ++i) total[i] += part[i];
      };
      add(y_sum, flat(f.result().y));
      add(gradient_sum, in_double(to_host(f.gradients.experts.scale)));
      add(dx_sum, in_double(to_host(f.dx)));
    }
    CHECK(relative_error(y_sum, y) < 1e-14); // sums in another order
    CHECK(relative_error(gradient_sum, gradient) < 1e-14);
    CHECK(relative_error(dx_sum, dx) < 1e-14);
  }
}

} // namespace least_loaded_test
