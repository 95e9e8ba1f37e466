// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_VERSION_HPP
#define KOKOMO_VERSION_HPP

/// The single place that states the version: CMake reads these three lines.
#define KOKOMO_VERSION_MAJOR 0
#define KOKOMO_VERSION_MINOR 1
#define KOKOMO_VERSION_PATCH 0

#endif
