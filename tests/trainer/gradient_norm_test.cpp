#include "trainer/gradient_norm.h"

#include <ATen/ops/full.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/parallel.h"

namespace qlora::trainer {
namespace {

torch::Tensor parameter_with(torch::Tensor gradient) {
  torch::Tensor parameter = at::zeros(gradient.sizes());
  parameter.mutable_grad() = std::move(gradient);
  return parameter;
}

const torch::Tensor kLoss = at::full({}, 2.5f);

TEST(GradientNorm, IsOverAllParametersTogether) {
  const auto a = parameter_with(at::full({3}, 2.0f)), b = parameter_with(at::full({1}, 2.0f));
  const torch::Tensor untouched = at::zeros({5});
  const StepStats stats = clip_gradient_norm({a, untouched, b}, 0, kLoss, {.tokens = 7});
  EXPECT_EQ(stats.gradient_norm, 4.0);
  EXPECT_EQ(stats.loss, 2.5);
  EXPECT_EQ(stats.tokens, 7);
  EXPECT_EQ(a.grad()[0].item<float>(), 2.0f);  // measured only
}

TEST(GradientNorm, ClipsAsTorchDoes) {
  const auto a = parameter_with(at::full({4}, 3.0f));
  EXPECT_EQ(clip_gradient_norm({a}, 1.5, kLoss).gradient_norm, 6.0);
  EXPECT_FLOAT_EQ(a.grad()[0].item<float>(), 3.0f * static_cast<float>(1.5 / (6.0 + 1e-6)));
  const auto small = parameter_with(at::full({4}, 0.5f));
  clip_gradient_norm({small}, 1.5, kLoss);
  EXPECT_EQ(small.grad()[0].item<float>(), 0.5f);  // below the limit: untouched
}

TEST(GradientNorm, NotFiniteIsReportedAndNotSpread) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), std::numeric_limits<float>::quiet_NaN()}) {
    const auto a = parameter_with(at::full({4}, 1.0f)), b = parameter_with(at::full({2}, bad));
    const StepStats stats = clip_gradient_norm({a, b}, 1.0, kLoss);
    EXPECT_FALSE(std::isfinite(stats.gradient_norm));
    EXPECT_FALSE(stats.is_finite());
    EXPECT_EQ(a.grad()[0].item<float>(), 1.0f);
  }
}

TEST(GradientNorm, LargeGradientsDoNotOverflow) {
  const auto a = parameter_with(at::full({100}, 1e30f));
  EXPECT_NEAR(clip_gradient_norm({a}, 0, kLoss).gradient_norm, 1e31, 1e25);
}

TEST(GradientNorm, NoGradientIsNorm0) {
  EXPECT_EQ(clip_gradient_norm({at::zeros({5})}, 1.0, kLoss).gradient_norm, 0.0);
}

// The order is fixed, so that a resumed run at another thread count clips alike.
TEST(GradientNorm, DoesNotDependOnThreads) {
  std::vector<torch::Tensor> parameters;
  for (int i = 0; i < 40; ++i) parameters.push_back(parameter_with(at::randn({37 * i + 1})));
  set_thread_count(1);
  const double one = clip_gradient_norm(parameters, 0, kLoss).gradient_norm;
  set_thread_count(3);
  const double three = clip_gradient_norm(parameters, 0, kLoss).gradient_norm;
  set_thread_count(1);
  EXPECT_EQ(one, three);
}

TEST(GradientNorm, IsTheRootOfThePlainSum) {
  for (const int64_t count : {1, 7, 8, 9, 1000, 4095, 4097, 1100000}) {
    const torch::Tensor x = at::randn({count});
    const float* values = x.const_data_ptr<float>();
    double plain = 0;
    for (int64_t i = 0; i < count; ++i) plain += static_cast<double>(values[i]) * values[i];
    // Both are sums of `count` doubles: each addition errs by 2^-53 of the result at the most.
    EXPECT_NEAR(std::pow(clip_gradient_norm({parameter_with(x)}, 0, kLoss).gradient_norm, 2), plain,
                static_cast<double>(count) * std::ldexp(plain, -52));
  }
}

}  // namespace
}  // namespace qlora::trainer
