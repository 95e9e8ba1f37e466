// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_GUARDED_HPP
#define KOKOMO_TESTS_SUPPORT_GUARDED_HPP

#include <support/views.hpp>

namespace kokomo::test {

/// Fills Exec's memory with what is NaN in every storage type, and as an integer far out of every range and ever another
/// one.
void poison_numbers(void* data, std::size_t bytes);
template <class View> void poison_numbers(View const& view) {
  poison_numbers(view.data(), view.size() * sizeof(typename View::value_type));
}

/// Such memory of exactly `bytes` bytes between guards.
class Guarded {
public:
  explicit Guarded(std::size_t bytes);
  std::byte* data() const { return reinterpret_cast<std::byte*>(m_memory.data() + guard); }
  std::size_t bytes() const { return m_bytes; }
  bool intact() const;

private:
  static constexpr std::size_t guard = 1024;
  Kokkos::View<unsigned char*, Exec::memory_space> m_memory;
  std::size_t m_bytes;
};

/// A View of a layer's Parameters or State with its type gone.
struct NamedView {
  std::string name;
  std::vector<std::size_t> extents;
  std::size_t bytes = 0;
  Tensor tensor;
};
struct CollectViews {
  std::vector<NamedView>& all;
  template <class V> void operator()(std::string const& name, V const& view) const {
    auto& added = all.emplace_back();
    added.name = name;
    for (std::size_t d = 0; d < view.rank(); ++d) added.extents.push_back(view.extent(int(d)));
    added.bytes = view.size() * sizeof(typename V::value_type);
    added.tensor = test::tensor(view);
  }
};
template <class Object> std::vector<NamedView> views_of(Object const& object) {
  std::vector<NamedView> all;
  object.for_each(CollectViews{all});
  return all;
}

} // namespace kokomo::test

#endif
