// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <io/check_error.hpp>
#include <support/catch.hpp>

#include <kokomo/io/parameters.hpp>

#include <map>
#include <span>

namespace load_test {
namespace {

using kokomo::io::DType;
using kokomo::io::TensorInfo;

/// Of a layer, what `load` asks for.
struct TwoParameters {
  using Exec = Kokkos::DefaultHostExecutionSpace;
  struct Parameters {
    Kokkos::View<float**, Kokkos::LayoutRight, Kokkos::HostSpace> weight{"weight", 2, 3};
    Kokkos::View<float*, Kokkos::HostSpace> bias{"bias", 2};
    template <class F> void for_each(F&& f) const {
      f("router.weight", weight);
      f("router.bias", bias);
    }
  };
  struct State {
    Kokkos::View<int*, Kokkos::HostSpace> table{"table", 2};
    template <class F> void for_each(F&& f) const { f("selector.table", table); }
  };
};

template <class T> TensorInfo tensor(std::string name, std::vector<T> const& values, DType dtype) {
  return {.name = std::move(name),
          .dtype = dtype,
          .shape = {std::int64_t(values.size())},
          .bytes = std::as_bytes(std::span(values))};
}

} // namespace

TEST_CASE("load: an error in any tensor leaves all parameters as they were") {
  std::vector<float> const weight{1, 2, 3, 4, 5, 6}, bias{7, 8}, long_bias{7, 8, 9};
  std::vector<std::int64_t> const table{1, 0}, large{1, std::int64_t(1) << 40};
  TensorInfo whole = tensor("weight", weight, DType::F32);
  whole.shape = {2, 3};
  TwoParameters::Exec const exec;
  TwoParameters::Parameters const parameters;
  TwoParameters::State const state;
  std::map<std::string, TensorInfo, std::less<>> file;
  auto const load = [&] {
    kokomo::io::load<TwoParameters>(exec, parameters, state, [&](std::string_view role) -> TensorInfo const* {
      auto const found = file.find(role);
      return found == file.end() ? nullptr : &found->second;
    });
  };
  auto const fill = [&](TensorInfo second, TensorInfo third) {
    file = {{"router_weight", whole}, {"router_bias", std::move(second)}, {"hash_table", std::move(third)}};
  };
  auto const untouched = [&] {
    return parameters.weight(0, 0) == 0 && parameters.weight(1, 2) == 0 && parameters.bias(0) == 0 &&
           state.table(0) == 0;
  };

  file = {{"router_weight", whole}};
  check_error(load, 411, {"router.bias"});
  fill(tensor("bias", table, DType::I64), tensor("table", table, DType::I64)); // no floats
  check_error(load, 412, {"bias", "I64"});
  fill(tensor("bias", long_bias, DType::F32), tensor("table", table, DType::I64));
  check_error(load, 413, {"bias", "[3]"});
  fill(tensor("bias", bias, DType::F32), tensor("table", large, DType::I64));
  check_error(load, 414, {"table", "element 1"});
  REQUIRE(untouched());

  fill(tensor("bias", bias, DType::F32), tensor("table", table, DType::I64));
  load();
  REQUIRE((parameters.weight(0, 0) == 1 && parameters.weight(1, 2) == 6 && parameters.bias(1) == 8));
  REQUIRE((state.table(0) == 1 && state.table(1) == 0));
}

} // namespace load_test
