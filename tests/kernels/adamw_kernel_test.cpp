#include <algorithm>
#include <cmath>

#include "quant/blockwise8_math.h"
#include "tests/kernels/back_end.h"
#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"

namespace qlora::trainer {
namespace {

constexpr int kSteps = 3;

AdamwStep step_of(int t) {
  return adamw_step(1e-3, 0.9, 0.999, 1e-8, 0.1, t);
}

/// Gradients over many orders of magnitude, with zeros of both signs and a block of zeros.
std::vector<float> gradient_of(int64_t count, int t) {
  auto values = testing::normal_values(count, static_cast<uint32_t>(count * 10 + t), 1.0f);
  for (int64_t i = 0; i < count; ++i) values[i] *= std::pow(10.0f, -static_cast<float>(i % 23));
  for (int64_t i = 300; i < std::min<int64_t>(count, 700); ++i)
    values[i] = t % 2 == 0 ? -0.0f : 0.0f;
  return values;
}

struct State8 {
  std::vector<float> parameter;
  std::vector<uint8_t> mean_codes, square_codes;
  std::vector<float> mean_absmax, square_absmax;

  explicit State8(int64_t count)
      : parameter(testing::normal_values(count, 11, 1.0f)),
        mean_codes(count, 127),
        square_codes(count),
        mean_absmax((count + kAdamwBlock - 1) / kAdamwBlock),
        square_absmax(mean_absmax.size()) {}
};

/// One step from adamw_math.h and blockwise8_math.h alone.
void plain_step(State8& s, const std::vector<float>& gradient, const AdamwStep& step) {
  const auto& means = quant::signed_dynamic_table();
  const auto& squares = quant::unsigned_dynamic_table();
  const auto count = static_cast<int64_t>(s.parameter.size());
  for (int64_t begin = 0; begin < count; begin += kAdamwBlock) {
    const int64_t end = std::min(count, begin + kAdamwBlock), block = begin / kAdamwBlock;
    std::vector<float> mean, square;
    float most_mean = 0, most_square = 0;
    for (int64_t i = begin; i < end; ++i) {
      const float m = adamw_mean(
          quant::blockwise8_value(means, s.mean_codes[i], s.mean_absmax[block]), gradient[i], step);
      const float v =
          adamw_square(quant::blockwise8_value(squares, s.square_codes[i], s.square_absmax[block]),
                       gradient[i], step);
      s.parameter[i] = adamw_parameter(s.parameter[i], m, v, step);
      most_mean = std::max(most_mean, std::abs(m));
      most_square = std::max(most_square, v);
      mean.push_back(m);
      square.push_back(v);
    }
    for (int64_t i = begin; i < end; ++i) {
      s.mean_codes[i] = quant::blockwise8_code(
          means, mean[i - begin], quant::blockwise8_scale(most_mean), quant::SignRule::kKeep);
      s.square_codes[i] =
          quant::blockwise8_code(squares, square[i - begin], quant::blockwise8_scale(most_square),
                                 quant::SignRule::kNearest);
    }
    s.mean_absmax[block] = most_mean;
    s.square_absmax[block] = most_square;
  }
}

class AdamwKernel : public testing::KernelTest {};

TEST_P(AdamwKernel, EightBitStatesAreTheMath) {
  for (const int64_t count : {1, 256, 257, 4096 + 711}) {
    State8 want(count);
    auto parameter = array(want.parameter);
    auto mean_codes = array(want.mean_codes), square_codes = array(want.square_codes);
    auto mean_absmax = array(want.mean_absmax), square_absmax = array(want.square_absmax);
    for (int t = 1; t <= kSteps; ++t) {
      const auto gradient = gradient_of(count, t);
      auto device_gradient = array(gradient);
      const Adamw8Tensor tensor = {parameter.data(),
                                   device_gradient.data(),
                                   mean_codes.data(),
                                   square_codes.data(),
                                   mean_absmax.data(),
                                   square_absmax.data(),
                                   count};
      const Adamw8Args args = {.tensors = {&tensor, 1}, .step = step_of(t)};
      is_cuda() ? cuda::adamw8(args) : cpu::adamw8(args);
      plain_step(want, gradient, step_of(t));
      ASSERT_EQ(parameter.values(), want.parameter) << count << " elements, step " << t;
      ASSERT_EQ(mean_codes.values(), want.mean_codes) << count << " elements, step " << t;
      ASSERT_EQ(square_codes.values(), want.square_codes) << count << " elements, step " << t;
      ASSERT_EQ(mean_absmax.values(), want.mean_absmax) << count << " elements, step " << t;
      ASSERT_EQ(square_absmax.values(), want.square_absmax) << count << " elements, step " << t;
    }
  }
}

TEST_P(AdamwKernel, ThirtyTwoBitStatesAreTheMath) {
  for (const int64_t count : {1, 256, 1000}) {
    auto want = testing::normal_values(count, 11, 1.0f);
    std::vector<float> mean(count), square(count);
    auto parameter = array(want);
    auto device_mean = array(mean), device_square = array(square);
    for (int t = 1; t <= kSteps; ++t) {
      const auto gradient = gradient_of(count, t);
      auto device_gradient = array(gradient);
      const Adamw32Tensor tensor = {parameter.data(), device_gradient.data(), device_mean.data(),
                                    device_square.data(), count};
      const Adamw32Args args = {.tensors = {&tensor, 1}, .step = step_of(t)};
      is_cuda() ? cuda::adamw32(args) : cpu::adamw32(args);
      for (int64_t i = 0; i < count; ++i) {
        mean[i] = adamw_mean(mean[i], gradient[i], step_of(t));
        square[i] = adamw_square(square[i], gradient[i], step_of(t));
        want[i] = adamw_parameter(want[i], mean[i], square[i], step_of(t));
      }
      ASSERT_EQ(parameter.values(), want) << count << " elements, step " << t;
      ASSERT_EQ(device_mean.values(), mean) << count << " elements, step " << t;
      ASSERT_EQ(device_square.values(), square) << count << " elements, step " << t;
    }
  }
}

/// Empty tensors launch nothing; several of any size are what single ones give.
TEST_P(AdamwKernel, TensorsAreUpdatedOneByOne) {
  const std::vector<int64_t> counts = {300, 0, 1, 513};
  std::vector<State8> want;
  std::vector<std::unique_ptr<testing::DeviceArray<float>>> floats;
  std::vector<std::unique_ptr<testing::DeviceArray<uint8_t>>> bytes;
  const auto on_device = [&](const auto& values, auto& kept) {
    using T = typename std::decay_t<decltype(values)>::value_type;
    kept.push_back(std::make_unique<testing::DeviceArray<T>>(back_end(), values));
    return kept.back()->data();
  };
  std::vector<Adamw8Tensor> tensors;
  for (const int64_t count : counts) {
    State8 state(count);
    const auto gradient = gradient_of(count, 1);
    tensors.push_back({on_device(state.parameter, floats), on_device(gradient, floats),
                       on_device(state.mean_codes, bytes), on_device(state.square_codes, bytes),
                       on_device(state.mean_absmax, floats), on_device(state.square_absmax, floats),
                       count});
    plain_step(state, gradient, step_of(1));
    want.push_back(state);
  }
  const Adamw8Args args = {.tensors = tensors, .step = step_of(1)};
  is_cuda() ? cuda::adamw8(args) : cpu::adamw8(args);
  for (size_t i = 0; i < counts.size(); ++i) {
    EXPECT_EQ(floats[4 * i]->values(), want[i].parameter) << "tensor " << i;
    EXPECT_EQ(bytes[2 * i]->values(), want[i].mean_codes) << "tensor " << i;
  }
}

INSTANTIATE_TEST_SUITE_P(All, AdamwKernel, ::testing::ValuesIn(testing::f32_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::trainer
