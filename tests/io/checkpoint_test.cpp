// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "files.hpp"

#include <kokomo/io/checkpoint.hpp>

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace checkpoint_test {

using kokomo::io::Checkpoint;
using kokomo::io::Config;

namespace {

/// A shard of U8 tensors of one element.
std::string shard_of(std::vector<std::pair<std::string, char>> const& tensors) {
  std::string header = "{", data;
  for (auto const& [name, value] : tensors) {
    header += (data.empty() ? "\"" : ",\"") + name + R"(":{"dtype":"U8","shape":[],"data_offsets":[)" +
              std::to_string(data.size()) + "," + std::to_string(data.size() + 1) + "]}";
    data += value;
  }
  return file_of(header + "}", data);
}

std::string index_of(std::string const& weight_map) {
  return R"({"metadata":{"total_size":3},"weight_map":)" + weight_map + "}";
}

constexpr auto index_name = "model.safetensors.index.json";

int value_of(Checkpoint const& checkpoint, std::string_view name) {
  return kokomo::io::read<std::int32_t>(checkpoint.at(name)).at(0);
}

Config config_of(std::string_view text) {
  return Config::parse(text, "config.json");
}

} // namespace

TEST_CASE("a checkpoint in one file") {
  TemporaryFolder const folder;
  folder.write("model.safetensors", shard_of({{"b", 2}, {"a", 1}}));
  folder.write("config.json", R"({"model_type":"mixtral"})");
  Checkpoint const checkpoint(folder.path);
  REQUIRE(checkpoint.tensors().size() == 2);
  CHECK(checkpoint.tensors()[0].name == "a");
  CHECK(value_of(checkpoint, "b") == 2);
  CHECK(checkpoint.find("c") == nullptr);
  CHECK(checkpoint.config().string("model_type") == "mixtral");
  check_error([&] { checkpoint.at("c"); }, 411,
              {"tensor c is not in " + folder.path.string() + ", which has 2 tensors"});
}

TEST_CASE("a checkpoint in shards") {
  TemporaryFolder const folder;
  folder.write("model-1.safetensors", shard_of({{"layers.0.w", 1}, {"layers.2.w", 3}}));
  folder.write("more/model-2.safetensors", shard_of({{"layers.1.w", 2}, {"not.in.the.index", 9}}));
  folder.write(index_name, index_of(R"({"layers.2.w":"model-1.safetensors","layers.0.w":"model-1.safetensors",)"
                                    R"("layers.1.w":"more/model-2.safetensors"})"));
  Checkpoint const opened(folder.path);
  Checkpoint const checkpoint = opened; // a copy shares the mappings
  std::vector<std::string> names;
  for (auto const& tensor : checkpoint.tensors()) names.push_back(tensor.name);
  CHECK(names == std::vector<std::string>{"layers.0.w", "layers.1.w", "layers.2.w"});
  CHECK(value_of(checkpoint, "layers.0.w") == 1);
  CHECK(value_of(checkpoint, "layers.1.w") == 2);
  CHECK(value_of(checkpoint, "layers.2.w") == 3);
  CHECK(*checkpoint.at("layers.1.w").file == (folder.path / "more/model-2.safetensors").string());
}

TEST_CASE("shards may be symbolic links, as in download caches") {
  TemporaryFolder const folder;
  auto const blob = folder.write("blobs/0123", shard_of({{"w", 7}}));
  folder.write("snapshot/model.safetensors.index.json", index_of(R"({"w":"model-1.safetensors"})"));
  std::filesystem::create_symlink("../blobs/0123", folder.path / "snapshot/model-1.safetensors");
  CHECK(value_of(Checkpoint(folder.path / "snapshot"), "w") == 7);
}

TEST_CASE("a folder that is no checkpoint is refused") {
  TemporaryFolder const folder;
  auto const open = [&] { Checkpoint checkpoint(folder.path); };
  check_error([&] { Checkpoint checkpoint(folder.path / "absent"); }, 421, {"absent is not a folder"});
  check_error([&] { Checkpoint checkpoint(folder.write("file", "")); }, 421, {"file is not a folder"});
  check_error(open, 422, {folder.path.string() + " has neither model.safetensors nor model.safetensors.index.json"});

  folder.write("model.safetensors", "");
  check_error(open, 402, {(folder.path / "model.safetensors").string()});
  std::filesystem::remove(folder.path / "model.safetensors");
  std::filesystem::create_directory(folder.path / "model.safetensors");
  check_error(open, 401, {"model.safetensors is not a regular file"});
}

TEST_CASE("a malformed index is refused") {
  TemporaryFolder const folder;
  folder.write("model-1.safetensors", shard_of({{"w", 1}}));
  auto const check = [&](std::string const& index, int id, std::string_view text) {
    CAPTURE(index);
    folder.write(index_name, index);
    check_error([&] { Checkpoint checkpoint(folder.path); }, id, {(folder.path / index_name).string(), text});
  };
  check("", 403, "is not valid JSON");
  check("weight_map", 403, "is not valid JSON");
  check(R"({"weight_map":{"w":"model-1.safetensors","w":"model-2.safetensors"}})", 403, "key w stands twice");
  check(index_of(std::string(100'000, '[')), 403, "nested deeper than 64");
  check(std::string("{}\0", 3), 403, "holds a NUL");
  check("[]", 423, "has no object weight_map");
  check("{}", 423, "has no object weight_map");
  check(index_of("[]"), 423, "has no object weight_map");
  check(index_of(R"({"w":1})"), 423, "gives number for tensor w, expected the name of a file");
  check(index_of(R"({"w":null})"), 423, "gives null for tensor w");

  for (std::string const path :
       {"../model-1.safetensors", "a/../../model-1.safetensors", "/etc/passwd", "..", "", "a/.."})
    check(index_of(R"({"w":")" + path + "\"}"), 424,
          "gives '" + path + "' for tensor w, expected a file inside the folder");
  check(index_of(R"({"w":"model-1.safetensors\u0000.txt"})"), 424, "for tensor w");
}

TEST_CASE("an index and its shards must agree") {
  TemporaryFolder const folder;
  auto const open = [&] { Checkpoint checkpoint(folder.path); };
  auto const shard = [&](std::string const& name) { return (folder.path / name).string(); };
  folder.write(index_name, index_of(R"({"v":"model-1.safetensors","w":"model-2.safetensors"})"));
  folder.write("model-1.safetensors", shard_of({{"v", 1}}));
  check_error(open, 425, {shard("model-2.safetensors") + " is missing", index_name, "expects tensor w in it"});

  folder.write("model-2.safetensors", shard_of({{"u", 2}}));
  check_error(open, 426, {"tensor w is not in " + shard("model-2.safetensors"), index_name});

  folder.write("model-2.safetensors", shard_of({{"w", 2}, {"v", 3}}));
  check_error(open, 427, {"tensor v in " + shard("model-2.safetensors") + " stands in model-1.safetensors too"});

  folder.write("model-2.safetensors", shard_of({{"w", 2}}) + "x");
  check_error(open, 410, {shard("model-2.safetensors")});
}

TEST_CASE("config.json gives typed values") {
  auto const config =
      config_of(R"({"num_experts":8,"eps":1e-6,"one":1,"norm":true,"act":"silu","nothing":null,"nan":NaN,
    "limits":[0.0,-Infinity,Infinity],"word":"NaN \"Infinity\\","mlp_only_layers":[0,3],"layer_types":["full","sliding"],"big":2147483648,
    "text_config":{"hidden_size":64,"text":"inner"}})");
  CHECK(config.integer("num_experts") == 8);
  CHECK(config.size("num_experts") == 8);
  CHECK(config.integer("big") == 2147483648);
  CHECK(config.integer_or("n_group", 1) == 1);
  CHECK(config.integer_or("num_experts", 1) == 8);
  CHECK(config.size_or("n_group", 3) == 3);
  CHECK(config.number("eps") == 1e-6);
  CHECK(config.number("one") == 1.0);
  CHECK(config.number_or("scale", 2.5) == 2.5);
  CHECK(config.boolean("norm"));
  CHECK(config.boolean_or("norm", false));
  CHECK_FALSE(config.boolean_or("bias", false));
  CHECK(config.string("act") == "silu");
  CHECK(config.string_or("act", "gelu") == "silu");
  CHECK(config.string_or("score", "softmax") == "softmax");
  CHECK(config.string("word") == "NaN \"Infinity\\");
  CHECK(config.integers_or_none("mlp_only_layers") == std::vector<std::int64_t>{0, 3});
  CHECK(config.integers_or_none("absent").empty());
  CHECK(config.strings_or_none("layer_types") == std::vector<std::string>{"full", "sliding"});
  CHECK(config.has("eps"));
  CHECK_FALSE(config.has("absent"));

  // null is absent, and so are the numbers that only Python has.
  CHECK_FALSE(config.has("nothing"));
  CHECK(config.integer_or("nothing", 5) == 5);
  CHECK(config.number_or("nan", 0.5) == 0.5);
  CHECK(config.json()["limits"].size() == 3);

  CHECK(config.text().size("hidden_size") == 64);
  CHECK(config.text().text().string("text") == "inner");
  CHECK(config_of(R"({"hidden_size":32})").text().size("hidden_size") == 32);
}

TEST_CASE("config.json's values are checked") {
  auto const config =
      config_of(R"({"word":"eight","half":0.5,"zero":0,"minus":-1,"large":2147483648,"huge":18446744073709551615,
    "null":null,"list":[1,"a"],"flag":true,"text_config":{"hidden_size":"64"}})");
  check_error([&] { config.integer("num_experts"); }, 431, {"config.json has no num_experts"});
  check_error([&] { config.size("null"); }, 431, {"config.json has no null"});
  check_error([&] { config.object("absent"); }, 431, {"config.json has no absent"});
  check_error([&] { config.integer("word"); }, 432, {"config.json: word is \"eight\", expected an integer"});
  check_error([&] { config.integer("half"); }, 432, {"half is 0.5, expected an integer"});
  check_error([&] { config.integer_or("flag", 1); }, 432, {"flag is true, expected an integer"});
  check_error([&] { config.number_or("flag", 1); }, 432, {"flag is true, expected a number"});
  check_error([&] { config.boolean_or("zero", false); }, 432, {"zero is 0, expected true or false"});
  check_error([&] { config.string_or("zero", ""); }, 432, {"zero is 0, expected a string"});
  check_error([&] { config.object("zero"); }, 432, {"zero is 0, expected an object"});
  check_error([&] { config.integers_or_none("zero"); }, 432, {"zero is 0, expected a list"});
  check_error([&] { config.integers_or_none("list"); }, 432, {"list is \"a\", expected an integer"});
  check_error([&] { config.strings_or_none("list"); }, 432, {"list is 1, expected a list of strings"});
  check_error([&] { config.text().size("hidden_size"); }, 432, {"config.json: text_config: hidden_size is \"64\""});
  check_error([&] { config.size("zero"); }, 433, {"config.json: zero is 0, expected 1 to 2147483647"});
  check_error([&] { config.size_or("minus", 1); }, 433, {"minus is -1, expected 1 to 2147483647"});
  check_error([&] { config.size("large"); }, 433, {"large is 2147483648, expected 1 to 2147483647"});
  check_error([&] { config.integer("huge"); }, 433, {"huge is 18446744073709551615"});
  check_error([&] { config.integer_or("minus", 2, 0, 8); }, 433, {"minus is -1, expected 0 to 8"});
}

TEST_CASE("config.json must be an object of JSON") {
  TemporaryFolder const folder;
  check_error([&] { Config config(folder.path / "config.json"); }, 401, {"config.json cannot be read"});
  check_error([&] { Config config(folder.write("config.json", "[]")); }, 432,
              {"config.json is array, expected an object"});
  check_error([&] { Config config(folder.write("config.json", "{")); }, 403, {"config.json is not valid JSON"});
  check_error([] { config_of(""); }, 403, {"config.json is not valid JSON"});
  check_error([] { config_of("{\"a\":Infinit}"); }, 403, {"config.json is not valid JSON"});
  check_error([] { config_of(R"({"a":1,"b":{"a":1,"a":2}})"); }, 403, {"key a stands twice in one object"});
  check_error([] { config_of(R"({"a":1e999})"); }, 403, {"config.json is not valid JSON"});
  check_error([] { config_of("{\"a\":\"\xc3\"}"); }, 403, {"ill-formed UTF-8"});
}

} // namespace checkpoint_test
