// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// CMake makes a precompiled header for a target with a source that uses it: this one.
#include <support/precompiled.hpp>
