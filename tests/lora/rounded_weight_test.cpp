// A linear that holds what it was trained to round to computes what it computed while it rounded.
#include "lora/rounded_weight.h"

#include <ATen/ops/equal.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "lora/fit_grid.h"
#include "lora/lora_linear.h"
#include "quant/nf4.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 40, kCols = 192, kGroup = 64, kRank = 4;

struct GridCase {
  std::string name;
  WeightGrid weight;
  std::optional<quant::InputRounding> inputs;
  bool is_held = false;
};

quant::AffineOptions affine(int64_t bits, int64_t group_size, quant::GridRule rule) {
  return {.bits = bits, .group_size = group_size, .rule = rule};
}

const std::vector<GridCase> kCases = {
    {"asymmetric4", affine(4, kGroup, quant::GridRule::kAsymmetric), {}},
    {"learned4", affine(4, kGroup, quant::GridRule::kAsymmetric), {}, true},
    {"learned3", affine(3, kGroup, quant::GridRule::kSymmetricFull), {}, true},
    {"int8", affine(8, -1, quant::GridRule::kSymmetric), quant::InputRounding::kInt8PerToken},
    {"int8_static", affine(8, -1, quant::GridRule::kSymmetric), quant::InputRounding::kInt8Static},
    {"fp8", Fp8Grid{}, quant::InputRounding::kFp8PerToken},
    {"fp8_static", Fp8Grid{.whole_matrix = true}, quant::InputRounding::kFp8Static}};

class RoundedWeight : public ::testing::TestWithParam<GridCase> {
 protected:
  void SetUp() override {
    at::manual_seed(21);
    linear_ = make_linear();
    linear_.set_grid(make_grid());
  }

  static LoraLinear make_linear() {
    LoraLinear linear("layer", FrozenWeight(quant::quantize_nf4(at::randn({kRows, kCols}))),
                      at::randn({kRows}));
    linear.set_adapter({.a = at::randn({kRank, kCols}) * 0.2,
                        .b = at::randn({kRows, kRank}) * 0.2,
                        .alpha = 8,
                        .scale = 2,
                        .dtype = torch::kFloat16});
    return linear;
  }

  LinearGrid make_grid() const {
    LinearGrid grid{.weight = GetParam().weight};
    if (GetParam().inputs) grid.inputs = quant::InputQuantizer{.rounding = *GetParam().inputs};
    const bool is_static = GetParam().inputs == quant::InputRounding::kInt8Static ||
                           GetParam().inputs == quant::InputRounding::kFp8Static;
    if (is_static) {
      grid.observer = std::make_shared<quant::InputObserver>(
          quant::ObserverOptions{}, *GetParam().inputs, quant::ScaleType::kBF16);
      grid.observer->observe(at::randn({64, kCols}));
      grid.observer->commit();
    }
    if (GetParam().is_held) {
      const std::vector<int64_t> sizes = {kRows, kCols / kGroup};
      grid.held = std::make_shared<HeldGrid>();
      grid.held->fit = GridFit::kClip;
      grid.held->scales = at::zeros(sizes);
      grid.held->zeros = at::zeros(sizes, torch::kUInt8);
      grid.held->factor = at::ones(sizes);
      fit_held_grid("layer", linear_.weight(), &*linear_.adapter(), grid);
      grid.held->factor.copy_(0.8 + 0.3 * at::rand(sizes));
    }
    return grid;
  }

  LoraLinear linear_;
};

TEST_P(RoundedWeight, ComputesTheSameBits) {
  const at::NoGradGuard no_graph;
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
    const Tensor x = at::randn({9, kCols}).to(dtype);
    LoraLinear held = linear_;
    held.hold_rounded_weight();
    EXPECT_FALSE(held.adapter() || held.grid());
    EXPECT_LT(held.weight().bytes(), kRows * kCols * 2);
    EXPECT_TRUE(
        at::equal(held.forward(x, torch::kFloat32, {}), linear_.forward(x, torch::kFloat32, {})))
        << dtype;
  }
}

TEST_P(RoundedWeight, LeavesALinearWithoutAGridAlone) {
  LoraLinear linear = make_linear();
  linear.hold_rounded_weight();
  EXPECT_TRUE(linear.adapter().has_value());
  EXPECT_TRUE(linear.weight().holds<quant::Nf4Tensor>());
}

INSTANTIATE_TEST_SUITE_P(Grids, RoundedWeight, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace qlora::lora
