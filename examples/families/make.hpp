// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_EXAMPLES_FAMILIES_MAKE_HPP
#define KOKOMO_EXAMPLES_FAMILIES_MAKE_HPP

#include "family_layer.hpp"

#include <kokomo/models/batch_routing.hpp>

namespace families {

/// Expert choice with one gate or another, which is an argument of its template.
template <class T, class Exec> using ExpertChoice = kokomo::models::ExpertChoiceMoe<T, Exec>;
template <class T, class Exec>
using ExpertChoiceSigmoid = kokomo::models::ExpertChoiceMoe<T, Exec, kokomo::SigmoidGate>;

/// What the table of compositions points to. Its definition is in composed.hpp, and the files that include that
/// instantiate it, once for each composition.
template <template <class, class> class Model>
std::unique_ptr<FamilyLayer> make(kokomo::models::Description const& description, kokomo::offset_t tokens,
                                  bool bfloat16);

} // namespace families

#endif
