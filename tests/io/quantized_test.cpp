// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#include "files.hpp"

#include <kokomo/io/families.hpp>
#include <kokomo/io/parameters.hpp>
#include <kokomo/io/quantized.hpp>
#include <kokomo/io/safetensors.hpp>
#include <kokomo/io/safetensors_writer.hpp>
#include <kokomo/models/quantized.hpp>

#include <cmath>
#include <cstring>
#include <deque>
#include <random>

namespace quantized_test {

namespace {

using namespace kokomo;
namespace io = kokomo::io;
using Exec = Kokkos::DefaultHostExecutionSpace;

double e4m3(int code) { // the formats' definitions, in double
  int const exponent = code >> 3 & 15, mantissa = code & 7;
  double const value = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 128 ? -value : value;
}
double mxfp4(int code, int scale) {
  constexpr double values[] = {0, 0.5, 1, 1.5, 2, 3, 4, 6};
  return std::ldexp(code & 8 ? -values[code & 7] : values[code & 7], scale - 127);
}

/// Tensors with bytes of their own, written to a file at once.
class Tensors {
public:
  void bytes(std::string const& name, io::DType dtype, std::vector<std::int64_t> const& shape, int lowest,
             int highest) {
    std::uniform_int_distribution<int> uniform(lowest, highest);
    auto& data = m_data.emplace_back(size(shape));
    for (auto& byte : data) {
      int code = uniform(m_engine);
      if (dtype == io::DType::F8_E4M3 && (code & 127) == 127) --code; // no NaN
      byte = std::byte(code);
    }
    m_tensors.push_back({name, dtype, shape, data});
  }
  void floats(std::string const& name, std::vector<std::int64_t> const& shape) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    auto& data = m_data.emplace_back(size(shape) * sizeof(float));
    for (std::size_t i = 0; i < size(shape); ++i) {
      float const value = uniform(m_engine);
      std::memcpy(data.data() + i * sizeof(float), &value, sizeof(float));
    }
    m_tensors.push_back({name, io::DType::F32, shape, data});
  }
  io::SafetensorsFile write(TemporaryFolder const& folder, std::string const& name = "w.safetensors") const {
    io::write_safetensors(folder.path / name, m_tensors);
    return io::SafetensorsFile(folder.path / name);
  }

private:
  static std::size_t size(std::vector<std::int64_t> const& shape) {
    std::size_t product = 1;
    for (auto const extent : shape) product *= std::size_t(extent);
    return product;
  }
  std::mt19937 m_engine{5};
  std::deque<std::vector<std::byte>> m_data;
  std::vector<io::TensorInfo> m_tensors;
};

int byte_of(io::TensorInfo const& tensor, std::int64_t i) {
  return std::to_integer<int>(tensor.bytes[std::size_t(i)]);
}

TEST_CASE("quantization_config says what is read") {
  using Method = io::Quantization::Method;
  auto const of = [](std::string const& text) { return io::quantization_of(io::Config::parse(text, "c.json")); };
  REQUIRE(of("{}").method == Method::none);
  REQUIRE(of(R"({"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}})").method ==
          Method::mxfp4);
  auto const fp8 = of(R"({"quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                          "weight_block_size": [128, 64]}})");
  REQUIRE((fp8.method == Method::fp8 && fp8.block_rows == 128 && fp8.block_columns == 64));
  check_error([&] { of(R"({"quantization_config": 3})"); }, 432, {"c.json", "quantization_config"});
  check_error([&] { of(R"({"quantization_config": {}})"); }, 431, {"c.json", "quant_method"});
  check_error([&] { of(R"({"quantization_config": {"quant_method": "gptq"}})"); }, 435, {"gptq", "mxfp4 or fp8"});
  check_error([&] { of(R"({"quantization_config": {"quant_method": "fp8"}})"); }, 435, {"weight_block_size", "2"});
  check_error([&] { of(R"({"quantization_config": {"quant_method": "fp8", "fmt": "e5m2"}})"); }, 435, {"e5m2", "e4m3"});
  check_error([&] { of(R"({"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 0]}})"); }, 433,
              {"weight_block_size", "[128, 0]"});
}

TEST_CASE("MXFP4 blocks: each value is its code times its power of two, low nibble first") {
  TemporaryFolder const folder;
  Tensors tensors;
  tensors.bytes("w_blocks", io::DType::U8, {2, 3, 2, 16}, 0, 255);
  tensors.bytes("w_scales", io::DType::U8, {2, 3, 2}, 1, 250);
  auto const file = tensors.write(folder);
  auto const& blocks = file.at("w_blocks");
  auto const& scales = file.at("w_scales");
  std::vector<float> values(2 * 3 * 64);
  std::vector<bfloat16> halves(values.size());
  io::dequantize_mxfp4(blocks, scales, std::span(values));
  io::dequantize_mxfp4(blocks, scales, std::span(halves));
  for (std::int64_t i = 0; i < std::int64_t(values.size()); ++i) {
    int const byte = byte_of(blocks, i / 2), code = i % 2 == 0 ? byte & 15 : byte >> 4;
    double const expected = mxfp4(code, byte_of(scales, i / 32));
    REQUIRE(double(values[std::size_t(i)]) == expected);
    REQUIRE(double(float(halves[std::size_t(i)])) == expected);
  }

  auto const find = [&](std::string_view name) { return file.find(name); };
  io::DequantizedTensors dequantized(find, {io::Quantization::Method::mxfp4});
  auto const* const w = dequantized.find("w");
  REQUIRE((w != nullptr && w->dtype == io::DType::BF16 && w->shape == std::vector<std::int64_t>{2, 3, 64}));
  REQUIRE(io::read<float>(*w) == values);
  REQUIRE(dequantized.find("w") == w); // the same again
  REQUIRE(dequantized.find("v") == nullptr);
  REQUIRE(dequantized.find("w_scales") == file.find("w_scales"));
  io::DequantizedTensors as_it_is(find, {});
  REQUIRE(as_it_is.find("w") == nullptr);
}

TEST_CASE("float8 blocks: each value is its code times the scale of its block, rounded once") {
  TemporaryFolder const folder;
  Tensors tensors;
  tensors.bytes("w", io::DType::F8_E4M3, {5, 7}, 0, 255);
  tensors.floats("w_scale_inv", {2, 3});
  tensors.floats("norm", {4});
  auto const file = tensors.write(folder);
  io::Quantization const quantization{io::Quantization::Method::fp8, 3, 3};
  io::DequantizedTensors dequantized([&](std::string_view name) { return file.find(name); }, quantization);
  auto const* const w = dequantized.find("w");
  REQUIRE((w != nullptr && w->dtype == io::DType::F32 && w->shape == file.at("w").shape && w->name == "w"));
  auto const values = io::read<float>(*w);
  auto const scales = io::read<float>(file.at("w_scale_inv"));
  for (std::int64_t i = 0; i < 35; ++i) {
    double const scale = scales[std::size_t(i / 7 / 3 * 3 + i % 7 / 3)];
    REQUIRE(values[std::size_t(i)] == float(e4m3(byte_of(file.at("w"), i)) * scale));
  }
  REQUIRE(dequantized.find("norm") == file.find("norm"));
}

TEST_CASE("quantised tensors that do not fit are named with what was expected") {
  TemporaryFolder const folder;
  Tensors tensors;
  tensors.bytes("a_blocks", io::DType::U8, {2, 1, 16}, 0, 255); // no scales
  tensors.bytes("b_blocks", io::DType::U8, {2, 1, 16}, 0, 255);
  tensors.bytes("b_scales", io::DType::U8, {2, 2}, 0, 255);
  tensors.bytes("c_blocks", io::DType::U8, {2, 1, 15}, 0, 255);
  tensors.bytes("c_scales", io::DType::U8, {2, 1}, 0, 255);
  tensors.bytes("d_blocks", io::DType::I8, {2, 1, 16}, 0, 255);
  tensors.bytes("d_scales", io::DType::U8, {2, 1}, 0, 255);
  tensors.bytes("e_blocks", io::DType::U8, {2, 1, 16}, 0, 255);
  tensors.floats("e_scales", {2, 1});
  tensors.bytes("f", io::DType::F8_E4M3, {4, 4}, 0, 255); // no scales
  tensors.bytes("g", io::DType::F8_E4M3, {4, 4}, 0, 255);
  tensors.floats("g_scale_inv", {1, 1});
  tensors.bytes("h", io::DType::F8_E4M3, {2, 2, 4}, 0, 255);
  tensors.floats("h_scale_inv", {1, 1});
  auto const file = tensors.write(folder);
  auto const find = [&](std::string_view name) { return file.find(name); };
  io::DequantizedTensors mxfp4(find, {io::Quantization::Method::mxfp4});
  check_error([&] { mxfp4.find("a"); }, 411, {"tensor a_blocks in", "w.safetensors", "expected a tensor a_scales"});
  check_error([&] { mxfp4.find("b"); }, 413, {"tensor b_scales in", "[2, 2]", "expected [2, 1]"});
  check_error([&] { mxfp4.find("c"); }, 413, {"tensor c_blocks in", "[2, 1, 15]", "groups, 16]"});
  check_error([&] { mxfp4.find("d"); }, 412, {"tensor d_blocks in", "I8", "expected U8"});
  check_error([&] { mxfp4.find("e"); }, 412, {"tensor e_scales in", "F32", "expected U8"});
  io::DequantizedTensors fp8(find, {io::Quantization::Method::fp8, 2, 4});
  check_error([&] { fp8.find("f"); }, 411, {"tensor f in", "expected a tensor f_scale_inv"});
  check_error([&] { fp8.find("g"); }, 413, {"tensor g_scale_inv in", "[1, 1]", "expected [2, 1]"});
  check_error([&] { fp8.find("h"); }, 413, {"tensor h in", "[2, 2, 4]", "expected [rows, columns]"});
}

/// Loads a block of a file twice, as floats and as it is, and compares all of experts' weights, bit by bit.
template <class Floats, class Quantized, class Compare>
void check_loads(io::Config const& config, io::SafetensorsFile const& file, Compare const& compare) {
  auto const& family = io::family(config);
  auto const description = family.describe(config, 0);
  auto const name = [&](std::string_view role) { return io::tensor_name(family, config, 0, role); };
  io::DequantizedTensors dequantized([&](std::string_view text) { return file.find(text); },
                                     io::quantization_of(config));
  Exec const exec;
  Floats const floats(description.shape(4), models::policies_for<Floats>(description));
  Quantized const quantized(description.shape(4), models::policies_for<Quantized>(description));
  auto const of_floats = floats.make_parameters(exec);
  auto const of_quantized = quantized.make_parameters(exec);
  io::load<Floats>(exec, of_floats, floats.make_state(exec), [&](std::string_view role) {
    auto const text = name(role);
    return text.empty() ? nullptr : dequantized.find(text);
  });
  io::load<Quantized>(exec, of_quantized, quantized.make_state(exec), [&](std::string_view role) {
    auto const text = name(role);
    return text.empty() ? nullptr : file.find(text);
  });
  compare(floats, of_floats, quantized, of_quantized);
}

/// Every weight of a tensor, dequantised, is the float beside it.
template <class Tensor, class View> void check_equal(Tensor const& quantized, View const& floats, offset_t parts) {
  auto const rows = offset_t(floats.extent(1)) / parts, columns = offset_t(floats.extent(2));
  for (offset_t part = 0; part < parts; ++part) {
    auto const matrix = quantized.matrix(part * rows);
    for (offset_t e = 0; e < offset_t(floats.extent(0)); ++e)
      for (offset_t n = 0; n < rows; ++n)
        for (offset_t k = 0; k < columns; ++k) REQUIRE(matrix(e, n, k) == float(floats(e, part * rows + n, k)));
  }
}

TEST_CASE("a GPT-OSS checkpoint of MXFP4 loads as floats, and without loss as it is") {
  auto const config = io::Config::parse(
      R"({"model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 96, "num_local_experts": 3,
          "num_experts_per_tok": 2, "num_hidden_layers": 1, "hidden_act": "silu",
          "quantization_config": {"quant_method": "mxfp4"}})",
      "config.json");
  TemporaryFolder const folder;
  Tensors tensors;
  std::string const experts = "model.layers.0.mlp.experts.";
  tensors.bytes(experts + "gate_up_proj_blocks", io::DType::U8, {3, 192, 2, 16}, 0, 255);
  tensors.bytes(experts + "gate_up_proj_scales", io::DType::U8, {3, 192, 2}, 110, 130);
  tensors.bytes(experts + "down_proj_blocks", io::DType::U8, {3, 64, 3, 16}, 0, 255);
  tensors.bytes(experts + "down_proj_scales", io::DType::U8, {3, 64, 3}, 110, 130);
  tensors.floats(experts + "gate_up_proj_bias", {3, 192});
  tensors.floats(experts + "down_proj_bias", {3, 64});
  tensors.floats("model.layers.0.mlp.router.weight", {3, 64});
  tensors.floats("model.layers.0.mlp.router.bias", {3});
  auto const file = tensors.write(folder);
  check_loads<models::GptOss<bfloat16, Exec>, models::GptOssMxfp4<float, Exec>>(
      config, file, [&](auto const& floats, auto const& of_floats, auto const& quantized, auto const& of_quantized) {
        REQUIRE(floats.policies().experts.up_order == WeightOrder::out_in);
        REQUIRE(quantized.policies().experts.gate_up == GateUp::interleaved);
        REQUIRE(quantized.policies().experts.activation.alpha == 1.702f);
        auto const& q = of_quantized.experts;
        check_equal(q.gate_up, of_floats.experts.gate_up, 1);
        check_equal(q.down, of_floats.experts.down, 1);
        auto const& blocks = file.at(experts + "gate_up_proj_blocks");
        REQUIRE(std::memcmp(q.gate_up.codes.data(), blocks.bytes.data(), blocks.bytes.size()) == 0);
        // one weight by hand: expert 1, row 5, column 37 is the high nibble of byte 2 of the row's second group
        int const byte = byte_of(blocks, ((1 * 192 + 5) * 2 + 1) * 16 + 2);
        int const scale = byte_of(file.at(experts + "gate_up_proj_scales"), (1 * 192 + 5) * 2 + 1);
        REQUIRE(double(float(of_floats.experts.gate_up(1, 5, 37))) == mxfp4(byte >> 4, scale));
        REQUIRE(q.gate_up_bias(2, 191) == io::read<float>(file.at(experts + "gate_up_proj_bias")).back());
      });
}

TEST_CASE("a DeepSeek-V3 checkpoint of float8 blocks loads as floats, and without loss as it is") {
  auto const config = io::Config::parse(
      R"({"model_type": "deepseek_v3", "hidden_size": 150, "moe_intermediate_size": 140, "n_routed_experts": 2,
          "num_experts_per_tok": 1, "num_hidden_layers": 1, "hidden_act": "silu", "first_k_dense_replace": 0,
          "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
          "quantization_config": {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}})",
      "config.json");
  TemporaryFolder const folder;
  Tensors tensors;
  auto const matrices = [&](std::string const& prefix) {
    for (std::string const name : {"gate_proj", "up_proj", "down_proj"}) {
      bool const down = name == "down_proj";
      tensors.bytes(prefix + name + ".weight", io::DType::F8_E4M3, {down ? 150 : 140, down ? 140 : 150}, 0, 255);
      tensors.floats(prefix + name + ".weight_scale_inv", {2, 2});
    }
  };
  std::string const mlp = "model.layers.0.mlp.";
  matrices(mlp + "experts.0."), matrices(mlp + "experts.1."), matrices(mlp + "shared_experts.");
  tensors.floats(mlp + "gate.weight", {2, 150});
  tensors.floats(mlp + "gate.e_score_correction_bias", {2});
  auto const file = tensors.write(folder);
  check_loads<models::DeepseekV3<float, Exec>, models::DeepseekV3Fp8<float, Exec>>(
      config, file, [&](auto const&, auto const& of_floats, auto const&, auto const& of_quantized) {
        check_equal(of_quantized.experts.gate_up, of_floats.experts.gate_up, 2);
        check_equal(of_quantized.experts.down, of_floats.experts.down, 1);
        check_equal(of_quantized.shared.experts.gate_up, of_floats.shared.experts.gate_up, 2);
        check_equal(of_quantized.shared.experts.down, of_floats.shared.experts.down, 1);
        // one weight by hand: expert 1, up row 139, column 149
        auto const& up = file.at(mlp + "experts.1.up_proj.weight");
        float const scale = io::read<float>(file.at(mlp + "experts.1.up_proj.weight_scale_inv"))[3];
        REQUIRE(of_floats.experts.gate_up(1, 140 + 139, 149) == float(e4m3(byte_of(up, 139 * 150 + 149)) * scale));
      });

  // float8 codes do not pass for another type's
  Exec const exec;
  using Layer = models::DeepseekV3Fp8<float, Exec>;
  auto const& family = io::family(config);
  auto const description = family.describe(config, 0);
  Layer const layer(description.shape(4), models::policies_for<Layer>(description));
  check_error(
      [&] {
        io::load<Layer>(exec, layer.make_parameters(exec), layer.make_state(exec), [&](std::string_view role) {
          auto const name = io::tensor_name(family, config, 0, role);
          auto const* const tensor = name.empty() ? nullptr : file.find(name);
          return role == "gate_proj.1" ? file.find(mlp + "gate.weight") : tensor;
        });
      },
      412, {"tensor model.layers.0.mlp.gate.weight in", "F32", "expected F8_E4M3"});
}

} // namespace

} // namespace quantized_test
