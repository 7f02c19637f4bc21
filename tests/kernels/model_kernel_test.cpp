// The decoder's operations against the same in FP64. Bounds: docs/numerics.md, chapter model.
#include <algorithm>
#include <limits>

#include "model/cross_entropy_backend.h"
#include "model/rms_norm_backend.h"
#include "model/rope_backend.h"
#include "model/swiglu_backend.h"
#include "tests/kernels/back_end.h"
#include "tests/kernels/bounds.h"

namespace qlora::model {
namespace {

using testing::kF32Unit;
using testing::Numbers;
using testing::Placed;

class ModelKernel : public testing::KernelTest {
 protected:
  Numbers random(int64_t count, uint32_t seed, float sigma = 1) const {
    return {kind(), testing::normal_values(count, seed, sigma)};
  }
  Placed placed(Numbers numbers, int64_t offset = 0) const {
    return {GetParam(), std::move(numbers), offset};
  }
  Placed blank(int64_t count, int64_t offset = 0) const {
    return placed(Numbers(kind(), std::vector<float>(count, 77)), offset);
  }
  Placed floats(const std::vector<float>& values, int64_t offset = 0) const {
    return testing::placed_floats(GetParam(), values, offset);
  }
  testing::KernelCase row() const { return GetParam(); }
};

// A sum of C squares in any order, then a quotient, a root, two products: C + 8 roundings.
TEST_P(ModelKernel, RmsNormAndItsBackward) {
  for (const auto& [tokens, width, offset] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {3, 64, 0}, {1, 1028, 0}, {2, 2050, 0}, {5, 7, 1}, {1, 1, 0}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " x " << width);
    constexpr float kEpsilon = 1e-5f;
    const auto x = testing::normal_values(tokens * width, 1, 2),
               w = testing::normal_values(width, 2, 1);
    Numbers dy = random(tokens * width, 3);
    auto px = floats(x, offset), pw = floats(w, offset);
    Placed y = blank(tokens * width, offset), pdy = placed(dy, offset);
    auto rms = floats(std::vector<float>(tokens, -1));
    auto dx = floats(std::vector<float>(tokens * width, 77), offset);
    const RmsNormArgs args{px.floats(), pw.floats(), y.data(), rms.floats(),
                           tokens,      width,       kEpsilon, kind()};
    is_cuda() ? cuda::rms_norm(args) : cpu::rms_norm(args);
    const RmsNormBackwardArgs back{pdy.data(),  px.floats(), pw.floats(), rms.floats(),
                                   dx.floats(), tokens,      width,       kind()};
    is_cuda() ? cuda::rms_norm_backward(back) : cpu::rms_norm_backward(back);
    Numbers got_y = y.values(), got_rms = rms.values(), got_dx = dx.values();
    const double relative = testing::gamma(static_cast<double>(width) + 8);
    for (int64_t t = 0; t < tokens; ++t) {
      double squares = 0, dot = 0, magnitude = 0;
      for (int64_t c = 0; c < width; ++c) squares += std::pow(x[t * width + c], 2);
      const double r = 1 / std::sqrt(squares / static_cast<double>(width) + kEpsilon);
      EXPECT_NEAR(got_rms.get(t), r, relative * r);
      for (int64_t c = 0; c < width; ++c) {
        const double term = static_cast<double>(w[c]) * dy.get(t * width + c) * x[t * width + c];
        dot += term;
        magnitude += std::fabs(term);
      }
      for (int64_t c = 0; c < width; ++c) {
        const int64_t i = t * width + c;
        const double want = w[c] * (x[i] * r);
        ASSERT_TRUE(testing::within(got_y.get(i), want, relative * std::fabs(want), kind()));
        const double direct = r * w[c] * dy.get(i);
        const double mean = r * r * r / static_cast<double>(width);
        // The pull is a sum that errs by its terms, not by its value; r enters three times.
        const double error =
            relative * (std::fabs(direct) + 4 * std::fabs(x[i]) * mean * magnitude);
        ASSERT_TRUE(
            testing::within(got_dx.get(i), direct - x[i] * mean * dot, error, FloatKind::kF32));
      }
    }
  }
}

TEST_P(ModelKernel, RopeIsBitExact) {
  for (const auto& [tokens, heads, head_dim, rotary_dim, offset] :
       std::vector<std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t>>{{3, 2, 64, 64, 0},
                                                                            {40, 3, 128, 128, 0},
                                                                            {2, 1, 6, 6, 0},
                                                                            {1, 3, 10, 10, 1},
                                                                            {5, 3, 64, 48, 0},
                                                                            {2, 3, 14, 6, 1}}) {
    const int64_t count = tokens * heads * head_dim, half = rotary_dim / 2;
    Numbers x = random(count, 4), want = x;  // what does not turn is copied
    const auto cos = testing::normal_values(tokens * half, 5, 1);
    const auto sin = testing::normal_values(tokens * half, 6, 1);
    for (const float sign : {1.0f, -1.0f}) {
      for (int64_t i = 0; i < tokens * heads * half; ++i) {
        const int64_t head = i / half, c = i % half, at = head * head_dim + c;
        const float s = sin[head / heads * half + c] * sign, k = cos[head / heads * half + c];
        const float x1 = x.get(at), x2 = x.get(at + half);
        want.set(at, x1 * k - x2 * s);
        want.set(at + half, x2 * k + x1 * s);
      }
      Placed in = placed(x, offset), out = blank(count, offset);
      auto pcos = floats(cos, offset), psin = floats(sin, offset);
      RopeArgs args{in.data(), pcos.floats(), psin.floats(), out.data(), tokens,
                    heads,     head_dim,      rotary_dim,    sign,       kind()};
      is_cuda() ? cuda::rope(args) : cpu::rope(args);
      EXPECT_TRUE(testing::same_bits(out.values(), want)) << tokens << " x " << head_dim;
      args.y = in.data();  // y may be x
      is_cuda() ? cuda::rope(args) : cpu::rope(args);
      EXPECT_TRUE(testing::same_bits(in.values(), want)) << tokens << " x " << head_dim;
    }
  }
}

double sigmoid(double x) {
  return 1 / (1 + std::exp(-x));
}

/// The clamp at -87 stands for every smaller gate: what it leaves is below this.
constexpr double kClampRest = 2e-36;

TEST_P(ModelKernel, SwigluAndItsBackward) {
  for (const auto& [count, offset] :
       std::vector<std::tuple<int64_t, int64_t>>{{512, 0}, {5003, 0}, {77, 1}, {1, 0}}) {
    Numbers gate = random(count, 7, 3), up = random(count, 8), dy = random(count, 9);
    if (count > 20) {
      const float special[] = {0, -0.0f, 88, -86, -95, 300, -300, 1e-20f};
      for (int64_t i = 0; i < 8; ++i) gate.set(i + 3, special[i]);
    }
    Placed g = placed(gate, offset), u = placed(up, offset), v = placed(dy, offset);
    Placed y = blank(count, offset), dgate = blank(count, offset), dup = blank(count, offset);
    const auto silu = io::Activation::kSilu;
    const SwigluArgs args{g.data(), u.data(), y.data(), count, silu, kind()};
    is_cuda() ? cuda::swiglu(args) : cpu::swiglu(args);
    const SwigluBackwardArgs back{v.data(),   g.data(), u.data(), dgate.data(),
                                  dup.data(), count,    silu,     kind()};
    is_cuda() ? cuda::swiglu_backward(back) : cpu::swiglu_backward(back);
    Numbers got_y = y.values(), got_dgate = dgate.values(), got_dup = dup.values();
    for (int64_t i = 0; i < count; ++i) {
      const double x = gate.get(i), s = sigmoid(x), a = up.get(i), d = dy.get(i);
      // exp errs by 4 roundings, the sigmoid by 6, two products make 8.
      const double forward = 8 * kF32Unit * std::fabs(x * s * a) + kClampRest * std::fabs(x * a);
      EXPECT_TRUE(testing::within(got_y.get(i), x * s * a, forward, kind())) << x;
      const double up_error = 8 * kF32Unit * std::fabs(d * x * s) + kClampRest * std::fabs(d * x);
      EXPECT_TRUE(testing::within(got_dup.get(i), d * x * s, up_error, kind())) << x;
      // 1 + x(1 - s) may cancel: its terms count, not its value.
      const double slope = s * (1 + x * (1 - s)), terms = s * (1 + std::fabs(x));
      const double gate_error =
          (16 * kF32Unit * terms + kClampRest * (1 + x * x)) * std::fabs(d * a);
      EXPECT_TRUE(testing::within(got_dgate.get(i), d * a * slope, gate_error, kind())) << x;
    }
  }
}

TEST_P(ModelKernel, GatedGeluAndItsBackward) {
  for (const auto& [count, offset] :
       std::vector<std::tuple<int64_t, int64_t>>{{512, 0}, {5003, 0}, {77, 1}}) {
    Numbers gate = random(count, 7, 3), up = random(count, 8), dy = random(count, 9);
    const float special[] = {0, -0.0f, 9, -9, 40, -40, 1e-20f};
    for (int64_t i = 0; i < 7; ++i) gate.set(i + 3, special[i]);
    Placed g = placed(gate, offset), u = placed(up, offset), v = placed(dy, offset);
    Placed y = blank(count, offset), dgate = blank(count, offset), dup = blank(count, offset);
    const auto gelu = io::Activation::kGeluTanh;
    const SwigluArgs args{g.data(), u.data(), y.data(), count, gelu, kind()};
    is_cuda() ? cuda::swiglu(args) : cpu::swiglu(args);
    const SwigluBackwardArgs back{v.data(),   g.data(), u.data(), dgate.data(),
                                  dup.data(), count,    gelu,     kind()};
    is_cuda() ? cuda::swiglu_backward(back) : cpu::swiglu_backward(back);
    Numbers got_y = y.values(), got_dgate = dgate.values(), got_dup = dup.values();
    for (int64_t i = 0; i < count; ++i) {
      const double x = gate.get(i), a = up.get(i), d = dy.get(i);
      const double inner = std::sqrt(2 / std::acos(-1.0)) * (x + 0.044715 * x * x * x);
      const double t = std::tanh(inner), left = 0.5 * (1 + t);
      // tanh's argument comes from 6 roundings, tanh itself errs by up to 4 units.
      const double t_error =
          kF32Unit * (8 * (1 - t * t) * std::fabs(inner) + 8 * std::fabs(t) + 1e-30);
      const double left_error = 0.5 * t_error + kF32Unit;
      const double forward = std::fabs(x) * (left_error + 4 * kF32Unit * left);
      EXPECT_TRUE(testing::within(got_y.get(i), x * left * a, forward * std::fabs(a), kind())) << x;
      EXPECT_TRUE(testing::within(got_dup.get(i), d * x * left, forward * std::fabs(d), kind()))
          << x;
      const double steep = std::sqrt(2 / std::acos(-1.0)) * (1 + 3 * 0.044715 * x * x);
      const double bell = 0.5 * x * (1 - t * t), slope = left + bell * steep;
      const double bell_error = 0.5 * std::fabs(x) * (2 * std::fabs(t) * t_error + 2 * kF32Unit);
      const double error = left_error + bell_error * steep +
                           kF32Unit * (10 * std::fabs(bell) * steep + 4 * std::fabs(slope));
      EXPECT_TRUE(
          testing::within(got_dgate.get(i), d * a * slope, error * std::fabs(d * a), kind()))
          << x;
    }
  }
}

/// Roundings on the way of a term of the sum of exponentials: a chain of V / 4 additions on the
/// plainest target, and what stands beside them.
double sum_roundings(int64_t vocabulary) {
  return static_cast<double>(vocabulary) / 4 + 40;
}

TEST_P(ModelKernel, CrossEntropyAndItsGradient) {
  for (const auto& [tokens, vocabulary, offset, sigma, softcap] :
       std::vector<std::tuple<int64_t, int64_t, int64_t, float, float>>{{3, 512, 0, 2, 0},
                                                                        {2, 9001, 0, 4, 0},
                                                                        {1, 4096, 0, 30, 0},
                                                                        {4, 33, 1, 1, 0},
                                                                        {2, 1, 0, 1, 0},
                                                                        {3, 600, 0, 20, 30},
                                                                        {2, 33, 1, 4, 5}}) {
    SCOPED_TRACE(::testing::Message() << tokens << " x " << vocabulary << ", cap " << softcap);
    constexpr float kScale = 0.25f;
    Numbers logits = random(tokens * vocabulary, 10, sigma);
    std::vector<int64_t> targets;
    for (int64_t t = 0; t < tokens; ++t) targets.push_back((t * 7919 + 5) % vocabulary);
    if (vocabulary > 500) logits.set(9, -std::numeric_limits<float>::infinity());
    for (const bool want_gradient : {false, true}) {
      Placed x = placed(logits, offset);
      auto device_targets = array(targets);
      auto nll = floats(std::vector<float>(tokens, -1));
      const CrossEntropyArgs args{
          x.data(), device_targets.data(), nll.floats(), tokens, vocabulary, kScale,
          softcap,  want_gradient,         kind()};
      is_cuda() ? cuda::cross_entropy(args) : cpu::cross_entropy(args);
      Numbers got = x.values(), got_nll = nll.values();
      for (int64_t t = 0; t < tokens; ++t) {
        double most = -INFINITY, sum = 0;
        const double cap = softcap;
        const auto at = [&](int64_t i) -> double {
          const double x = logits.get(t * vocabulary + i);
          return cap > 0 ? cap * std::tanh(x / cap) : x;
        };
        // A capped logit errs by tanh's 4 units and by its argument's rounding, which counts less
        // the flatter tanh is: at most as the logit itself would.
        const double cap_error = cap > 0 ? 8 * kF32Unit * cap : 0;
        for (int64_t i = 0; i < vocabulary; ++i) most = std::max(most, at(i));
        for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(at(i) - most);
        const double log_sum = std::log(sum), want = log_sum + (most - at(targets[t]));
        const double sum_error = testing::gamma(sum_roundings(vocabulary));
        const double error = sum_error + 4 * kF32Unit * (log_sum + want + 1) + 2 * cap_error;
        EXPECT_NEAR(got_nll.get(t), want, error);
        if (!want_gradient) continue;
        const double shift = most + log_sum;
        for (int64_t i = 0; i < vocabulary; ++i) {
          const double p = std::exp(at(i) - shift), hit = i == targets[t] ? 1 : 0;
          // exp of a difference errs by the difference's roundings, those of the shift included.
          const double distance = std::isinf(at(i)) ? 0 : std::fabs(at(i) - shift);
          const double exponent = sum_error +
                                  kF32Unit * (distance + std::fabs(shift) + 4 * (log_sum + 1) + 8) +
                                  2 * cap_error;
          const double through = cap > 0 ? 1 - std::pow(at(i) / cap, 2) : 1;
          const double slope_error = cap > 0 ? 24 * kF32Unit : 0;  // 2 (z / cap) times z / cap's
          const double bound = kScale * ((2 * p * exponent + 2 * kF32Unit * hit) * through +
                                         slope_error * std::fabs(p - hit)) +
                               1e-38;
          ASSERT_TRUE(testing::within(got.get(t * vocabulary + i), kScale * (p - hit) * through,
                                      bound, kind()))
              << i;
        }
      }
      if (!want_gradient) {
        EXPECT_TRUE(testing::same_bits(got, logits));
      }
    }
  }
}

TEST_P(ModelKernel, ALogitThatIsNoNumberShowsInTheLoss) {
  Numbers logits = random(2 * 600, 10);
  logits.set(1, std::numeric_limits<float>::quiet_NaN());
  Placed x = placed(logits);
  auto targets = array(std::vector<int64_t>{3, 4});
  auto nll = floats({-1, -1});
  const CrossEntropyArgs args{x.data(), targets.data(), nll.floats(), 2, 600, 1, 0, true, kind()};
  is_cuda() ? cuda::cross_entropy(args) : cpu::cross_entropy(args);
  EXPECT_TRUE(std::isnan(nll.values().get(0)));
  EXPECT_FALSE(std::isnan(nll.values().get(1)));
}

INSTANTIATE_TEST_SUITE_P(, ModelKernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::model
