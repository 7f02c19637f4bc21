#include <fmt/format.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "core/parallel.h"
#include "io/safetensors.h"
#include "quant/blockwise8_math.h"
#include "tests/support/bnb_lookup8.h"
#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"

namespace qlora::trainer {
namespace {

constexpr double kRate = 2e-4, kBeta1 = 0.9, kBeta2 = 0.999, kEpsilon = 1e-8;
constexpr int kSteps = 6;

/// tests/fixtures/bnb/adamw8: six steps of bitsandbytes' and torch's AdamW.
class Reference {
 public:
  Reference()
      : reader_(std::string(QLORA_SOURCE_DIR) +
                "/tests/fixtures/bnb/adamw8/reference.safetensors") {}

  bool has(const std::string& name) const { return reader_.find(name) != nullptr; }
  std::vector<float> floats(const std::string& name) const {
    const io::TensorView& tensor = reader_.at(name);
    std::vector<float> values(tensor.element_count());
    io::read_f32(tensor, 0, tensor.element_count(), values.data());
    return values;
  }
  std::vector<uint8_t> bytes(const std::string& name) const {
    const io::TensorView& tensor = reader_.at(name);
    const auto* first = reinterpret_cast<const uint8_t*>(tensor.bytes.data());
    return {first, first + tensor.bytes.size()};
  }

 private:
  io::SafetensorsReader reader_;
};

/// A tensor with 8-bit states.
struct State8 {
  explicit State8(std::vector<float> start)
      : parameter(std::move(start)),
        mean_codes(parameter.size()),
        square_codes(parameter.size()),
        mean_absmax((parameter.size() + 255) / 256),
        square_absmax(mean_absmax.size()) {}

  Adamw8Tensor with(const std::vector<float>& gradient) {
    return {.parameter = parameter.data(),
            .gradient = gradient.data(),
            .mean_codes = mean_codes.data(),
            .square_codes = square_codes.data(),
            .mean_absmax = mean_absmax.data(),
            .square_absmax = square_absmax.data(),
            .count = static_cast<int64_t>(parameter.size())};
  }
  /// What differs between two states, byte for byte; empty if nothing does.
  std::string difference(const State8& o) const {
    std::string names;
    if (!parameter.empty() &&
        std::memcmp(parameter.data(), o.parameter.data(), parameter.size() * 4) != 0) {
      names += " parameter";
    }
    if (mean_codes != o.mean_codes) names += " mean_codes";
    if (square_codes != o.square_codes) names += " square_codes";
    if (mean_absmax != o.mean_absmax) names += " mean_absmax";
    if (square_absmax != o.square_absmax) names += " square_absmax";
    return names;
  }

  std::vector<float> parameter;
  std::vector<uint8_t> mean_codes, square_codes;
  std::vector<float> mean_absmax, square_absmax;
};

/// One step composed of adamw_math.h and a quantizer for (values of a block, is_mean, codes).
template <class Quantize>
void plain_step(State8& s, const std::vector<float>& gradient, const AdamwStep& step,
                const Quantize& quantize) {
  const auto& mean_table = quant::signed_dynamic_table();
  const auto& square_table = quant::unsigned_dynamic_table();
  for (size_t first = 0; first < s.parameter.size(); first += 256) {
    const size_t count = std::min<size_t>(256, s.parameter.size() - first), block = first / 256;
    std::vector<float> mean(count), square(count);
    for (size_t i = 0; i < count; ++i) {
      const size_t e = first + i;
      mean[i] = quant::blockwise8_value(mean_table, s.mean_codes[e], s.mean_absmax[block]);
      square[i] = quant::blockwise8_value(square_table, s.square_codes[e], s.square_absmax[block]);
      mean[i] = adamw_mean(mean[i], gradient[e], step);
      square[i] = adamw_square(square[i], gradient[e], step);
      s.parameter[e] = adamw_parameter(s.parameter[e], mean[i], square[i], step);
    }
    s.mean_absmax[block] = quantize(mean, true, &s.mean_codes[first]);
    s.square_absmax[block] = quantize(square, false, &s.square_codes[first]);
  }
}

/// Nearest level by trying all 256; a negative mean never becomes 0.
float brute_force(const std::vector<float>& block, bool is_mean, uint8_t* codes) {
  const quant::DynamicTable& table =
      is_mean ? quant::signed_dynamic_table() : quant::unsigned_dynamic_table();
  float absmax = 0;
  for (const float x : block) absmax = std::max(absmax, std::fabs(x));
  if (absmax == 0) {  // every code stands for 0 then
    std::memset(codes, 0, block.size());
    return 0;
  }
  const float inverse = 1.0f / absmax;
  for (size_t i = 0; i < block.size(); ++i) {
    const float x = std::isfinite(inverse) ? block[i] * inverse : block[i] / absmax;
    int best = 0;
    for (int code = 1; code < 256; ++code) {
      const double now = std::fabs(static_cast<double>(x) - table.levels[code]);
      if (now < std::fabs(static_cast<double>(x) - table.levels[best])) best = code;
    }
    if (is_mean && block[i] < 0 && table.levels[best] == 0) --best;
    codes[i] = static_cast<uint8_t>(best);
  }
  return absmax;
}

AdamwStep step_of(int t, double decay, double rate = kRate) {
  return adamw_step(rate, kBeta1, kBeta2, kEpsilon, decay, t);
}

double greatest_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - b[i]));
  }
  return most;
}

double relative_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double most = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    most = std::max(most, std::fabs(static_cast<double>(a[i]) - b[i]) / std::fabs(b[i]));
  }
  return most;
}

// The arithmetic: with bitsandbytes' own quantizer in place of ours, its states come out byte for
// byte for six steps.
TEST(Adamw8, ReplaysBitsandbytes) {
  const Reference reference;
  const testing::BnbLookup8 signed_lookup(quant::signed_dynamic_table().levels);
  const testing::BnbLookup8 unsigned_lookup(quant::unsigned_dynamic_table().levels);
  const auto lookup = [&](const std::vector<float>& block, bool is_mean, uint8_t* codes) {
    return (is_mean ? signed_lookup : unsigned_lookup).quantize(block, {codes, block.size()});
  };
  int states_compared = 0, parameters_compared = 0;
  for (const auto& [name, decay] : {std::pair{"adamw8_wd0", 0.0}, std::pair{"adamw8_wd01", 0.1}}) {
    for (const std::string tensor : {"odd_41x101", "big_8x600"}) {
      State8 state(reference.floats("param0." + tensor));
      for (int t = 1; t <= kSteps; ++t) {
        const auto gradient = reference.floats(fmt::format("grad.{}.{}", tensor, t));
        plain_step(state, gradient, step_of(t, decay), lookup);
        const std::string key = fmt::format("{}.{}.step{}", name, tensor, t);
        if (reference.has(key + ".state1")) {
          EXPECT_EQ(state.mean_codes, reference.bytes(key + ".state1")) << key;
          EXPECT_EQ(state.square_codes, reference.bytes(key + ".state2")) << key;
          // Its compiler fuses some products with their sum: at most 3 half ulps a step.
          EXPECT_LE(relative_difference(state.mean_absmax, reference.floats(key + ".absmax1")),
                    kSteps * 3 * 0x1p-24)
              << key;
          EXPECT_LE(relative_difference(state.square_absmax, reference.floats(key + ".absmax2")),
                    kSteps * 3 * 0x1p-24)
              << key;
          ++states_compared;
        }
        if (reference.has(key + ".param")) {
          EXPECT_LE(greatest_difference(state.parameter, reference.floats(key + ".param")), 3e-8)
              << key;
          ++parameters_compared;
        }
      }
    }
  }
  EXPECT_EQ(states_compared, 16);
  EXPECT_EQ(parameters_compared, 14);
}

// A step of AdamW moves p by about the rate; its float rounding is half an ulp of the result, and
// the update itself has four roundings of 2^-24 each: far below the ulp of p.
TEST(Adamw32, IsTorchAndBitsandbytes) {
  const Reference reference;
  for (const std::string name : {"torch_wd01", "adamw32_wd01"}) {
    for (const std::string tensor : {"small_16x16", "odd_41x101", "big_8x600"}) {
      std::vector<float> p = reference.floats("param0." + tensor), m(p.size()), v(p.size());
      for (int t = 1; t <= kSteps; ++t) {
        const auto gradient = reference.floats(fmt::format("grad.{}.{}", tensor, t));
        const Adamw32Tensor row{p.data(), gradient.data(), m.data(), v.data(),
                                static_cast<int64_t>(p.size())};
        cpu::adamw32({.tensors = {&row, 1}, .step = step_of(t, 0.1)});
      }
      const std::string key = fmt::format("{}.{}.step{}", name, tensor, kSteps);
      const auto want = reference.floats(key + ".param");
      for (size_t i = 0; i < p.size(); ++i) {
        // Decay and addition round once each in both: at most kSteps * 2 half ulps apart.
        const double bound = kSteps * 2 * std::ldexp(std::fabs(want[i]) + 1e-3, -24);
        ASSERT_NEAR(p[i], want[i], bound) << key << " element " << i;
      }
      if (!reference.has(key + ".state1")) continue;
      EXPECT_LE(greatest_difference(m, reference.floats(key + ".state1")), 1e-8) << key;
      EXPECT_LE(greatest_difference(v, reference.floats(key + ".state2")), 1e-10) << key;
    }
  }
}

struct Case {
  int64_t count;
  double spread;  // gradients are normal times 10^-uniform(0, spread)
};

class Adamw8Shipped : public ::testing::TestWithParam<Case> {};

// The shipped update against adamw_math.h and the nearest level found by trying all, to the bit:
// tail blocks, zero blocks, huge and tiny gradients, one and two threads.
TEST_P(Adamw8Shipped, IsTheDefinition) {
  const auto [count, spread] = GetParam();
  std::mt19937 random(static_cast<unsigned>(count) * 7 + static_cast<unsigned>(spread));
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> uniform(0, 1);
  std::vector<float> start(count);
  for (float& p : start) p = normal(random);
  State8 want(start), one(start), two(start);
  for (int t = 1; t <= 5; ++t) {
    std::vector<float> gradient(count);
    for (float& g : gradient) {
      g = normal(random) * std::pow(10.0f, -static_cast<float>(spread) * uniform(random));
    }
    for (int64_t i = 0; i < std::min<int64_t>(count, 300); ++i) gradient[i] = 0;  // a zero block
    for (int64_t i = 600; i < count; i += 97) gradient[i] = t % 2 ? -0.0f : -1e-30f;
    plain_step(want, gradient, step_of(t, 0.1), brute_force);
    for (const int threads : {1, 2}) {
      set_thread_count(threads);
      const Adamw8Tensor row = (threads == 1 ? one : two).with(gradient);
      cpu::adamw8({.tensors = {&row, 1}, .step = step_of(t, 0.1)});
    }
    ASSERT_EQ(one.difference(want), "") << "step " << t;
    ASSERT_EQ(two.difference(want), "") << "step " << t << ", two threads";
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, Adamw8Shipped,
                         ::testing::Values(Case{1, 0}, Case{15, 3}, Case{255, 1}, Case{256, 6},
                                           Case{257, 6}, Case{4096, 4}, Case{4807, 8},
                                           Case{40001, 3}, Case{513, 30}));

// What a biased quantizer would do over time: the mean of a parameter's tiny negative gradient
// must not vanish.
TEST(Adamw8, NegativeMeanNeverBecomesZero) {
  std::vector<float> gradient(512, -1e-6f);
  gradient[0] = 10.0f;  // makes absmax large against all others
  State8 state(std::vector<float>(512, 0.0f));
  for (int t = 1; t <= 3; ++t) {
    const Adamw8Tensor row = state.with(gradient);
    cpu::adamw8({.tensors = {&row, 1}, .step = step_of(t, 0)});
  }
  for (int i = 1; i < 256; ++i) EXPECT_EQ(state.mean_codes[i], 126) << i;
}

// Many small tensors at once are what single calls give, whatever the threads.
TEST(Adamw, TensorsOfAnySizeShareThreads) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const std::vector<int64_t> counts = {1, 256, 4097, 0, 70001, 255, 30000, 3};
  std::vector<State8> alone, together;
  std::vector<std::vector<float>> gradients;
  for (const int64_t count : counts) {
    std::vector<float> start(count), gradient(count);
    for (float& p : start) p = normal(random);
    for (float& g : gradient) g = normal(random);
    alone.emplace_back(start);
    together.emplace_back(start);
    gradients.push_back(gradient);
  }
  std::vector<Adamw8Tensor> rows;
  for (size_t i = 0; i < counts.size(); ++i) {
    const Adamw8Tensor row = alone[i].with(gradients[i]);
    set_thread_count(1);
    cpu::adamw8({.tensors = {&row, 1}, .step = step_of(1, 0.01)});
    rows.push_back(together[i].with(gradients[i]));
  }
  set_thread_count(3);
  cpu::adamw8({.tensors = rows, .step = step_of(1, 0.01)});
  set_thread_count(1);
  for (size_t i = 0; i < counts.size(); ++i) EXPECT_EQ(alone[i].difference(together[i]), "") << i;
}

TEST(Adamw32, VectorsAndElementsAgreeToTheBit) {
  std::mt19937 random(9);
  std::normal_distribution<float> normal;
  std::vector<float> p(1003), g(1003), m(1003), v(1003);
  for (size_t i = 0; i < p.size(); ++i) {
    p[i] = normal(random), g[i] = normal(random), m[i] = normal(random);
    v[i] = std::fabs(normal(random));
  }
  auto p1 = p, m1 = m, v1 = v;
  const AdamwStep step = step_of(3, 0.1);
  const Adamw32Tensor row{p.data(), g.data(), m.data(), v.data(), 1003};
  cpu::adamw32({.tensors = {&row, 1}, .step = step});
  for (size_t i = 0; i < p.size(); ++i) {
    m1[i] = adamw_mean(m1[i], g[i], step);
    v1[i] = adamw_square(v1[i], g[i], step);
    p1[i] = adamw_parameter(p1[i], m1[i], v1[i], step);
  }
  EXPECT_EQ(std::memcmp(p.data(), p1.data(), p.size() * 4), 0);
  EXPECT_EQ(m, m1);
  EXPECT_EQ(v, v1);
}

}  // namespace
}  // namespace qlora::trainer
