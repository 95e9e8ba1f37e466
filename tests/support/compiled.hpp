// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_COMPILED_HPP
#define KOKOMO_TESTS_SUPPORT_COMPILED_HPP

#include <kokomo/layer.hpp>

/// What nearly every layer of a test runs, compiled once and optimised, in float32 and float64: products, grouping,
/// memory, and the policies that most tests name. `EXTERN` is extern, or nothing where they are compiled.
namespace kokomo::inline v0 {

namespace detail {

using TestHost = Kokkos::DefaultHostExecutionSpace;

#define KOKOMO_TESTS_PRODUCTS(EXTERN, C)                                                                               \
  EXTERN template host::Microkernel<C> const& host::microkernel<C, C>(host::InstructionSet);                           \
  EXTERN template host::OuterKernel<C, C> const& host::outer_kernel<C, C>(host::InstructionSet);                       \
  EXTERN template void grouped_product(TestHost const&, std::string const&, GroupedRows, RowSource<C, C>, offset_t,    \
                                       WeightRef<C const>, BiasRef<C const>, offset_t, RowTarget<C>, Write,            \
                                       WorkerScratch);                                                                 \
  EXTERN template void grouped_outer_product(TestHost const&, std::string const&, GroupedRows, RowSource<C, C>,        \
                                             offset_t, RowSource<C, C>, offset_t, WeightRef<C>, Write, WorkerScratch); \
  EXTERN template void grouped_row_sum(TestHost const&, std::string const&, GroupedRows, RowSource<C, C>, offset_t,    \
                                       BiasRef<C>, Write);                                                             \
  EXTERN template void linear(TestHost const&, char const*, C const*, offset_t, offset_t, C const*, C const*,          \
                              offset_t, C*, Write, WorkerScratch const&);                                              \
  EXTERN template void linear_input_gradient(TestHost const&, char const*, C const*, offset_t, offset_t, C const*,     \
                                             offset_t, C*, Write, WorkerScratch const&);                               \
  EXTERN template void linear_weight_gradient(TestHost const&, char const*, C const*, offset_t, offset_t, C const*,    \
                                              offset_t, C*, Write, WorkerScratch const&);                              \
  EXTERN template void linear_bias_gradient(TestHost const&, char const*, C const*, offset_t, offset_t, C*, Write);

#define KOKOMO_TESTS_GROUPING(EXTERN, C)                                                                               \
  EXTERN template void group_by_expert(TestHost const&, Assignment<C, TestHost> const&,                                \
                                       Matrix<index_t, TestHost> const&);                                              \
  EXTERN template void group_by_expert(TestHost const&, Assignment<C, TestHost> const&,                                \
                                       GroupingScratch<TestHost> const&);                                              \
  EXTERN template void gather_sum(TestHost const&, char const*, Assignment<C, TestHost> const&, C const*, C*,          \
                                  offset_t, bool);                                                                     \
  EXTERN template void for_each(TestHost const&, std::string const&, offset_t, CountNonFinite<C, TestHost> const&);    \
  EXTERN template void for_each(TestHost const&, std::string const&, offset_t, RecordChosen<C, TestHost> const&);      \
  EXTERN template void for_each(TestHost const&, std::string const&, offset_t, CountUnrouted<C, TestHost> const&);     \
  EXTERN template void for_each(TestHost const&, std::string const&, offset_t, RowDot<C, TestHost> const&);            \
  EXTERN template void for_each(TestHost const&, std::string const&, offset_t, RowsToEntries<C, TestHost> const&);

#define KOKOMO_TESTS_EXPERTS(EXTERN, C, ACTIVATION)                                                                    \
  EXTERN template void host::feed_forward(TestHost const&, host::Microkernel<C> const&, GroupedRows const&,            \
                                          RowSource<C, C> const&, offset_t, offset_t,                                  \
                                          host::FeedForwardWeights<C, host::UnpackedWeights<C, C>> const&,             \
                                          ACTIVATION const&, C*, C*, CombinedRows<C> const&, WorkerScratch const&);    \
  EXTERN template void feed_forward_backward(TestHost const&, ACTIVATION const&, offset_t,                             \
                                             FeedForwardMatrices<C const> const&, ExpertRows<C, TestHost> const&,      \
                                             CombinedRowGradients<C, TestHost> const&, FeedForwardMatrices<C> const&,  \
                                             Write, C const*, SliceScratch<C, TestHost> const&);

#define KOKOMO_TESTS_KERNELS(EXTERN, C)                                                                                \
  KOKOMO_TESTS_PRODUCTS(EXTERN, C)                                                                                     \
  KOKOMO_TESTS_GROUPING(EXTERN, C)                                                                                     \
  KOKOMO_TESTS_EXPERTS(EXTERN, C, Glu<Silu>)                                                                           \
  KOKOMO_TESTS_EXPERTS(EXTERN, C, Plain<Relu>)

KOKOMO_TESTS_KERNELS(extern, double)
KOKOMO_TESTS_KERNELS(extern, float)

} // namespace detail

using detail::TestHost;

#define KOKOMO_TESTS_MEMORY(EXTERN, C)                                                                                 \
  EXTERN template struct Assignment<C, TestHost>;                                                                      \
  EXTERN template class Argument<C, TestHost, 1>;                                                                      \
  EXTERN template class Argument<C, TestHost, 2>;                                                                      \
  EXTERN template class Argument<C const, TestHost, 1>;                                                                \
  EXTERN template class Argument<C const, TestHost, 2>;                                                                \
  EXTERN template void Allocator<TestHost>::operator()(OwnedVector<C, TestHost>&, std::string const&, offset_t) const; \
  EXTERN template void Allocator<TestHost>::operator()(OwnedMatrix<C, TestHost>&, std::string const&, offset_t,        \
                                                       offset_t) const;                                                \
  EXTERN template void Allocator<TestHost>::operator()(OwnedTensor<C, TestHost>&, std::string const&, offset_t,        \
                                                       offset_t, offset_t) const;

#define KOKOMO_TESTS_TOP_K(EXTERN, C, SCORE)                                                                           \
  EXTERN template void TopK<>::select<SCORE>(TestHost const&, Routing<C, TestHost> const&, Nothing const&,             \
                                             Nothing const&, Assignment<C, TestHost> const&,                           \
                                             detail::RankScratch<C, TestHost> const&) const;
#define KOKOMO_TESTS_GATE(EXTERN, C, GATE)                                                                             \
  EXTERN template void GATE::forward(TestHost const&, GATE::Parameters<C, TestHost> const&,                            \
                                     Routing<C, TestHost> const&, Nothing const&, Assignment<C, TestHost> const&)      \
      const;                                                                                                           \
  EXTERN template void GATE::backward(                                                                                 \
      TestHost const&, GATE::Parameters<C, TestHost> const&, Routing<C, TestHost> const&,                              \
      Assignment<C, TestHost> const&, Vector<C const, TestHost> const&, Matrix<C, TestHost> const&,                    \
      GATE::Parameters<C, TestHost> const&, Write, GATE::BackwardScratch<C, TestHost> const&) const;

#define KOKOMO_TESTS_POLICIES(EXTERN, C)                                                                               \
  EXTERN template void LinearScorer::forward(                                                                          \
      TestHost const&, LinearScorer::Parameters<C, TestHost> const&, Matrix<C const, TestHost> const&, Nothing const&, \
      Matrix<C, TestHost> const&, Nothing const&, Nothing const&, detail::WorkerScratch const&) const;                 \
  KOKOMO_TESTS_TOP_K(EXTERN, C, SoftmaxScore)                                                                          \
  KOKOMO_TESTS_TOP_K(EXTERN, C, SigmoidScore)                                                                          \
  KOKOMO_TESTS_GATE(EXTERN, C, SoftmaxGate)                                                                            \
  KOKOMO_TESTS_GATE(EXTERN, C, SigmoidGate)                                                                            \
  KOKOMO_TESTS_GATE(EXTERN, C, NormalizedSigmoidGate)

#define KOKOMO_TESTS_LAYERS(EXTERN)                                                                                    \
  KOKOMO_TESTS_MEMORY(EXTERN, double)                                                                                  \
  KOKOMO_TESTS_MEMORY(EXTERN, float)                                                                                   \
  KOKOMO_TESTS_POLICIES(EXTERN, double)                                                                                \
  KOKOMO_TESTS_POLICIES(EXTERN, float)                                                                                 \
  EXTERN template class detail::Block<TestHost>;                                                                       \
  EXTERN template class Workspace<TestHost>;                                                                           \
  EXTERN template class Tape<TestHost>;

KOKOMO_TESTS_LAYERS(extern)

} // namespace kokomo::inline v0

#endif
