// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
//
// balancer_race [--steps N] [--seed N] [--only NAME] [--plot FILE.svg] [--json FILE.json] [TEXT.. | FOLDER..]
//
// Trains one small language model over bytes under different ways to balance its experts, and compares them. Without a
// text it reads the Markdown files of docs/ below the current folder.
#include "race.hpp"

#include <Kokkos_Core.hpp>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>

#include <unistd.h>

namespace {

namespace fs = std::filesystem;

void append(std::vector<unsigned char>& bytes, fs::path const& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::runtime_error("cannot read " + path.string());
  bytes.insert(bytes.end(), std::istreambuf_iterator<char>(file), {});
}

Text read(std::vector<std::string> const& paths, Options const& options) {
  std::vector<unsigned char> bytes;
  Text text;
  for (auto const& path : paths) {
    std::vector<fs::path> files;
    if (fs::is_directory(path)) {
      for (auto const& entry : fs::recursive_directory_iterator(path))
        if (entry.path().extension() == ".md") files.push_back(entry.path());
      std::sort(files.begin(), files.end());
    } else {
      files.emplace_back(path);
    }
    for (auto const& file : files) append(bytes, file);
    text.name += (text.name.empty() ? "" : ", ") + path;
  }
  auto const held_out = bytes.size() / 10;
  if (held_out < std::size_t(2 * options.length))
    throw std::runtime_error("the text has " + std::to_string(bytes.size()) + " bytes, expected some thousand");
  text.train.assign(bytes.begin(), bytes.end() - long(held_out));
  text.held_out.assign(bytes.end() - long(held_out), bytes.end());
  return text;
}

struct Contestant {
  char const* name;
  Race* race;
};
constexpr Contestant contestants[] = {
    {"none", no_balancing},
    {"Switch loss", switch_loss},
    {"z-loss", z_loss},
    {"loss-free bias", loss_free_bias},
    {"BIP", bip},
    {"Sinkhorn", sinkhorn},
    {"expert choice", expert_choice},
    {"ReMoE", remoe},
    {"top-p", top_p},
};

struct Arguments {
  Options options;
  std::string only, plot, json;
  std::vector<std::string> texts;
};

Arguments parse(int argc, char** argv) {
  Arguments a;
  for (int i = 1; i < argc; ++i) {
    std::string const option = argv[i];
    auto const value = [&]() -> std::string {
      if (++i >= argc) throw std::runtime_error(option + " needs a value");
      return argv[i];
    };
    auto const number = [&] {
      auto const text = value();
      char* end = nullptr;
      long const parsed = std::strtol(text.c_str(), &end, 10);
      if (*end != 0 || parsed < 1 || parsed > 1000000)
        throw std::runtime_error(option + " " + text + ": expected a number from 1 to 1000000");
      return int(parsed);
    };
    if (option == "--steps")
      a.options.steps = number();
    else if (option == "--seed")
      a.options.seed = std::uint64_t(number());
    else if (option == "--only")
      a.only = value();
    else if (option == "--plot")
      a.plot = value();
    else if (option == "--json")
      a.json = value();
    else if (option.starts_with("--"))
      throw std::runtime_error("unknown option " + option +
                               ", expected [--steps N] [--seed N] [--only NAME] [--plot FILE.svg] [--json FILE.json] "
                               "[TEXT.. | FOLDER..]");
    else
      a.texts.push_back(option);
  }
  if (a.texts.empty()) a.texts.push_back("docs");
  return a;
}

void write(std::string const& path, std::string const& content) {
  std::ofstream file(path, std::ios::binary);
  if (!(file << content).flush()) throw std::runtime_error("cannot write " + path);
}

int run(Arguments const& a) {
  auto const& options = a.options;
  Text const text = read(a.texts, options);
  std::printf("%zu bytes of %s, %d steps of %d tokens; two layers of %d experts, about %d a token; seed %llu; %s, %d "
              "threads\n\n",
              text.train.size() + text.held_out.size(), text.name.c_str(), options.steps, options.tokens(),
              options.experts, options.active, static_cast<unsigned long long>(options.seed),
              Kokkos::DefaultExecutionSpace::name(), Kokkos::DefaultExecutionSpace().concurrency());
  std::printf("%-15s %7s %9s %7s %6s %8s %8s\n", "balancing", "loss", "held out", "MaxVio", "dead", "experts",
              "ms/step");
  bool const terminal = ::isatty(STDERR_FILENO) == 1;
  std::vector<Result> results;
  std::string notes;
  for (auto const& [name, race] : contestants) {
    if (!a.only.empty() && a.only != name) continue;
    auto next = std::chrono::steady_clock::now();
    Result result = race(text, options, [&, name = name](int step, double loss) {
      auto const now = std::chrono::steady_clock::now();
      if (!terminal || now < next) return;
      next = now + std::chrono::milliseconds(100);
      std::fprintf(stderr, "\r\033[K%-15s step %d of %d, loss %.3f", name, step + 1, options.steps, loss);
    });
    if (terminal) std::fputs("\r\033[K", stderr);
    std::printf("%-15s %7.3f %9.3f %7.2f %6d %8.2f %8.1f\n", name, result.recent_loss(), result.held_out,
                result.max_violation(), result.dead(), result.experts_per_token(), 1e3 * result.seconds);
    std::fflush(stdout);
    if (!result.note.empty()) notes += std::string(name) + ": " + result.note + "\n";
    results.push_back(std::move(result));
  }
  if (results.empty()) throw std::runtime_error("no contestant is called " + a.only);
  std::printf("\nloss: nats a byte, mean of the last %zu steps before each is learned from, as are MaxVio, experts (a "
              "token)\nand dead (experts of both layers without a single token). held out: a part of the text that is "
              "not learned from.\n%s",
              Result::window, notes.c_str());
  if (!a.plot.empty()) write(a.plot, picture(text, options, results));
  if (!a.json.empty()) write(a.json, to_json(text, options, results));
  return 0;
}

} // namespace

int main(int argc, char** argv) {
  try {
    Arguments const arguments = parse(argc, argv);
    Kokkos::ScopeGuard const kokkos;
    return run(arguments);
  } catch (std::exception const& error) {
    std::fprintf(stderr, "balancer_race: %s\n", error.what());
    return 1;
  }
}
