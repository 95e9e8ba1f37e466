// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include <properties/make/deepseek.hpp>

template std::unique_ptr<properties::Machine> properties::make::deepseek<float>(Setup const&);
template std::unique_ptr<properties::Machine> properties::make::deepseek<double>(Setup const&);
