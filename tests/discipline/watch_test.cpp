// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <discipline/busy.hpp>
#include <discipline/watch.hpp>
#include <support/catch.hpp>

/// The watch sees what the other tests here say that they do not see.

namespace {

struct Nothing {
  KOKKOS_FUNCTION void operator()(int) const {}
};

using Exec = Kokkos::DefaultExecutionSpace;

} // namespace

TEST_CASE("allocations, fences, copies, labels and instances are seen") {
  Exec const exec = Kokkos::Experimental::partition_space(Exec{}, 1)[0];
  discipline::Record record;
  {
    discipline::Watch const watch(record);
    Kokkos::View<int*, Exec> const a(Kokkos::view_alloc(exec, Kokkos::WithoutInitializing, "an allocation"), 3);
    Kokkos::View<int*, Exec> const b("another", 3);
    Kokkos::deep_copy(exec, a, b);
    exec.fence("a fence");
    Kokkos::parallel_for("mine", Kokkos::RangePolicy<Exec>(exec, 0, 1), Nothing{});
    Kokkos::parallel_for("everybody's", Kokkos::RangePolicy<Exec>(0, 1), Nothing{});
    Kokkos::Profiling::pushRegion("a region");
    Kokkos::Profiling::popRegion();
  }
  auto const has = [](std::vector<std::string> const& list, std::string const& text) {
    return std::find(list.begin(), list.end(), text) != list.end();
  };
  CHECK(has(record.allocations, "an allocation"));
  CHECK(has(record.fences, "a fence"));
  CHECK(has(record.regions, "a region"));
  CHECK_FALSE(record.copies.empty());
  auto const instance_of = [&](std::string const& label) {
    for (auto const& kernel : record.kernels)
      if (kernel.label == label) return kernel.instance;
    FAIL("no kernel " << label);
    return std::uint32_t(0);
  };
  CHECK(instance_of("mine") == Kokkos::Tools::Experimental::device_id(exec));
  CHECK(instance_of("everybody's") == Kokkos::Tools::Experimental::device_id(Exec{}));
}

TEST_CASE("nothing is seen once it is gone") {
  discipline::Record record;
  { discipline::Watch const watch(record); }
  Exec{}.fence("tests");
  CHECK(record.fences.empty());
}

TEST_CASE("a kernel on the default instance waits while that one is busy") {
  if constexpr (std::is_same_v<Exec::memory_space, Kokkos::HostSpace>) {
    Exec const exec = Kokkos::Experimental::partition_space(Exec{}, 1)[0];
    {
      discipline::Busy<Exec> busy(std::chrono::seconds(30));
      Kokkos::parallel_for("mine", Kokkos::RangePolicy<Exec>(exec, 0, 1), Nothing{});
      CHECK(busy.stop());
    }
    discipline::Busy<Exec> busy(std::chrono::milliseconds(20));
    Kokkos::parallel_for("everybody's", Kokkos::RangePolicy<Exec>(0, 1), Nothing{});
    CHECK_FALSE(busy.stop());
  }
}
