// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_DETAIL_ALIASING_HPP
#define KOKOMO_DETAIL_ALIASING_HPP

#include <kokomo/argument.hpp>
#include <kokomo/concepts.hpp>

#include <array>
#include <functional>

namespace kokomo::inline v0::detail {

struct VisitNothing {
  template <class V> void operator()(Name const&, V const&) const {}
};
/// Inputs of a policy that say what they hold.
template <class Object>
concept ListsArguments = !std::is_same_v<Object, Nothing> && requires(Object const& object) {
  object.for_each(VisitNothing{});
};

/// Calls f(name, argument) for what Inputs hold, if they say it.
template <class Object, class F> void visit_arguments(Object const& object, F&& f) {
  if constexpr (ListsArguments<Object>) object.for_each(f);
}

/// The memory of a call's arguments by name, to find those that share some. It allocates nothing: a call has some dozen
/// Views; those beyond the table's end, which only a policy with very many parameters can reach, are not compared.
class MemoryRanges {
public:
  template <class T, class Exec, int Rank>
  MemoryRanges& add(std::string_view name, Argument<T, Exec, Rank> const& argument) {
    auto const [begin, end] = argument.range();
    return add({"", {"", name}, begin, end});
  }
  /// A workspace or tape.
  template <class Block> MemoryRanges& add_block(std::string_view name, Block const& block) {
    return add({"", {"", name}, block.data(), block.data() + block.bytes()});
  }
  /// All Views of parameters, gradients or state.
  template <class Object> MemoryRanges& add_views(std::string_view object_name, Object const& object) {
    object.for_each([&](Name const& name, auto const& view) {
      add({object_name, name, view.data(), view.data() + view.span()});
    });
    return *this;
  }

  /// The arguments of a policy's Inputs or InputGradients, if it lists them: those that are written to, and the others.
  template <class Object> MemoryRanges& add_written(std::string_view object_name, Object const& object) {
    return add_some<true>(object_name, object);
  }
  template <class Object> MemoryRanges& add_read(std::string_view object_name, Object const& object) {
    return add_some<false>(object_name, object);
  }

  /// \throws kokomo::Error 204 naming a range of these and one of these or `read` that overlap
  void require_apart_from(MemoryRanges const& read) const {
    for (std::size_t i = 0; i < m_count; ++i) {
      for (std::size_t j = i + 1; j < m_count; ++j) require_apart(m_ranges[i], m_ranges[j]);
      for (std::size_t j = 0; j < read.m_count; ++j) require_apart(m_ranges[i], read.m_ranges[j]);
    }
  }

private:
  struct Range {
    std::string_view object;
    Name name;
    void const* begin;
    void const* end;

    std::string text() const { return std::string(object) + std::string(name); }
  };

  template <bool Written, class Object> MemoryRanges& add_some(std::string_view object_name, Object const& object) {
    visit_arguments(object,
                    [&]<class T, class Exec, int Rank>(Name const& name, Argument<T, Exec, Rank> const& argument) {
                      if constexpr (Written != std::is_const_v<T>) {
                        auto const [begin, end] = argument.range();
                        add({object_name, name, begin, end});
                      }
                    });
    return *this;
  }
  MemoryRanges& add(Range const& range) {
    if (range.begin != range.end && m_count < m_ranges.size()) m_ranges[m_count++] = range;
    return *this;
  }
  static void require_apart(Range const& a, Range const& b) {
    std::less<void const*> const before; // < does not order pointers into different arrays
    if (before(a.begin, b.end) && before(b.begin, a.end))
      fail(204, a.text(), " overlaps ", b.text(), ", expected memory of its own");
  }

  std::array<Range, 64> m_ranges{};
  std::size_t m_count = 0;
};

} // namespace kokomo::inline v0::detail

#endif
