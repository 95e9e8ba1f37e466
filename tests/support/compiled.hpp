// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_COMPILED_HPP
#define KOKOMO_TESTS_SUPPORT_COMPILED_HPP

#include <kokomo/combine/weighted_sum.hpp>
#include <kokomo/detail/linear.hpp>
#include <kokomo/detail/product.hpp>
#include <kokomo/detail/sorted_grouping.hpp>
#include <kokomo/experts/feed_forward.hpp>

/// What nearly every layer runs, compiled once and optimised: products, grouping, and the experts that most tests name.
namespace kokomo::inline v0::detail {

using TestHost = Kokkos::DefaultHostExecutionSpace;

#define KOKOMO_TESTS_COMPILED(EXTERN, C)                                                                               \
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
  EXTERN template void linear_bias_gradient(TestHost const&, char const*, C const*, offset_t, offset_t, C*, Write);    \
  EXTERN template void group_by_expert(TestHost const&, Assignment<C, TestHost> const&,                                \
                                       Matrix<index_t, TestHost> const&);                                              \
  EXTERN template void group_by_expert(TestHost const&, Assignment<C, TestHost> const&,                                \
                                       GroupingScratch<TestHost> const&);                                              \
  EXTERN template void gather_sum(TestHost const&, char const*, Assignment<C, TestHost> const&, C const*, C*,          \
                                  offset_t, bool);

#define KOKOMO_TESTS_COMPILED_EXPERTS(EXTERN, C, ACTIVATION)                                                           \
  EXTERN template void host::feed_forward(TestHost const&, host::Microkernel<C> const&, GroupedRows const&,            \
                                          RowSource<C, C> const&, offset_t, offset_t,                                  \
                                          host::FeedForwardWeights<C, host::UnpackedWeights<C, C>> const&,             \
                                          ACTIVATION const&, C*, C*, CombinedRows<C> const&, WorkerScratch const&);    \
  EXTERN template void feed_forward_backward(TestHost const&, ACTIVATION const&, offset_t,                             \
                                             FeedForwardMatrices<C const> const&, ExpertRows<C, TestHost> const&,      \
                                             CombinedRowGradients<C, TestHost> const&, FeedForwardMatrices<C> const&,  \
                                             Write, C const*, SliceScratch<C, TestHost> const&);

KOKOMO_TESTS_COMPILED(extern, double)
KOKOMO_TESTS_COMPILED(extern, float)
KOKOMO_TESTS_COMPILED_EXPERTS(extern, double, Glu<Silu>)
KOKOMO_TESTS_COMPILED_EXPERTS(extern, float, Glu<Silu>)
KOKOMO_TESTS_COMPILED_EXPERTS(extern, double, Plain<Relu>)
KOKOMO_TESTS_COMPILED_EXPERTS(extern, float, Plain<Relu>)

} // namespace kokomo::inline v0::detail

#endif
