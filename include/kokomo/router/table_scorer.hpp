// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_ROUTER_TABLE_SCORER_HPP
#define KOKOMO_ROUTER_TABLE_SCORER_HPP

#include <kokomo/argument.hpp>
#include <kokomo/concepts.hpp>
#include <kokomo/detail/launch.hpp>
#include <kokomo/error.hpp>

namespace kokomo::inline v0 {
namespace detail {

/// Rows of a table by token. A token of no row has the logits 0.
template <class C> struct LookUpRows {
  C const* table;
  index_t const* row_of_token;
  offset_t rows;
  index_t columns;
  C* logits;

  KOKKOS_FUNCTION void operator()(offset_t i) const {
    offset_t const row = row_of_token[i / columns];
    logits[i] = row >= 0 && row < rows ? table[row * columns + i % columns] : C(0);
  }
};

/// Sums over the tokens of a row, in their order.
template <class C> struct SumOverRows {
  C const* d_logits;
  index_t const* row_of_token;
  offset_t tokens;
  index_t columns;
  C* grad;
  Write write;

  KOKKOS_FUNCTION void operator()(offset_t row) const {
    C* const d = grad + row * columns;
    if (write == Write::overwrite)
      for (index_t c = 0; c < columns; ++c) d[c] = 0;
    for (offset_t token = 0; token < tokens; ++token)
      if (row_of_token[token] == row)
        for (index_t c = 0; c < columns; ++c) d[c] += d_logits[token * columns + c];
  }
};

} // namespace detail

/// Logits are a row of a table, one a task (or language, user, ...): every token of a task is routed alike, whatever it is.
///
/// Parameters: `table` [rows, columns]. Inputs: `row_of_token` [tokens], an id outside the table gives logits of 0.
/// Source: Polytropon and multi-head routing (MHR), microsoft/mttl, where a row is a task's skills.
/// \throws kokomo::Error 101 unless rows >= 1, 203 where the ids are missing
struct TableScorer {
  offset_t rows = 1;

  template <class T, class Exec> struct Parameters {
    OwnedMatrix<compute_t<T>, Exec> table;

    Parameters() = default;
    Parameters(Allocator<Exec> const& allocate, TableScorer const& policy, Sizes const& sizes) {
      allocate(table, "kokomo::TableScorer::table", policy.rows, sizes.columns);
    }
    template <class F> void for_each(F&& f, std::string_view prefix) const { f(Name{prefix, "table"}, table); }
  };
  template <class T, class Exec> struct Inputs {
    VectorArgument<index_t const, Exec> row_of_token{}; ///< [tokens]

    template <class F> void for_each(F&& f) const { f(Name{"", "row_of_token"}, row_of_token); }
  };

  void check(Sizes const&) const {
    detail::require(rows >= 1 && rows <= 2147483647, 101, "TableScorer rows = ", rows, ", expected 1 to 2^31 - 1");
  }
  template <class T, class Exec> void check_inputs(Inputs<T, Exec> const& inputs, Sizes const& sizes) const {
    (void)inputs.row_of_token.checked("inputs.scorer.row_of_token", {sizes.tokens});
  }

  /// \param[out] logits [tokens, columns]
  template <class T, class Exec>
  void forward(Exec const& exec, Parameters<T, Exec> const& parameters, Matrix<T const, Exec> const&,
               Inputs<T, Exec> const& inputs, Matrix<compute_t<T>, Exec> const& logits, Nothing const&, Nothing const&,
               detail::WorkerScratch const&) const {
    using C = compute_t<T>;
    auto const ids = inputs.row_of_token.checked("inputs.scorer.row_of_token", {offset_t(logits.extent(0))});
    detail::for_each(
        exec, "kokomo::TableScorer::forward", offset_t(logits.size()),
        detail::LookUpRows<C>{parameters.table.data(), ids.data(), rows, index_t(logits.extent(1)), logits.data()});
  }

  template <class T, class Exec>
  void backward(Exec const& exec, Parameters<T, Exec> const&, Matrix<T const, Exec> const&,
                Inputs<T, Exec> const& inputs, Matrix<compute_t<T> const, Exec> const&,
                Matrix<compute_t<T>, Exec> const& d_logits, Matrix<compute_t<T>, Exec> const&, Nothing const&,
                Parameters<T, Exec> const& grads, Write write, Nothing const&, Nothing const&,
                detail::WorkerScratch const&) const {
    using C = compute_t<T>;
    auto const tokens = offset_t(d_logits.extent(0));
    auto const ids = inputs.row_of_token.checked("inputs.scorer.row_of_token", {tokens});
    detail::for_each(exec, "kokomo::TableScorer::backward", rows,
                     detail::SumOverRows<C>{d_logits.data(), ids.data(), tokens, index_t(d_logits.extent(1)),
                                            grads.table.data(), write});
  }
};

} // namespace kokomo::inline v0

#endif
