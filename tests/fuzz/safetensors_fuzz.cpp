// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
// Any bytes are a safetensors file or an error, and every tensor of the file can be read. Built by CMakeLists.txt here:
// with Clang and KOKOMO_BUILD_FUZZERS as fuzz_safetensors, which libFuzzer drives
//   fuzz_safetensors -max_len=4096 -dict=tests/fuzz/safetensors.dict NEW_CORPUS tests/fuzz/corpus/safetensors
// and with any compiler as replay_safetensors, which runs the seed corpus once (ctest).
#include <kokomo/io/safetensors.hpp>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <numeric>
#include <span>
#include <vector>

namespace {

/// The result is used: reads are not optimised away.
std::uint64_t volatile sink = 0;

template <class T> void read_as(kokomo::io::TensorInfo const& tensor) {
  try {
    for (T const value : kokomo::io::read<T>(tensor)) {
      float const seen = float(value);
      sink = sink + (seen > 0.0f ? 1u : 0u);
    }
  } catch (kokomo::Error const& error) {
    if (error.id() != 412 && error.id() != 414) std::abort(); // dtype and range; nothing else may be wrong by now
  }
}

void read_all(kokomo::io::TensorInfo const& tensor) {
  std::int64_t elements = 1;
  for (auto const extent : tensor.shape) elements *= extent; // the undefined sanitizer sees an overflow
  if (elements != tensor.elements()) std::abort();
  for (auto const byte : tensor.bytes) sink = sink + std::uint64_t(byte);
  read_as<float>(tensor);
  read_as<double>(tensor);
  read_as<kokomo::bfloat16>(tensor);
  read_as<kokomo::float16>(tensor);
  read_as<std::int64_t>(tensor);
  read_as<std::int32_t>(tensor);
  read_as<std::uint8_t>(tensor);
}

} // namespace

extern "C" int LLVMFuzzerTestOneInput(std::uint8_t const* data, std::size_t size) {
  try {
    kokomo::io::SafetensorsFile const file(std::as_bytes(std::span(data, size)), "fuzz");
    for (auto const& tensor : file.tensors()) {
      read_all(tensor);
      if (file.find(tensor.name) != &tensor) std::abort();
      if (!tensor.shape.empty() && tensor.shape[0] > 0) read_all(kokomo::io::part(tensor, tensor.shape[0] - 1));
    }
  } catch (kokomo::Error const& error) {
    if (error.id() < 401 || error.id() > 410) std::abort();
  }
  return 0;
}
