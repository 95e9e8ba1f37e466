// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "files.hpp"

#include <kokomo/io/safetensors.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace tensor_test {

using kokomo::bfloat16;
using kokomo::float16;
using kokomo::io::as_tensor;
using kokomo::io::DType;
using kokomo::io::read;
using kokomo::io::SafetensorsFile;
using kokomo::io::TensorInfo;

namespace {

template <class T> TensorInfo tensor_of(std::vector<T> const& values, DType dtype) {
  return {
      .name = "w", .dtype = dtype, .shape = {std::int64_t(values.size())}, .bytes = std::as_bytes(std::span(values))};
}

std::string contents(std::filesystem::path const& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

constexpr float infinity = std::numeric_limits<float>::infinity();

} // namespace

TEST_CASE("floating types convert to each other") {
  // Bit patterns from the definitions of the formats.
  std::vector<std::uint16_t> const f16{0x3c00, 0xc000, 0x7bff, 0x0001, 0x0400, 0x7c00, 0x3555};
  std::vector<float> const f16_values{
      1, -2, 65504, std::ldexp(1.0f, -24), std::ldexp(1.0f, -14), infinity, 0.333251953125f};
  CHECK(read<float>(tensor_of(f16, DType::F16)) == f16_values);
  std::vector<std::uint16_t> const bf16{0x3f80, 0xc000, 0x4049, 0x7f80, 0x0080};
  std::vector<double> const bf16_values{1, -2, 3.140625, infinity, std::ldexp(1.0, -126)};
  CHECK(read<double>(tensor_of(bf16, DType::BF16)) == bf16_values);

  // Ties go to even; F32 to BF16 keeps the upper half of the bits.
  std::vector<std::uint32_t> const f32{0x3f808000, 0x3f818000, 0x3f808001, 0xbf80ffff, 0x7f7fffff};
  std::vector<std::uint16_t> rounded;
  for (bfloat16 const h : read<bfloat16>(tensor_of(f32, DType::F32))) rounded.push_back(h.bits);
  CHECK(rounded == std::vector<std::uint16_t>{0x3f80, 0x3f82, 0x3f81, 0xbf81, 0x7f80});

  // 65520 lies halfway between the largest binary16 and the first power of two beyond it.
  std::vector<double> const f64{0.1, 65519.0, 65520.0, -std::ldexp(1.0, -25), std::ldexp(3.0, -26)};
  rounded.clear();
  for (float16 const h : read<float16>(tensor_of(f64, DType::F64))) rounded.push_back(h.bits);
  CHECK(rounded == std::vector<std::uint16_t>{0x2e66, 0x7bff, 0x7c00, 0x8000, 0x0001});
  CHECK(std::bit_cast<std::uint32_t>(read<float>(tensor_of(f64, DType::F64))[0]) == 0x3dcccccd);
  CHECK(read<double>(tensor_of(f64, DType::F64)) == f64);

  std::vector<float> const nan{std::numeric_limits<float>::quiet_NaN()};
  CHECK(std::isnan(float(read<bfloat16>(tensor_of(nan, DType::F32))[0])));
}

TEST_CASE("integers convert where they fit") {
  CHECK(read<std::int64_t>(tensor_of<std::uint64_t>({7, 1ull << 62}, DType::U64)) ==
        std::vector<std::int64_t>{7, 1ll << 62});
  CHECK(read<std::int32_t>(tensor_of<std::int64_t>({-2147483648, 2147483647}, DType::I64)) ==
        std::vector<std::int32_t>{-2147483647 - 1, 2147483647});
  CHECK(read<std::int32_t>(tensor_of<std::int8_t>({-128, 127}, DType::I8)) == std::vector{-128, 127});
  CHECK(read<std::int32_t>(tensor_of<std::int16_t>({-32768}, DType::I16)) == std::vector{-32768});
  CHECK(read<std::int32_t>(tensor_of<std::uint16_t>({65535}, DType::U16)) == std::vector{65535});
  CHECK(read<std::int64_t>(tensor_of<std::uint32_t>({4294967295u}, DType::U32)) ==
        std::vector<std::int64_t>{4294967295});
  CHECK(read<std::int64_t>(tensor_of<std::int32_t>({-5}, DType::I32)) == std::vector<std::int64_t>{-5});
  CHECK(read<std::uint8_t>(tensor_of<std::uint8_t>({0, 1}, DType::BOOL)) == std::vector<std::uint8_t>{0, 1});
  CHECK(read<std::int32_t>(tensor_of<std::uint8_t>({255}, DType::U8)) == std::vector{255});

  std::string const text = "tensor w in memory: element 1 is ";
  check_error(
      [] {
        read<std::int32_t>(tensor_of<std::int64_t>({0, 2147483648}, DType::I64));
      },
      414, {text + "2147483648, expected -2147483648 to 2147483647"});
  check_error(
      [] {
        read<std::int64_t>(tensor_of<std::uint64_t>({0, 1ull << 63}, DType::U64));
      },
      414, {text + "9223372036854775808"});
  check_error(
      [] {
        read<std::uint8_t>(tensor_of<std::int8_t>({0, -1}, DType::I8));
      },
      414, {text + "-1, expected 0 to 255"});
  check_error(
      [] {
        read<std::int32_t>(tensor_of<std::uint8_t>({0, 2}, DType::BOOL));
      },
      414, {text + "2, expected 0 or 1"});
  check_error(
      [] {
        read<std::uint8_t>(tensor_of<std::uint8_t>({0, 2}, DType::BOOL));
      },
      414, {text + "2, expected 0 or 1"});
}

TEST_CASE("a dtype that does not convert is error 412") {
  std::vector<std::uint64_t> const zero{0};
  for (auto const dtype :
       {DType::BOOL, DType::U8, DType::I32, DType::I64, DType::F8_E4M3, DType::F8_E5M2, DType::F8_E8M0}) {
    TensorInfo const tensor{"w", dtype, {1}, std::as_bytes(std::span(zero)).first(size_of(dtype))};
    check_error([&] { read<float>(tensor); }, 412,
                {"tensor w in memory is " + std::string(name_of(dtype)) + ", expected F64, F32, F16 or BF16"});
  }
  for (auto const dtype : {DType::F32, DType::BF16, DType::F8_E8M0}) {
    TensorInfo const tensor{"w", dtype, {1}, std::as_bytes(std::span(zero)).first(size_of(dtype))};
    check_error([&] { read<std::int64_t>(tensor); }, 412, {"tensor w in memory is ", "expected an integer type"});
  }
}

TEST_CASE("a misaligned tensor is read") {
  std::string data = "x";
  for (double const value : {0.25, -3.0}) data += little_endian(std::bit_cast<std::uint64_t>(value));
  std::string const header =
      R"({"w":{"dtype":"F64","shape":[2],"data_offsets":[1,17]},"x":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}})";
  for (std::size_t spaces = 0; spaces < 8; ++spaces) { // each alignment there is
    std::string const bytes = file_of(header + std::string(spaces, ' '), data);
    SafetensorsFile const file(as_bytes(bytes), "f");
    CHECK(read<double>(file.at("w")) == std::vector{0.25, -3.0});
    CHECK(read<float>(file.at("w")) == std::vector{0.25f, -3.0f});
  }
}

TEST_CASE("tensors are read into Views of any layout") {
  std::vector<float> const values{0, 1, 2, 3, 4, 5};
  TensorInfo tensor = tensor_of(values, DType::F32);
  tensor.shape = {2, 3};

  Kokkos::View<float**, Kokkos::LayoutRight, Kokkos::HostSpace> right("right", 2, 3);
  Kokkos::View<double**, Kokkos::LayoutLeft, Kokkos::HostSpace> left("left", 2, 3);
  Kokkos::View<bfloat16***, Kokkos::LayoutRight, Kokkos::HostSpace> wide("wide", 2, 2, 5);
  auto const inner = Kokkos::subview(wide, Kokkos::ALL, 1, Kokkos::make_pair(1, 4));
  kokomo::io::read_into(tensor, right);
  kokomo::io::read_into(tensor, left);
  kokomo::io::read_into(tensor, inner);
  for (int i = 0; i < 2; ++i)
    for (int j = 0; j < 3; ++j) {
      CHECK(right(i, j) == float(3 * i + j));
      CHECK(left(i, j) == double(3 * i + j));
      CHECK(float(wide(i, 1, 1 + j)) == float(3 * i + j));
    }
  for (int i = 0; i < 2; ++i) { // nothing beside them was written
    CHECK(float(wide(i, 1, 0)) == 0.0f);
    CHECK(float(wide(i, 1, 4)) == 0.0f);
    CHECK(float(wide(i, 0, 1)) == 0.0f);
  }

  Kokkos::View<float, Kokkos::HostSpace> scalar("scalar");
  kokomo::io::read_into(TensorInfo{"s", DType::F32, {}, std::as_bytes(std::span(values)).subspan(8, 4)}, scalar);
  CHECK(scalar() == 2.0f);
  Kokkos::View<float**, Kokkos::LayoutLeft, Kokkos::HostSpace> empty("empty", 0, 3);
  kokomo::io::read_into(TensorInfo{"e", DType::F64, {0, 3}, {}}, empty);

  Kokkos::View<float**, Kokkos::LayoutRight, Kokkos::HostSpace> transposed("transposed", 3, 2);
  check_error([&] { kokomo::io::read_into(tensor, transposed); }, 413,
              {"tensor w in memory has shape [2, 3], expected [3, 2]"});
  Kokkos::View<float*, Kokkos::HostSpace> flat("flat", 6);
  check_error([&] { kokomo::io::read_into(tensor, flat); }, 413, {"has shape [2, 3], expected [6]"});
  std::vector<float> five(5);
  check_error([&] { read(tensor, std::span(five)); }, 413, {"has shape [2, 3] with 6 elements, expected 5"});
}

TEST_CASE("shapes are expected by name") {
  TensorInfo const tensor{
      "mlp.gate.weight", DType::F32, {4, 0}, {}, std::make_shared<std::string const>("model.safetensors")};
  kokomo::io::expect_shape(tensor, {4, 0});
  check_error(
      [&] {
        kokomo::io::expect_shape(tensor, {8, 64});
      },
      413, {"tensor mlp.gate.weight in model.safetensors has shape [4, 0], expected [8, 64]"});
  check_error([&] { kokomo::io::expect_shape(tensor, {4}); }, 413, {"has shape [4, 0], expected [4]"});
}

TEST_CASE("rows and parts of a tensor are tensors") {
  std::vector<std::int16_t> const values{0, 1, 2, 3, 4, 5};
  TensorInfo tensor = tensor_of(values, DType::I16);
  tensor.shape = {3, 2};
  auto const middle = kokomo::io::rows(tensor, 1, 2);
  CHECK(middle.shape == std::vector<std::int64_t>{2, 2});
  CHECK(read<std::int32_t>(middle) == std::vector{2, 3, 4, 5});
  CHECK(kokomo::io::rows(tensor, 3, 0).bytes.empty());
  CHECK(read<std::int32_t>(kokomo::io::part(tensor, 2)) == std::vector{4, 5});
  CHECK(kokomo::io::part(tensor, 2).shape == std::vector<std::int64_t>{2});

  check_error([&] { kokomo::io::rows(tensor, 2, 2); }, 413, {"has shape [3, 2], expected 2 rows from row 2"});
  check_error([&] { kokomo::io::rows(tensor, -1, 1); }, 413, {"from row -1"});
  check_error([&] { kokomo::io::rows(tensor, 1, std::numeric_limits<std::int64_t>::max()); }, 413, {"from row 1"});
  check_error([&] { kokomo::io::part(tensor, 3); }, 413, {"from row 3"});
  check_error(
      [&] {
        kokomo::io::part(TensorInfo{"s", DType::U8, {}, tensor.bytes.first(1)}, 0);
      },
      413, {"has shape []"});
}

TEST_CASE("every dtype is written and read back") {
  TemporaryFolder const folder;
  std::string bytes;
  for (int i = 0; i < 48; ++i) bytes += char(37 * i + 11);
  std::vector<TensorInfo> tensors;
  for (auto const dtype :
       {DType::BOOL, DType::U8, DType::I8, DType::F8_E5M2, DType::F8_E4M3, DType::F8_E8M0, DType::I16, DType::U16,
        DType::F16, DType::BF16, DType::I32, DType::U32, DType::F32, DType::F64, DType::I64, DType::U64}) {
    auto const name = "tensor." + std::string(name_of(dtype));
    tensors.push_back({name, dtype, {3, 2}, as_bytes(bytes).first(6 * size_of(dtype))});
    tensors.push_back({name + ".scalar", dtype, {}, as_bytes(bytes).first(size_of(dtype))});
    tensors.push_back({name + ".empty", dtype, {0, 5}, {}});
  }
  auto const path = folder.path / "all.safetensors";
  std::map<std::string, std::string> const metadata{{"format", "pt"}, {"quote", "\"\\\n"}, {"umlaut", "\xc3\xa4"}};
  kokomo::io::write_safetensors(path, tensors, metadata);

  SafetensorsFile const file(path);
  CHECK(file.metadata() == metadata);
  CHECK(file.tensors().size() == tensors.size());
  for (auto const& written : tensors) {
    auto const& tensor = file.at(written.name);
    CAPTURE(written.name);
    CHECK(tensor.dtype == written.dtype);
    CHECK(tensor.shape == written.shape);
    CHECK(std::vector(tensor.bytes.begin(), tensor.bytes.end()) ==
          std::vector(written.bytes.begin(), written.bytes.end()));
    CHECK(std::uintptr_t(tensor.bytes.data()) % size_of(tensor.dtype) == 0); // a mapping begins at a page
  }
  CHECK_FALSE(std::filesystem::exists(folder.path / "all.safetensors.part"));
}

TEST_CASE("a written file has the bytes that the format prescribes") {
  TemporaryFolder const folder;
  std::array<std::uint8_t, 3> const small{1, 2, 3};
  Kokkos::View<float[2], Kokkos::HostSpace> view("view");
  view(0) = 1.0f;
  view(1) = -2.0f;
  auto const path = folder.path / "two.safetensors";
  kokomo::io::write_safetensors(
      path, std::vector{as_tensor("a", std::span<std::uint8_t const>(small), {3}), as_tensor("b", view)}, {{"k", "v"}});
  // Wide elements first, whatever the names; 128 bytes of header, the last of them spaces.
  std::string header = R"({"__metadata__":{"k":"v"},"b":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},)"
                       R"("a":{"dtype":"U8","shape":[3],"data_offsets":[8,11]}})";
  header.resize(136, ' ');
  CHECK(contents(path) == file_of(header, std::string("\0\0\x80\x3f\0\0\0\xc0\1\2\3", 11)));
}

TEST_CASE("what cannot be written is refused") {
  TemporaryFolder const folder;
  auto const path = folder.path / "w.safetensors";
  std::array<std::uint8_t, 4> const bytes{};
  auto const tensor = [&](std::string name, std::vector<std::int64_t> shape) {
    return as_tensor(std::move(name), std::span<std::uint8_t const>(bytes), std::move(shape));
  };
  auto const write = [&](std::vector<TensorInfo> const& tensors) { kokomo::io::write_safetensors(path, tensors); };
  check_error([&] { write({tensor("w", {5})}); }, 415,
              {"tensor w in ", "w.safetensors has 4 bytes, which is not shape [5] of U8"});
  check_error([&] { write({tensor("w", {-2, -2})}); }, 415, {"which is not shape [-2, -2]"});
  check_error([&] { write({tensor("w", {4}), tensor("w", {4})}); }, 415, {"tensor w in ", "stands twice"});
  check_error([&] { write({tensor("__metadata__", {4})}); }, 415, {"tensor __metadata__", "reserved"});
  check_error([&] { write({tensor("\xff", {4})}); }, 415, {"w.safetensors: a name is not UTF-8"});
  Kokkos::View<float**, Kokkos::LayoutLeft, Kokkos::HostSpace> left("left", 2, 2);
  check_error([&] { as_tensor("w", left); }, 415, {"tensor w in memory is not row-major"});
  CHECK(std::filesystem::is_empty(folder.path));

  check_error([&] { kokomo::io::write_safetensors(folder.path / "absent" / "w", {}); }, 416,
              {"absent/w cannot be written"});
  std::filesystem::create_directory(path); // a folder stands where the file should be
  check_error([&] { write({tensor("w", {4})}); }, 416, {"w.safetensors cannot be written"});
  CHECK_FALSE(std::filesystem::exists(folder.path / "w.safetensors.part"));
}

} // namespace tensor_test
