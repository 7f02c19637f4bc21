#include "lora/dropout.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <hwy/highway.h>
#include <hwy/targets.h>

#include <cmath>
#include <limits>

#include "core/parallel.h"
#include "core/rng.h"

namespace qlora::lora {
namespace {

constexpr DropoutKey kKey{.training = true, .seed = 42, .draw = 7};

/// The definition in lora/dropout_backend.h, element by element.
float expected(float x, double p, uint64_t stream, int64_t i) {
  const uint64_t mixed = stream ^ (kKey.draw * 0x9E3779B97F4A7C15ull);
  const auto block = philox4x32(static_cast<uint64_t>(i / 8), mixed, kKey.seed);
  const uint32_t word = block.word[(i / 2) % 4];
  const uint32_t draw = i % 2 == 0 ? word & 0xFFFF : word >> 16;
  return draw < static_cast<uint32_t>(std::lround(p * 65536)) ? 0.0f
                                                              : x * static_cast<float>(1 / (1 - p));
}

TEST(Dropout, EveryElementFollowsItsDefinitionOnEveryTargetAndThreadCount) {
  const torch::Tensor x = at::randn({37, 53});
  const int threads = thread_count();
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    for (const int count : {1, 2}) {
      set_thread_count(count);
      const torch::Tensor y = dropout(x, 0.3, kKey, 99);
      for (int64_t i = 0; i < x.numel(); ++i) {
        ASSERT_EQ(y.const_data_ptr<float>()[i], expected(x.const_data_ptr<float>()[i], 0.3, 99, i))
            << "element " << i << " on " << hwy::TargetName(target);
      }
    }
  }
  hwy::SetSupportedTargetsForTest(0);
  set_thread_count(threads);
}

TEST(Dropout, DropsTheShareItPromisesAndKeepsTheMean) {
  const int64_t n = 1 << 20;
  for (const double p : {0.05, 0.5, 0.9}) {
    const torch::Tensor y = dropout(at::ones({n}), p, kKey, 1);
    const double zeros = (y == 0).sum().item<double>();
    const double sigma = std::sqrt(static_cast<double>(n) * p * (1 - p));
    EXPECT_LT(std::abs(zeros - p * n), 5 * sigma + n / 65536.0) << p;
  }
}

TEST(Dropout, ModulesAndDrawsGetMasksOfTheirOwn) {
  const torch::Tensor x = at::ones({4096});
  const torch::Tensor a = dropout(x, 0.5, kKey, dropout_stream("model.layers.0.mlp.up_proj"));
  const torch::Tensor b = dropout(x, 0.5, kKey, dropout_stream("model.layers.1.mlp.up_proj"));
  const torch::Tensor c =
      dropout(x, 0.5, {true, 42, 8}, dropout_stream("model.layers.0.mlp.up_proj"));
  for (const auto& other : {b, c}) {
    const double equal = (a == other).sum().item<double>();
    EXPECT_NEAR(equal, 2048, 5 * 32);  // independent halves agree half of the time
  }
}

TEST(Dropout, HalfTypesRoundOnceAndADroppedInfinityIsZero) {
  for (const auto dtype : {torch::kBFloat16, torch::kFloat16}) {
    const torch::Tensor x = at::randn({999}).to(dtype);
    const torch::Tensor y = dropout(x, 0.25, kKey, 3);
    const torch::Tensor wide = dropout(x.to(torch::kFloat32), 0.25, kKey, 3).to(dtype);
    EXPECT_TRUE(y.equal(wide));
  }
  const torch::Tensor y =
      dropout(at::ones({1000}) * std::numeric_limits<float>::infinity(), 0.5, kKey, 3);
  EXPECT_FALSE(y.isnan().any().item<bool>());
}

}  // namespace
}  // namespace qlora::lora
