// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_SPACE_SAME_SPACE_HPP
#define KOKOMO_SPACE_SAME_SPACE_HPP

#include <kokomo/slots.hpp>
#include <kokomo/types.hpp>

namespace kokomo::inline v0 {

/// Experts read the layer's input as it is and write the layer's output as it is.
struct SameSpace {
  using slot = slots::space;
};

} // namespace kokomo::inline v0

#endif
