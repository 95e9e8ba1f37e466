// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "files.hpp"

#include <kokomo/io/safetensors.hpp>

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include <sys/stat.h>

namespace safetensors_test {

using kokomo::io::DType;
using kokomo::io::SafetensorsFile;

namespace {

SafetensorsFile open(std::string const& bytes) {
  return SafetensorsFile(as_bytes(bytes), "f.safetensors");
}

/// What goes wrong with a header over `data` zero bytes.
struct BadHeader {
  int id;
  std::string header;
  std::size_t data;
  std::string text;
};

void check_each(std::vector<BadHeader> const& cases) {
  for (auto const& bad : cases) {
    CAPTURE(bad.header);
    std::string const bytes = file_of(bad.header, std::string(bad.data, '\0'));
    check_error([&] { open(bytes); }, bad.id, {"f.safetensors", bad.text});
  }
}

std::string repeat(std::string const& text, int n) {
  std::string out;
  for (int i = 0; i < n; ++i) out += text;
  return out;
}

} // namespace

TEST_CASE("a safetensors file gives its tensors by name") {
  std::string const bytes =
      file_of(R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[2,1],"data_offsets":[2,10]},)"
              R"("a":{"shape":[],"data_offsets":[0,2],"dtype":"BF16"},"none":{"dtype":"I64","shape":[0,7],)"
              R"("data_offsets":[10,10]}}   )",
              std::string("\x80\x3f\x00\x00\x00\x3f\x00\x00\x00\xc0", 10));
  SafetensorsFile const file = open(bytes);
  CHECK(file.name() == "f.safetensors");
  CHECK(file.metadata() == std::map<std::string, std::string>{{"format", "pt"}});
  REQUIRE(file.tensors().size() == 3);
  CHECK(file.tensors()[0].name == "a");

  auto const& a = file.at("a");
  CHECK(a.dtype == DType::BF16);
  CHECK(a.shape.empty());
  CHECK(a.elements() == 1);
  CHECK(kokomo::io::read<float>(a) == std::vector{1.0f});
  CHECK(file.at("b").shape == std::vector<std::int64_t>{2, 1});
  CHECK(kokomo::io::read<float>(file.at("b")) == std::vector{0.5f, -2.0f});
  CHECK(file.at("none").elements() == 0);
  CHECK(kokomo::io::read<std::int64_t>(file.at("none")).empty());

  CHECK(file.find("b") == &file.at("b"));
  CHECK(file.find("c") == nullptr);
  check_error([&] { file.at("layers.7.w"); }, 411, {"tensor layers.7.w is not in f.safetensors, which has 3 tensors"});
}

TEST_CASE("a file without tensors is a file") {
  CHECK(open(file_of("{}")).tensors().empty());
  CHECK(open(file_of(R"({"__metadata__":{}})")).metadata().empty());
}

TEST_CASE("what is no file to read is error 401") {
  TemporaryFolder const folder;
  auto const open_path = [](std::filesystem::path const& path) { SafetensorsFile file(path); };
  check_error([&] { open_path(folder.path / "absent.safetensors"); }, 401,
              {"absent.safetensors", "cannot be read", "No such file"});
  check_error([&] { open_path(folder.path); }, 401, {folder.path.string(), "not a regular file"});
  auto const pipe = folder.path / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  check_error([&] { open_path(pipe); }, 401, {"pipe", "not a regular file"});
}

TEST_CASE("a wrong header length is error 402") {
  TemporaryFolder const folder;
  auto const check = [&](std::string const& bytes, std::string_view text) {
    check_error([&] { open(bytes); }, 402, {"f.safetensors", text});
    auto const path = folder.write("mapped.safetensors", bytes);
    check_error([&] { SafetensorsFile file(path); }, 402, {"mapped.safetensors", text});
  };
  check("", "has 0 bytes, expected at least 8");
  check("\1\2\3", "has 3 bytes, expected at least 8");
  check(little_endian(0), "length 0, expected 1 to 0");
  check(little_endian(0) + "{}", "length 0, expected 1 to 2");
  check(little_endian(3) + "{}", "length 3, expected 1 to 2");
  check(little_endian(std::numeric_limits<std::uint64_t>::max()) + "{}", "length 18446744073709551615");
  check(little_endian(std::numeric_limits<std::uint64_t>::max() - 7) + "{}", "length 18446744073709551608");
  // One byte more than the format allows, in a file that has them all.
  auto const large = folder.write("large.safetensors", little_endian(100'000'001) + "{}");
  std::filesystem::resize_file(large, 100'000'100);
  check_error([&] { SafetensorsFile file(large); }, 402,
              {"large.safetensors", "length 100000001, expected 1 to 100000000"});
}

TEST_CASE("a header that is not JSON is error 403") {
  check_each({
      {403, "[]", 0, "it begins with '[', expected '{'"},
      {403, " {}", 0, "it begins with ' ', expected '{'"},
      {403, "\xef\xbb\xbf{}", 0, "expected '{'"},
      {403, "{", 0, "not valid JSON"},
      {403, "{} {}", 0, "not valid JSON"},
      {403, R"({"a":})", 0, "not valid JSON"},
      {403, "{\"\xff\":{}}", 0, "invalid string: ill-formed UTF-8"},
      {403, std::string("{}\0", 3), 0, "holds a NUL"},
      {403, R"({"a":{"dtype":"F32","shape":[1e999],"data_offsets":[0,4]}})", 4, "number overflow"},
  });
}

TEST_CASE("a header of another structure is error 404") {
  check_each({
      {404, R"({"w":1})", 0, "tensor w in f.safetensors is described by 1, expected an object"},
      {404, R"({"w":[]})", 0, "tensor w in f.safetensors is described by an array"},
      {404, R"({"w":null})", 0, "described by null"},
      {404, R"({"w":{}})", 0, "tensor w in f.safetensors has no dtype"},
      {404, R"({"w":{"dtype":"F32","data_offsets":[0,4]}})", 4, "tensor w in f.safetensors has no shape"},
      {404, R"({"w":{"dtype":"F32","shape":[1]}})", 4, "tensor w in f.safetensors has no data_offsets"},
      {404, R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"stride":[1]}})", 4, "unknown key stride"},
      {404, R"({"w":{"dtype":"F32","dtype":"F32"}})", 4, "tensor w in f.safetensors: key dtype stands twice"},
      {404, R"({"w":{"shape":[1],"shape":[2]}})", 4, "key shape stands twice"},
      {404, R"({"w":{"data_offsets":[0,1],"data_offsets":[0,2]}})", 4, "key data_offsets stands twice"},
      {404, R"({"w":{"dtype":7}})", 0, "dtype is 7, expected a string"},
      {404, R"({"w":{"dtype":{}}})", 0, "dtype is an object, expected a string"},
      {404, R"({"w":{"shape":"[1]"}})", 0, "shape is the string [1], expected an array"},
      {404, R"({"w":{"data_offsets":true}})", 0, "data_offsets is true, expected an array"},
      {404, R"({"__metadata__":[]})", 0, "expected an object"},
      {404, R"({"__metadata__":{"k":1}})", 0, "__metadata__ holds 1 for key k, expected a string"},
      {404, R"({"__metadata__":{"k":{}}})", 0, "__metadata__ holds an object for key k"},
      {404, R"({"__metadata__":{"k":"a","k":"b"}})", 0, "__metadata__ holds key k twice"},
      {404, R"({"__metadata__":{},"__metadata__":{}})", 0, "__metadata__ stands twice"},
      // Nesting ends where the format ends, long before the stack.
      {404, R"({"w":)" + repeat("[", 200'000), 0, "described by an array"},
      {404, repeat(R"({"a":)", 200'000), 0, "dtype"},
  });
}

TEST_CASE("a tensor that stands twice is error 405") {
  check_each(
      {{405,
        R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
        4, "tensor w in f.safetensors stands twice"}});
}

TEST_CASE("an unknown dtype is error 406") {
  for (std::string const dtype : {"F33", "f32", "", "F4", "float32"})
    check_each({{406, R"({"w":{"dtype":")" + dtype + R"(","shape":[1],"data_offsets":[0,4]}})", 4,
                 "tensor w in f.safetensors has dtype " + dtype + ", expected one of BOOL, U8"}});
}

TEST_CASE("a shape that cannot be is error 407") {
  auto const shape = [](std::string const& dims) {
    return R"({"w":{"dtype":"F32","shape":[)" + dims + R"(],"data_offsets":[0,4]}})";
  };
  std::string const in = "tensor w in f.safetensors: the shape ";
  check_each({
      {407, shape("-1"), 4, in + "holds -1, expected integers from 0"},
      {407, shape("1.0"), 4, in + "holds 1.0"},
      {407, shape("1e2"), 4, in + "holds 1e2"},
      {407, shape("9223372036854775808"), 4, in + "holds 9223372036854775808"},
      {407, shape("99999999999999999999999"), 4, in + "holds 99999999999999999999999"},
      {407, shape("[1]"), 4, in + "holds an array"},
      {407, shape("null"), 4, in + "holds null"},
      {407, shape("\"1\""), 4, in + "holds the string 1"},
      // 2^62 elements are a count, but 2^64 bytes are not.
      {407, shape("4611686018427387904"), 4, in + "[4611686018427387904] of F32 passes 2^63 bytes"},
      // The product is 2^64 + 4, which is 4 in 64 bits: the byte count of one element.
      {407, shape("4294967296, 4294967296"), 4, "passes 2^63 bytes"},
      {407, shape("3, 6148914691236517206"), 4, "passes 2^63 bytes"},
      // No element, but strides that cannot be trusted.
      {407, shape("0, 9223372036854775807, 2"), 4, "passes 2^63 bytes"},
  });
}

TEST_CASE("wrong data_offsets are error 408") {
  auto const offsets = [](std::string const& range) {
    return R"({"w":{"dtype":"U8","shape":[4],"data_offsets":[)" + range + "]}}";
  };
  std::string const in = "tensor w in f.safetensors: data_offsets ";
  check_each({
      {408, offsets(""), 4, in + "hold 0 numbers, expected two"},
      {408, offsets("4"), 4, in + "hold 1 numbers, expected two"},
      {408, offsets("0,4,4"), 4, in + "hold 4, expected two integers"},
      {408, offsets("-1,3"), 4, in + "hold -1, expected two integers"},
      {408, offsets("0.0,4"), 4, in + "hold 0.0"},
      {408, offsets("[0,4]"), 4, in + "hold an array"},
      {408, offsets("4,0"), 4, in + "begin at 4 and end at 0"},
      {408, offsets("0,5"), 4, in + "end at 5, expected at most 4"},
      {408, offsets("0,4"), 3, in + "end at 4, expected at most 3"}, // a truncated file
      {408, offsets("18446744073709551612,18446744073709551615"), 4, in + "end at 18446744073709551615"},
  });
}

TEST_CASE("a byte count that disagrees with the shape is error 409") {
  check_each({
      {409, R"({"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,20]}})", 20,
       "tensor w in f.safetensors has 20 bytes, expected 24 for shape [2, 3] of F32"},
      {409, R"({"w":{"dtype":"F64","shape":[],"data_offsets":[0,4]}})", 4,
       "has 4 bytes, expected 8 for shape [] of F64"},
      {409, R"({"w":{"dtype":"U8","shape":[0],"data_offsets":[0,4]}})", 4,
       "has 4 bytes, expected 0 for shape [0] of U8"},
  });
}

TEST_CASE("overlaps and holes are error 410") {
  auto const two = [](std::string const& a, std::string const& b) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + a +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + b + "}}";
  };
  check_each({
      {410, two("[0,4]", "[3,7]"), 7,
       "tensor b in f.safetensors begins at byte 3 of the data and overlaps tensor a, which ends at 4"},
      {410, two("[0,4]", "[0,4]"), 4, "begins at byte 0 of the data and overlaps"},
      {410, two("[0,4]", "[5,9]"), 9, "tensor b in f.safetensors begins at byte 5 of the data, expected 4"},
      {410, two("[5,9]", "[1,5]"), 9, "tensor b in f.safetensors begins at byte 1 of the data, expected 0"},
      {410, two("[0,4]", "[4,8]"), 9, "end at byte 8 of the data, expected 9"},
      {410, "{}", 1, "end at byte 0 of the data, expected 1"},
      {410,
       R"({"a":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"z":{"dtype":"U8","shape":[0],"data_offsets":[2,2]}})",
       4, "tensor z in f.safetensors begins at byte 2 of the data and overlaps tensor a"},
  });
}

TEST_CASE("what a stranger writes into a name does not reach the terminal") {
  std::string const name = R"(\u001b[31m)" + repeat("x", 1000);
  std::string const bytes = file_of(R"({")" + name + R"(":1})");
  try {
    open(bytes);
    FAIL("no error");
  } catch (kokomo::Error const& error) {
    std::string const text = error.what();
    CHECK(text.find('\x1b') == std::string::npos);
    CHECK(text.size() < 300);
  }
}

TEST_CASE("tensors outlive the file that gave them, and files move") {
  TemporaryFolder const folder;
  auto const path =
      folder.write("w.safetensors", file_of(R"({"w":{"dtype":"U8","shape":[3],"data_offsets":[0,3]}})", "\1\2\3"));
  kokomo::io::TensorInfo tensor;
  {
    SafetensorsFile file(path);
    SafetensorsFile const moved = std::move(file);
    tensor = moved.at("w");
  }
  CHECK(kokomo::io::read<std::int32_t>(tensor) == std::vector{1, 2, 3});
  CHECK(*tensor.file == path.string());
}

TEST_CASE("offsets pass 2^32") {
  // A sparse file: five gigabytes that take a few blocks.
  TemporaryFolder const folder;
  std::uint64_t const large = 5'000'000'000;
  std::string const header = R"({"large":{"dtype":"U8","shape":[2,2500000000],"data_offsets":[0,5000000000]},)"
                             R"("w":{"dtype":"I32","shape":[2],"data_offsets":[5000000000,5000000008]}})";
  auto const path = folder.write("sparse.safetensors", file_of(header));
  {
    std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
    out.seekp(std::streamoff(8 + header.size() + large - 1));
    out.write("\7\1\0\0\0\2\0\0\0", 9);
    REQUIRE(out.good());
  }
  SafetensorsFile const file(path);
  CHECK(kokomo::io::read<std::int32_t>(file.at("w")) == std::vector{1, 2});
  CHECK(file.at("large").elements() == std::int64_t(large));
  auto const second = kokomo::io::part(file.at("large"), 1);
  CHECK(second.shape == std::vector<std::int64_t>{2'500'000'000});
  CHECK(second.bytes.back() == std::byte(7));
}

} // namespace safetensors_test
