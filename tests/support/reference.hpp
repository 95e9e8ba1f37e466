// SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
#ifndef KOKOMO_TESTS_SUPPORT_REFERENCE_HPP
#define KOKOMO_TESTS_SUPPORT_REFERENCE_HPP

#include <functional>
#include <limits>
#include <map>
#include <string>
#include <vector>

/// A mixture-of-experts layer as its formulas say it: loops over tokens and experts in double, one token and one expert
/// at a time, with nothing of the library. What the library computes is compared with this.
namespace kokomo::test::reference {

using Row = std::vector<double>;
using Rows = std::vector<Row>;

inline constexpr double infinity = std::numeric_limits<double>::infinity();

enum class Score { identity, softmax, sigmoid, sqrt_softplus };
enum class Selection { top_k, group_limited, table, given, sparse_mixer };
enum class Weight { score, selected_softmax, joint, constant, sparse_mixer };
enum class Divisor { one, sum, sum_plus_epsilon, sum_at_least_epsilon, p_norm };
enum class Order { position, token_priority, score };
enum class GateUp { concatenated, interleaved, separate };
enum class Share { none, ungated, sigmoid, joint };

struct Norm {
  bool used = false;
  double epsilon = 0, offset = 0, factor = 1; ///< gain is (offset + weight) * factor
};

/// One set of experts: down(activation(gate(x), up(x))).
struct FeedForward {
  int intermediate = 0;
  bool gated = true, bias = false;
  GateUp gate_up = GateUp::concatenated;
  bool up_in_out = false, down_in_out = false; ///< weights stored [in, out]
  std::function<double(double gate, double up)> activation;
};

/// One load balancing loss, or with `z` the z-loss.
struct Loss {
  bool z = false;
  double coefficient = 0;
  int top_k = 0;
  bool divide_by_k = false;
  int tokens_per_sequence = 0;
};

struct Settings {
  int hidden = 0, experts = 0; ///< experts with weights
  struct {
    Norm norm;
    double multiplier = 1, softcap = 0;
  } scorer;
  struct {
    Selection kind = Selection::top_k;
    int k = 0, groups = 1, allowed_groups = 1;
    bool by_logits = false, top2_sum = false, outside_is_zero = false;
    double epsilon = 0;
  } selector;
  struct {
    Weight kind = Weight::score;
    Score score = Score::softmax;
    Divisor divisor = Divisor::one;
    double epsilon = 0, p = 1, scale = 1;
    bool renormalize = false, on_input = false;
  } gate;
  struct {
    bool used = false;
    Order order = Order::position;
    double factor = 0, fraction = 0;
    int places = 0, minimum = 0, tokens_per_sequence = 0;
  } capacity;
  FeedForward routed, shared;
  Norm row_norm; ///< scales first, then normalises
  int identity = 0, zero = 0;
  Share share = Share::none;
  int shared_count = 0;
  struct {
    int latent = 0; ///< 0: the experts work on the layer's width
    Norm norm;
  } space;
  struct {
    double routed_scale = 1, scale = 1;
    Norm norm;
  } combine;
  std::vector<Loss> losses;

  int choosable() const { return experts + identity + zero; }
};

/// What a call works on. Parameters and state by the names of the library's for_each; an absent one is not used.
struct Inputs {
  std::map<std::string, Row> parameters;
  Rows x, router_input;                 ///< no router_input: x
  std::vector<int> mask;                ///< 0: not routed; empty: all are
  std::vector<std::vector<int>> choice; ///< for Selection::given and Selection::table, -1: none
  Rows factors;                         ///< of SparseMixer's weights in training; empty: one

  Row const& operator[](std::string const& name) const {
    static Row const none;
    auto const found = parameters.find(name);
    return found == parameters.end() ? none : found->second;
  }
  bool masked(std::size_t token) const { return !mask.empty() && mask[token] == 0; }
};

struct Result {
  Rows logits, weights;
  std::vector<std::vector<int>> choice; ///< [token][j] expert, or -1
  std::vector<std::vector<bool>> kept;  ///< [token][j] chosen and within capacity
  Rows shared_weights;                  ///< of the joint gate
  Rows y;
  double loss = 0;
  int dropped = 0, tokens_without_expert = 0;
};

double sigmoid(double z);
double dot(double const* a, Row const& b);
Row softmax(Row const& z);
Row scores(Row const& z, Score score);
/// x (mean(x^2) + epsilon)^(-1/2) gain
Row rms_norm(Row const& x, Norm const& norm, Row const& weight);
/// Indices of the k largest, largest first, of equals the smaller index.
std::vector<int> largest(Row const& values, int k);
/// SparseMixer's view of the logits when `removed` is gone: the softmax over the experts close to the best one.
Row sparse_mixer_softmax(Row const& z, int removed, double epsilon);

class Layer {
public:
  Layer(Settings const& settings, Inputs const& inputs) : s(settings), in(inputs) {}

  Result forward() const;

  /// The output of one expert, without any weight.
  Row expert(int e, Row const& x) const;

private:
  Row routed(Row const& z) const { return Row(z.begin(), z.begin() + s.choosable()); }

  Row logits(std::size_t t) const;
  std::vector<int> choose(std::size_t t, Row const& z) const;
  void drop(Result& r) const;
  void weigh(Result& r, std::size_t t) const;

  /// Element (n, k) of matrix `e` of [matrices, rows, columns], stored as such or with the last two exchanged.
  static double element(Row const& w, int e, int rows, int columns, bool exchanged, int n, int k);
  Row feed_forward(FeedForward const& f, std::string const& prefix, int e, Row const& x) const;

  /// W x, W [rows, x.size()]
  static Row product(Row const& w, Row const& x);
  Row compute(Result const& r, std::size_t t) const;

  /// E * mean over sequences of sum_e f_e P_e
  double balancing_loss(Result const& r, Loss const& loss) const;
  double z_loss(Result const& r) const;

  Settings const& s;
  Inputs const& in;
};

} // namespace kokomo::test::reference

#endif
