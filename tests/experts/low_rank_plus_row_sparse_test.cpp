// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <kokomo/compress/low_rank.hpp>
#include <kokomo/experts/low_rank_plus_row_sparse.hpp>

#include <support/catch.hpp>
#include <support/layer_fixture.hpp>

namespace low_rank_plus_row_sparse_test {

using namespace kokomo;
using namespace kokomo::test;

template <class Experts>
using Over = Layer<Router<LinearScorer, TopK<>>, SoftmaxGate, NoBalancer, Experts, double, Exec>;
using Sparse = Over<LowRankPlusRowSparse<SwiGlu>>;
using Dense = Over<SwiGluExperts>;

constexpr Shape shape{.tokens = 40, .hidden = 7, .experts = 4};
constexpr offset_t inner = 9, rank = 3, hidden = 7, kept_hidden = 4, kept_out = 2;

using Matrix = std::vector<Row>;

Matrix times(Matrix const& a, Matrix const& b) {
  Matrix c(a.size(), Row(b[0].size(), 0.0));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t k = 0; k < b.size(); ++k)
      for (std::size_t j = 0; j < b[0].size(); ++j) c[i][j] += a[i][k] * b[k][j];
  return c;
}
Matrix transposed(Matrix const& a) {
  Matrix t(a.empty() ? 0 : a[0].size(), Row(a.size()));
  for (std::size_t i = 0; i < a.size(); ++i)
    for (std::size_t j = 0; j < a[i].size(); ++j) t[j][i] = a[i][j];
  return t;
}
/// Matrix `e` of a tensor, its rows from `first` on.
template <class V> Matrix matrix(V const& view, std::size_t e, std::size_t first, std::size_t rows) {
  Matrix m(rows, Row(view.extent(2)));
  for (std::size_t i = 0; i < rows; ++i)
    for (std::size_t j = 0; j < view.extent(2); ++j) m[i][j] = view(e, first + i, j);
  return m;
}
Row flat(Matrix const& m) {
  Row all;
  for (auto const& row : m) all.insert(all.end(), row.begin(), row.end());
  return all;
}

/// Both layers with the same router and batch, dense weights U V + S.
struct Pair {
  Fixture<Sparse> sparse{
      shape,
      {.router = {.selector = {.k = 2}},
       .experts = {.intermediate = inner, .rank = rank, .kept_hidden = kept_hidden, .kept_out = kept_out}}};
  Fixture<Dense> dense{shape, {.router = {.selector = {.k = 2}}, .experts = {.intermediate = inner}}};

  template <class F> void for_each(F const& f) {
    auto const& p = sparse.parameters.experts;
    auto const& d = sparse.gradients.experts;
    f(p.gate, d.gate, dense.parameters.experts.gate_up, dense.gradients.experts.gate_up, 0, inner);
    f(p.up, d.up, dense.parameters.experts.gate_up, dense.gradients.experts.gate_up, inner, inner);
    f(p.down, d.down, dense.parameters.experts.down, dense.gradients.experts.down, 0, hidden);
  }

  Pair() {
    Kokkos::deep_copy(dense.x, sparse.x);
    Kokkos::deep_copy(dense.dy, sparse.dy);
    Kokkos::deep_copy(dense.parameters.router.weight, sparse.parameters.router.weight);
    for_each([](auto const& w, auto const&, auto const& whole, auto const&, std::size_t first, std::size_t rows) {
      for (std::size_t e = 0; e < w.u.extent(0); ++e) {
        for (std::size_t i = 0; i < w.rows.extent(1); ++i) w.rows(e, i) = index_t((3 * i + e) % rows);
        if (e == 1) w.rows(e, 1) = none; // fewer rows than there is room for
        auto product = times(matrix(w.u, e, 0, rows), matrix(w.v, e, 0, rank));
        for (std::size_t i = 0; i < w.rows.extent(1); ++i)
          for (std::size_t j = 0; j < product[0].size(); ++j)
            if (w.rows(e, i) != none) product[std::size_t(w.rows(e, i))][j] += w.s(e, i, j);
        for (std::size_t i = 0; i < rows; ++i)
          for (std::size_t j = 0; j < product[i].size(); ++j) whole(e, first + i, j) = product[i][j];
      }
    });
  }
};

TEST_CASE("Low-rank plus row-sparse experts are the dense ones of U V + S, and so are their gradients") {
  Pair p;
  p.sparse.forward(), p.dense.forward();
  auto const error = [](auto const& a, auto const& b) { return relative_error(tensor(a).read(), tensor(b).read()); };
  REQUIRE(error(p.sparse.y, p.dense.y) < tolerance<double>());
  p.dense.backward();
  for (Write const write : {Write::overwrite, Write::add}) { // the second time: twice the gradient
    if (write == Write::overwrite) {
      // Row ids have no gradient; everything else is overwritten.
      p.sparse.backward();
    } else {
      p.sparse.backward(write);
    }
    double const times_written = write == Write::add ? 2 : 1;
    REQUIRE(error(p.sparse.dx, p.dense.dx) < tolerance<double>());
    p.for_each(
        [&](auto const& w, auto const& d, auto const&, auto const& d_whole, std::size_t first, std::size_t rows) {
          for (std::size_t e = 0; e < w.u.extent(0); ++e) {
            auto const g = matrix(d_whole, e, first, rows); // dL/dW: the chain rule for W = U V + S
            auto const u = matrix(w.u, e, 0, rows), v = matrix(w.v, e, 0, rank);
            Matrix rows_of_s(w.rows.extent(1), Row(g[0].size(), 0.0));
            for (std::size_t i = 0; i < rows_of_s.size(); ++i)
              if (w.rows(e, i) != none) rows_of_s[i] = g[std::size_t(w.rows(e, i))];
            auto const check = [&](Matrix const& out, Matrix const& ref) {
              Row expected = flat(ref);
              for (double& value : expected) value *= times_written;
              REQUIRE(relative_error(flat(out), expected) < tolerance<double>());
            };
            check(matrix(d.u, e, 0, rows), times(g, transposed(v)));
            check(matrix(d.v, e, 0, rank), times(transposed(u), g));
            check(matrix(d.s, e, 0, rows_of_s.size()), rows_of_s);
          }
        });
  }
}

TEST_CASE("Experts written as U V + S with all rows compute what they were, and with fewer come close") {
  Pair p;
  p.dense.forward();
  auto const units = compress::read_units(p.dense.exec, p.dense.layer.policies().experts, p.dense.parameters.experts);
  auto const error = [&](offset_t r, offset_t of_hidden, offset_t of_out) {
    Fixture<Sparse> f(shape,
                      {.router = {.selector = {.k = 2}},
                       .experts = {.intermediate = inner, .rank = r, .kept_hidden = of_hidden, .kept_out = of_out}});
    f.parameters.router = p.dense.parameters.router;
    Kokkos::deep_copy(f.x, p.dense.x);
    compress::write_low_rank(f.exec, f.layer.policies().experts, f.parameters.experts, units);
    f.forward();
    return relative_error(tensor(f.y).read(), tensor(p.dense.y).read());
  };
  REQUIRE(error(1, inner, hidden) < tolerance<double>()); // nothing pruned
  REQUIRE(error(7, 0, 0) < tolerance<double>());          // full rank
  double const few = error(rank, 0, 0), some = error(rank, kept_hidden, kept_out);
  REQUIRE(some < few);
}

TEST_CASE("LowRankPlusRowSparse refuses sizes that make no sense") {
  using Policy = LowRankPlusRowSparse<SwiGlu>;
  Sizes const sizes{.hidden = hidden, .weighted = 2};
  Policy const good{.intermediate = inner, .rank = 1};
  REQUIRE_NOTHROW(good.check(sizes));
  for (Policy const& bad :
       {Policy{.intermediate = 0, .rank = 1}, Policy{.intermediate = 4, .rank = 0},
        Policy{.intermediate = 4, .rank = 1, .kept_hidden = 5}, Policy{.intermediate = 4, .rank = 1, .kept_hidden = -1},
        Policy{.intermediate = 4, .rank = 1, .kept_out = hidden + 1}})
    REQUIRE_THROWS_AS(bad.check(sizes), Error);
}

} // namespace low_rank_plus_row_sparse_test
