// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ALIASING_HPP
#define KOKOMO_DETAIL_ALIASING_HPP

#include <kokomo/argument.hpp>

#include <functional>
#include <string>
#include <vector>

namespace kokomo::inline v0::detail {

/// The memory of a call's arguments by name, to find those that share some.
class MemoryRanges {
public:
  template <class T, class Exec, int Rank>
  MemoryRanges& add(char const* name, Argument<T, Exec, Rank> const& argument) {
    auto const [begin, end] = argument.range();
    return add(name, begin, end);
  }
  /// A workspace or tape.
  template <class Block> MemoryRanges& add_block(char const* name, Block const& block) {
    return add(name, block.data(), block.data() + block.bytes());
  }
  /// All Views of parameters, gradients or state.
  template <class Object> MemoryRanges& add_views(std::string const& prefix, Object const& object) {
    object.for_each(
        [&](std::string const& name, auto const& view) { add(prefix + name, view.data(), view.data() + view.span()); });
    return *this;
  }

  /// \throws kokomo::Error 204 naming a range of these and one of these or `read` that overlap
  void require_apart_from(MemoryRanges const& read) const {
    for (std::size_t i = 0; i < m_ranges.size(); ++i) {
      for (std::size_t j = i + 1; j < m_ranges.size(); ++j) require_apart(m_ranges[i], m_ranges[j]);
      for (Range const& other : read.m_ranges) require_apart(m_ranges[i], other);
    }
  }

private:
  struct Range {
    std::string name;
    void const* begin;
    void const* end;
  };

  MemoryRanges& add(std::string name, void const* begin, void const* end) {
    if (begin != end) m_ranges.push_back({std::move(name), begin, end});
    return *this;
  }
  static void require_apart(Range const& a, Range const& b) {
    std::less<void const*> const before; // < does not order pointers into different arrays
    require(!before(a.begin, b.end) || !before(b.begin, a.end), 204, a.name, " overlaps ", b.name,
            ", expected memory of its own");
  }

  std::vector<Range> m_ranges;
};

} // namespace kokomo::inline v0::detail

#endif
