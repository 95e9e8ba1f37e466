// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/check.hpp>

#include <cmath>

namespace discipline {

void require_disciplined(kokomo::test::Exec const& exec, std::string const& what, std::function<void()> const& f) {
  Record record;
  {
    Watch const watch(record);
    f();
  }
  exec.fence("tests: the call's work is done");
  INFO(what);
  CHECK_FALSE(record.kernels.empty());
  CHECK(record.allocations == std::vector<std::string>{});
  CHECK(record.fences == std::vector<std::string>{});
  CHECK(record.copies == std::vector<std::string>{});
  for (auto const& kernel : record.kernels) {
    INFO(kernel.label);
    CHECK(kernel.label.starts_with("kokomo::"));
    CHECK(kernel.instance == Kokkos::Tools::Experimental::device_id(exec));
  }
  if (what != "step") CHECK(record.regions == std::vector<std::string>{"kokomo::Layer::" + what});
}

void require_finite(std::string const& name, kokomo::test::Tensor const& tensor) {
  INFO(name);
  bool finite = true;
  for (double value : tensor.read()) finite = finite && std::isfinite(value);
  CHECK(finite);
}

} // namespace discipline
