// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_PLACEMENT_ONE_TO_ONE_HPP
#define KOKOMO_PLACEMENT_ONE_TO_ONE_HPP

#include <kokomo/slots.hpp>

namespace kokomo::inline v0 {

/// Every expert that the router knows has weights of its own, at its own index.
struct OneToOne {
  using slot = slots::placement;
};

} // namespace kokomo::inline v0

#endif
