// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// checkpoint_layer DIR [options]
//
// Runs the MoE blocks of a published checkpoint: its config.json names the family, the family names a composition of
// kokomo::models, and each block is built, loaded and run, one after the other. Either compares with activations that
// the model's own code computed, or measures on generated tokens.
#include "block.hpp"
#include "options.hpp"
#include "progress.hpp"
#include "report.hpp"

#include <kokomo/io/checkpoint.hpp>
#include <kokomo/io/families.hpp>
#include <kokomo/io/quantized.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <exception>
#include <fstream>
#include <random>

namespace io = kokomo::io;
namespace models = kokomo::models;

namespace {

/// The layers to run: all MoE blocks, or the one that was asked for.
std::vector<int> chosen_layers(io::Config const& config, Options const& options) {
  auto const layers = io::sparse_layers(config);
  if (!options.layer) return layers;
  if (std::find(layers.begin(), layers.end(), *options.layer) != layers.end()) return {*options.layer};
  std::string blocks;
  for (int const layer : layers) blocks += (blocks.empty() ? "" : ", ") + std::to_string(layer);
  throw UsageError("--layer is " + std::to_string(*options.layer) + ", where " + config.name() + " has no experts, " +
                   (blocks.empty() ? "nor has any other layer" : "expected one of " + blocks));
}

using Choice = std::vector<std::pair<kokomo::index_t, float>>;

/// The same experts, with weights that differ by no more than a tenth of the largest: far more than rounding moves a
/// weight, and less than a threshold does.
bool routed_alike(Choice const& a, Choice const& b) {
  float largest = 0;
  for (auto const& [expert, weight] : b) largest = std::max(largest, std::abs(weight));
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [&](auto const& p, auto const& q) {
    return p.first == q.first && std::abs(p.second - q.second) <= 0.1f * largest;
  });
}

/// ||out - ref|| / ||ref||
double relative_error(std::vector<float> const& out, std::vector<float> const& reference) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    double const off = double(out[i]) - double(reference[i]);
    difference += off * off, norm += double(reference[i]) * double(reference[i]);
  }
  return std::sqrt(norm > 0 ? difference / norm : difference);
}

std::string number(char const* name, double value) {
  char text[80];
  std::snprintf(text, sizeof text, "%s %.2e", name, value);
  return text;
}

constexpr double float32_bound = 1e-5;

class Program {
public:
  explicit Program(Options const& options) : m_options(options), m_checkpoint(options.folder) {
    auto const activations = m_checkpoint.folder() / "activations.safetensors";
    std::error_code ignored;
    if (options.check && std::filesystem::exists(activations, ignored))
      m_activations = io::SafetensorsFile(activations);
    m_layers = chosen_layers(m_config, options);
    for (int const layer : m_layers) { // every setting is looked at before the first block takes its time
      (void)families::composition(m_family.model(m_config, layer));
      (void)m_family.describe(m_config, layer);
    }
    m_run = {.folder = options.folder,
             .model_type = std::string(m_family.model_type),
             .dtype = options.bfloat16 ? "bfloat16" : "float32",
             .execution_space = {},
             .threads = 0,
             .check = options.check,
             .bound = options.bfloat16 ? 1e-2 : float32_bound,
             .seed = options.seed};
  }

  int operator()() {
    using Exec = Kokkos::DefaultExecutionSpace;
    m_run.execution_space = Exec::name(), m_run.threads = Exec().concurrency();
    if (m_layers.empty() && !m_options.check)
      throw UsageError(m_config.name() + " describes no layer with experts, expected at least one");

    print_header(m_run);
    int failed = 0;
    for (int const layer : m_layers) {
      auto const result = m_options.check ? check(layer) : measure(layer);
      m_progress.clear();
      m_options.check ? print_check(m_run, result) : print_timing(result);
      failed += result.failure.empty() ? 0 : 1;
      m_results.push_back(result);
    }
    if (m_layers.empty()) std::fprintf(stderr, "%s describes no layer with experts\n", m_config.name().c_str());
    if (m_options.check) std::printf("%d passed, %d failed\n", int(m_results.size()) - failed, failed);
    write(m_options.plot, [this] { return heat_map(m_run, m_results); });
    write(m_options.json, [this] { return to_json(m_run, m_results); });
    return m_options.check && (failed > 0 || m_results.empty()) ? 1 : 0;
  }

private:
  Block block(int layer) {
    Block block;
    block.make_layer = &families::composition(m_family.model(m_config, layer));
    block.description = m_family.describe(m_config, layer);
    std::string const where = "block " + std::to_string(m_results.size() + 1) + " of " +
                              std::to_string(m_layers.size()) + ", layer " + std::to_string(layer) + ": ";
    block.tensor_of = [this, layer, where](std::string_view role) {
      auto const name = io::tensor_name(m_family, m_config, layer, role);
      auto const* const tensor = name.empty() ? nullptr : m_tensors.find(name);
      if (tensor != nullptr) m_progress(where + "reading " + name);
      return tensor;
    };
    block.bfloat16 = m_options.bfloat16;
    block.progress = [this, where](char const* doing) { m_progress(where + doing); };
    return block;
  }

  Outcome run_block(Block const& block, Result& result) {
    auto outcome = run(block);
    result.load = outcome.load;
    result.experts = kokomo::offset_t(outcome.load.size());
    result.status = outcome.status;
    result.flop = outcome.flop;
    result.seconds = outcome.seconds;
    std::sort(result.seconds.begin(), result.seconds.end());
    return outcome;
  }

  Result describe(int layer, models::Description const& d) const {
    Result result;
    result.layer = layer;
    result.composition = m_family.model(m_config, layer);
    result.hidden = d.hidden, result.intermediate = d.intermediate;
    result.shared = d.shared, result.shared_intermediate = d.shared_intermediate;
    result.experts = d.experts + d.identity_experts + d.zero_experts;
    result.k = d.top_k;
    return result;
  }

  Result measure(int layer) {
    Block block = this->block(layer);
    Result result = describe(layer, block.description);
    result.tokens = block.tokens = m_options.tokens;
    block.timed = true;
    m_progress("layer " + std::to_string(layer) + ": generating tokens");
    std::seed_seq seed{m_options.seed & 0xffffffffu, m_options.seed >> 32, std::uint64_t(layer)};
    std::mt19937_64 generator(seed);
    std::normal_distribution<float> normal;
    block.inputs.x.resize(std::size_t(block.tokens) * std::size_t(block.description.hidden));
    std::generate(block.inputs.x.begin(), block.inputs.x.end(), [&] { return normal(generator); });
    std::uniform_int_distribution<kokomo::offset_t> id(0,
                                                       std::max(block.description.vocabulary, kokomo::offset_t(1)) - 1);
    block.inputs.token_ids.resize(std::size_t(block.tokens));
    std::generate(block.inputs.token_ids.begin(), block.inputs.token_ids.end(), [&] { return id(generator); });
    run_block(block, result);
    return result;
  }

  io::TensorInfo const& activation(std::string const& name) const {
    if (!m_activations) throw UsageError("there is no activations.safetensors beside config.json");
    return m_activations->at(name);
  }

  /// Selection is not continuous, nor are gates with a threshold (SparseMixer): rounding to bfloat16 may send a token
  /// whose best scores nearly tie to other experts than those of the float32 reference, or change its weights at once, and
  /// then its output is another one altogether. Such tokens are set apart, and
  /// said to be, if nothing else can be the reason: the same block in float32 meets the float32 bound for all tokens, the
  /// bfloat16 logits of each of these tokens are within the bfloat16 bound of the float32 ones, and so is the error of
  /// all other tokens. Returns whether that is so; `why` says what was found.
  bool explained_by_rounding(Block block, Outcome const& outcome, std::vector<float> const& reference, Result& result,
                             std::string& why) {
    block.bfloat16 = false;
    auto const exact = run(block);
    auto const tokens = outcome.chosen.size(), hidden = outcome.y.size() / tokens;
    auto const columns = outcome.logits.size() / tokens;
    auto const row = [](std::vector<float> const& values, std::size_t t, std::size_t width) {
      return std::vector<float>(values.begin() + t * width, values.begin() + (t + 1) * width);
    };
    std::vector<float> y, expected;
    std::size_t others = 0;
    double logits_error = 0;
    for (std::size_t t = 0; t < tokens; ++t) {
      if (!routed_alike(outcome.chosen[t], exact.chosen[t])) {
        ++others;
        logits_error =
            std::max(logits_error, relative_error(row(outcome.logits, t, columns), row(exact.logits, t, columns)));
        continue;
      }
      y.insert(y.end(), outcome.y.begin() + t * hidden, outcome.y.begin() + (t + 1) * hidden);
      expected.insert(expected.end(), reference.begin() + t * hidden, reference.begin() + (t + 1) * hidden);
    }
    double const error = relative_error(y, expected), exact_error = relative_error(exact.y, reference);
    why = "; " + std::to_string(others) + " of " + std::to_string(tokens) +
          " tokens chose other experts, or weigh them otherwise, than in float32" +
          number(", with logits within", logits_error) + number("; float32 is within", exact_error) +
          number("; with them the error is", result.error);
    if (!(error <= m_run.bound && exact_error <= float32_bound && logits_error <= m_run.bound)) return false;
    result.error = error;
    return true;
  }

  /// What goes wrong with one block is that block's failure; the others are checked all the same.
  Result check(int layer) try {
    Block block = this->block(layer);
    Result result = describe(layer, block.description);
    std::string const name = "layer." + std::to_string(layer);
    auto const& input = activation(name + ".input");
    auto const& output = activation(name + ".output");
    result.tokens = block.tokens = input.shape.empty() ? 0 : input.shape[0];
    if (block.tokens == 0) throw UsageError(name + ".input has no tokens, expected at least one");
    io::expect_shape(input, {block.tokens, block.description.hidden});
    io::expect_shape(output, input.shape);
    block.inputs.x = io::read<float>(input);
    if (block.description.vocabulary > 0) block.inputs.token_ids = io::read<kokomo::offset_t>(activation("input_ids"));
    block.inputs.token_ids.resize(std::size_t(block.tokens), -1);

    auto const outcome = run_block(block, result);
    auto const reference = io::read<float>(output);
    result.error = relative_error(outcome.y, reference);
    if (!(result.error <= m_run.bound)) { // NaN does not pass
      std::string why;
      double const error = result.error;
      if (block.bfloat16 && explained_by_rounding(block, outcome, reference, result, why))
        result.note = why;
      else
        result.failure = number("error", error) + number(" is beyond the bound", m_run.bound) + why;
    }
    return result;
  } catch (std::exception const& error) {
    Result result = describe(layer, m_family.describe(m_config, layer));
    result.failure = error.what();
    return result;
  }

  template <class Content> void write(std::string const& path, Content const& content) {
    if (path.empty()) return;
    std::ofstream file(path, std::ios::binary);
    file << content() << std::flush;
    if (!file) throw UsageError("could not write " + path);
  }

  Options m_options;
  io::Checkpoint m_checkpoint;
  io::Config m_config = m_checkpoint.config();
  io::DequantizedTensors m_tensors{[this](std::string_view name) { return m_checkpoint.find(name); },
                                   io::quantization_of(m_config)};
  io::Family const& m_family = io::family(m_config);
  std::optional<io::SafetensorsFile> m_activations;
  std::vector<int> m_layers;
  Run m_run;
  std::vector<Result> m_results;
  Progress m_progress;
};

} // namespace

int main(int argc, char** argv) {
  try {
    Options const options = parse(argc, argv);
    if (options.help) return std::fputs(help_text, stdout), 0;
    Program program(options);
    Kokkos::ScopeGuard const kokkos(argc, argv);
    return program();
  } catch (std::exception const& error) {
    std::fprintf(stderr, "checkpoint_layer: %s\n", error.what());
    return 2;
  }
}
