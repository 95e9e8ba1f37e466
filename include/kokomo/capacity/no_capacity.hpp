// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_CAPACITY_NO_CAPACITY_HPP
#define KOKOMO_CAPACITY_NO_CAPACITY_HPP

#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Every chosen expert takes the token: nothing is dropped.
struct NoCapacity {
  using slot = slots::capacity;
};

} // namespace kokomo::inline v0

#endif
