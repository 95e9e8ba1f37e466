// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// Parsed once for all test programs; every test still includes what it uses.
#include <support/finite_differences.hpp>
#include <support/routing_fixture.hpp>
#include <support/scorer_fixture.hpp>
