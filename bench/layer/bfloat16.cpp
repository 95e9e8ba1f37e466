// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <layer/layer_runner.hpp>

std::unique_ptr<bench::Runner> bench::make_bfloat16_runner(Dimensions const& shape) {
  return std::make_unique<LayerRunner<kokomo::bfloat16>>(shape);
}
