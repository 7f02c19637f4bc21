// Grids that stay while the weight moves: what is cut off, what learned scales get, what files
// keep.
#include <ATen/ops/equal.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <limits>

#include "core/error.h"
#include "core/parallel.h"
#include "lora/fit_grid.h"
#include "lora/grid_files.h"
#include "lora/lora_linear.h"
#include "lora/merge.h"
#include "lora/rounded_weight.h"
#include "quant/affine_gradient_math.h"
#include "quant/affine_math.h"
#include "quant/nf4.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

constexpr int64_t kRows = 120, kCols = 192, kGroup = 64, kRank = 4;

Adapter make_adapter() {
  return {.a = (at::randn({kRank, kCols}) * 0.1).requires_grad_(true),
          .b = (at::randn({kRows, kRank}) * 0.1).requires_grad_(true),
          .alpha = 8,
          .scale = 2,
          .dtype = torch::kFloat32};
}

LinearGrid held_grid(GridFit fit, int64_t bits, quant::GridRule rule, bool learned) {
  LinearGrid grid{.weight = quant::AffineOptions{.bits = bits, .group_size = kGroup, .rule = rule}};
  grid.held = std::make_shared<HeldGrid>();
  grid.held->fit = fit;
  grid.held->scales = at::zeros({kRows, kCols / kGroup}, torch::kFloat32);
  grid.held->zeros = at::zeros({kRows, kCols / kGroup}, torch::kUInt8);
  if (learned) {
    grid.held->factor = at::ones({kRows, kCols / kGroup}, torch::kFloat32).requires_grad_(true);
  }
  return grid;
}

struct Case {
  std::string name;
  int64_t bits;
  quant::GridRule rule;
  bool anchored = false;
};
const std::vector<Case> kCases = {{"asymmetric4", 4, quant::GridRule::kAsymmetric},
                                  {"symmetric4", 4, quant::GridRule::kSymmetricFull},
                                  {"asymmetric3", 3, quant::GridRule::kAsymmetric},
                                  {"symmetric2", 2, quant::GridRule::kSymmetricFull},
                                  {"anchored4", 4, quant::GridRule::kAsymmetric, true},
                                  {"anchored3", 3, quant::GridRule::kAsymmetric, true},
                                  {"anchored2", 2, quant::GridRule::kSymmetricFull, true}};

class HeldGrids : public ::testing::TestWithParam<Case> {
 protected:
  void SetUp() override {
    at::manual_seed(11);
    adapter_ = make_adapter();
    weight_ = FrozenWeight(quant::quantize_nf4(at::randn({kRows, kCols}) * 0.3));
    grid_ = held_grid(GridFit::kClip, GetParam().bits, GetParam().rule, true);
    grid_.held->is_anchored = GetParam().anchored;
    fit_held_grid("layer", weight_, &adapter_, grid_);
    // Factors of their own, narrow enough to cut.
    const at::NoGradGuard no_graph;
    grid_.held->factor.copy_(0.6 + 0.5 * at::randn(grid_.held->factor.sizes()).abs());
  }
  void TearDown() override { set_thread_count(1); }

  Adapter adapter_;
  FrozenWeight weight_;
  LinearGrid grid_;
};

TEST_P(HeldGrids, RoundAsTheComposition) {
  for (const auto dtype : {torch::kFloat32, torch::kBFloat16, torch::kFloat16}) {
    for (const Adapter* adapter : {&adapter_, static_cast<Adapter*>(nullptr)}) {
      const Tensor expected = fake_quantized_composed(weight_, adapter, grid_, dtype);
      for (const int threads : {1, 2, 3}) {
        set_thread_count(threads);
        EXPECT_TRUE(at::equal(fake_quantized(weight_, adapter, grid_, dtype), expected));
        const GridGradient again = fake_quantized_backward(
            weight_, adapter, grid_, at::ones({kRows, kCols}, torch::kFloat32).to(dtype));
        EXPECT_TRUE(at::equal(again.rounded, expected));
      }
    }
  }
}

TEST_P(HeldGrids, GradientsAreThoseOfTheSurrogate) {
  // Element by element: the mask times the gradient, and LSQ's slope summed over each group.
  LoraLinear linear("layer", weight_);
  linear.set_adapter(adapter_);
  linear.set_grid(grid_);
  Tensor x = at::randn({9, kCols}).requires_grad_(true);
  const Tensor dy = at::randn({9, kRows});
  (linear.forward(x, torch::kFloat32, {}) * dy).sum().backward();

  const at::NoGradGuard no_graph;
  const auto& options = std::get<quant::AffineOptions>(grid_.weight);
  const Tensor merged = merged_or_plain(weight_, &adapter_);
  const Tensor scales = grid_.held->of_codes(options.scale_type);
  const Tensor of_values = grid_.held->effective(options.scale_type);
  EXPECT_EQ(at::equal(scales, of_values), !GetParam().anchored);
  const Tensor arriving = at::matmul(dy.t(), x);
  Tensor masked = arriving.clone(), factor = at::zeros(scales.sizes(), torch::kFloat64);
  int64_t cut = 0;
  for (int64_t n = 0; n < kRows; ++n) {
    for (int64_t k = 0; k < kCols; ++k) {
      const quant::AffineGrid grid{scales[n][k / kGroup].item<float>(),
                                   grid_.held->zeros[n][k / kGroup].item<uint8_t>()};
      const auto w = merged[n][k].item<float>(), of_value = of_values[n][k / kGroup].item<float>();
      const auto slope = GetParam().anchored
                             ? quant::anchored_slope(w, grid, of_value, options.bits)
                             : quant::affine_slope(w, grid, options.bits);
      factor[n][k / kGroup] += arriving[n][k].item<double>() * slope.by_scale;
      masked[n][k] *= slope.by_weight;
      cut += slope.by_weight == 0;
    }
  }
  EXPECT_GT(cut, kRows);
  factor = factor * grid_.held->scales * quant::lsq_gradient_scale(kGroup, options.bits);
  const auto relative = [](const Tensor& actual, const Tensor& wanted) {
    return ((actual - wanted).norm() / wanted.norm()).item<double>();
  };
  EXPECT_LT(relative(grid_.held->factor.grad(), factor), 1e-5);
  EXPECT_LT(relative(adapter_.a.grad(), 2 * at::matmul(adapter_.b.t(), masked)), 1e-5);
  EXPECT_LT(relative(adapter_.b.grad(), 2 * at::matmul(masked, adapter_.a.t())), 1e-5);
  const Tensor rounded = fake_quantized_composed(weight_, &adapter_, grid_, torch::kFloat32);
  EXPECT_LT(relative(x.grad(), at::matmul(dy, rounded)), 1e-5);
}

TEST_P(HeldGrids, ScalesOfALinearWithoutAnAdapterAreTrainedToo) {
  // A B of zeros adds nothing: all gradients but the adapter's own are the same.
  Adapter nothing = adapter_;
  nothing.b = at::zeros({kRows, kRank}).requires_grad_(true);
  const Tensor x = at::randn({9, kCols}), dy = at::randn({9, kRows});
  std::vector<Tensor> dx, dfactor;
  for (const bool has_adapter : {true, false}) {
    LoraLinear linear("layer", weight_);
    if (has_adapter) linear.set_adapter(nothing);
    linear.set_grid(grid_);
    const Tensor input = x.clone().requires_grad_(true);
    (linear.forward(input, torch::kFloat32, {}) * dy).sum().backward();
    dx.push_back(input.grad());
    dfactor.push_back(grid_.held->factor.grad().clone());
    grid_.held->factor.mutable_grad().zero_();
  }
  EXPECT_GT(dfactor[0].abs().max().item<float>(), 0);
  EXPECT_TRUE(at::equal(dfactor[0], dfactor[1]));
  EXPECT_TRUE(at::equal(dx[0], dx[1]));
}

TEST_P(HeldGrids, AnchoredCodesAreThoseOfTheFittedScales) {
  const auto& options = std::get<quant::AffineOptions>(grid_.weight);
  const Tensor merged = merged_or_plain(weight_, &adapter_);
  quant::AffineTensor fitted{
      .scales = grid_.held->scales, .zeros = grid_.held->zeros, .options = options};
  quant::requantize_affine(merged, fitted);
  const quant::AffineTensor trained = affine_on_grid(merged, grid_);
  EXPECT_EQ(at::equal(trained.codes, fitted.codes), GetParam().anchored);
  EXPECT_TRUE(at::equal(trained.scales, grid_.held->effective(options.scale_type)));
}

TEST_P(HeldGrids, ClippedRangesNeverRoundWorse) {
  const auto& options = std::get<quant::AffineOptions>(grid_.weight);
  const Tensor merged = merged_or_plain(weight_, &adapter_);
  const auto errors = [&](quant::AffineTensor grids) {
    quant::requantize_affine(merged, grids);
    return (quant::dequantize_affine(grids) - merged)
        .square()
        .view({kRows, kCols / kGroup, kGroup})
        .sum(2);
  };
  const Tensor whole = errors(quant::affine_grids(merged, options));
  const Tensor narrowed = errors(clipped_grids(merged, options));
  EXPECT_TRUE((narrowed <= whole * (1 + 1e-5)).all().item<bool>());
  EXPECT_LT(narrowed.sum().item<double>(), whole.sum().item<double>());
  // The two sum in another order: equal but for ranges that round equally well.
  const Tensor composed = errors(clipped_grids_composed(merged, options));
  EXPECT_TRUE(at::allclose(narrowed, composed, 1e-5, 0));
}

TEST_P(HeldGrids, AreReadAsTheyWereWritten) {
  const testing::TemporaryFolder folder;
  const std::map<std::string, LinearGrid> grids = {{"model.layers.0.mlp.up_proj", grid_}};
  write_grids(folder.path(), grids);
  LinearGrid other = held_grid(GridFit::kRange, GetParam().bits, GetParam().rule, true);
  read_grids(folder.path(), {{"model.layers.0.mlp.up_proj", other}});
  EXPECT_TRUE(at::equal(other.held->scales, grid_.held->scales));
  EXPECT_TRUE(at::equal(other.held->zeros, grid_.held->zeros));
  EXPECT_TRUE(at::equal(other.held->factor, grid_.held->factor));
}

INSTANTIATE_TEST_SUITE_P(Cases, HeldGrids, ::testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

TEST(HeldGridRefusals, SayWhatIsWrong) {
  at::manual_seed(2);
  LinearGrid grid = held_grid(GridFit::kRange, 4, quant::GridRule::kAsymmetric, true);
  const Tensor w = at::randn({kRows, kCols});
  fit_held_grid("layer", FrozenWeight(w), nullptr, grid);
  Tensor broken = w.clone();
  broken[7][3] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_ERROR(ValueError,
               fit_held_grid("model.layers.3.mlp.up_proj", FrozenWeight(broken), nullptr, grid),
               "model.layers.3.mlp.up_proj");
  EXPECT_ERROR(ValueError, fake_quantized(FrozenWeight(broken), nullptr, grid, torch::kFloat32),
               "not finite");
  const at::NoGradGuard no_graph;
  for (const float bad : {-0.5F, -1.0F, std::numeric_limits<float>::quiet_NaN(),
                          std::numeric_limits<float>::infinity()}) {
    grid.held->factor.fill_(1);
    grid.held->factor[3][1] = bad;
    EXPECT_ERROR(ValueError, keep_in_range("model.layers.3.mlp.up_proj", *grid.held),
                 "model.layers.3.mlp.up_proj");
  }
}

TEST(HeldGridRefusals, AScaleThatDriftsToNothingStaysASmallOne) {
  LinearGrid grid = held_grid(GridFit::kRange, 4, quant::GridRule::kAsymmetric, true);
  fit_held_grid("layer", FrozenWeight(at::randn({kRows, kCols})), nullptr, grid);
  const at::NoGradGuard no_graph;
  Tensor factor = grid.held->factor;
  factor[0][0] = -0.002F;
  factor[1][0] = 0.0F;
  factor[2][0] = 2 * kLeastFactor;
  const Tensor before = factor.clone();
  keep_in_range("layer", *grid.held);
  EXPECT_EQ(factor[0][0].item<float>(), kLeastFactor);
  EXPECT_EQ(factor[1][0].item<float>(), kLeastFactor);
  factor[0][0] = before[0][0];
  factor[1][0] = before[1][0];
  EXPECT_TRUE(factor.equal(before));  // nothing else has moved
}

TEST(GridFiles, RefuseWhatIsNotOfTheRun) {
  at::manual_seed(2);
  const testing::TemporaryFolder folder;
  LinearGrid grid = held_grid(GridFit::kRange, 4, quant::GridRule::kAsymmetric, false);
  fit_held_grid("layer", FrozenWeight(at::randn({kRows, kCols})), nullptr, grid);
  const LinearGrid plain{.weight = grid.weight};
  EXPECT_FALSE(has_grid_state({{"a", plain}}));
  write_grids(folder.path(), {{"a", plain}});
  EXPECT_FALSE(std::filesystem::exists(folder / kGridFile));
  read_grids(folder.path(), {{"a", plain}});  // nothing to read
  EXPECT_THROW(read_grids(folder.path(), {{"a", grid}}), IoError);
  write_grids(folder.path(), {{"a", grid}});
  EXPECT_ERROR(FormatError, read_grids(folder.path(), {{"b", grid}}), "has no b.scales");
  LinearGrid learned = held_grid(GridFit::kRange, 4, quant::GridRule::kAsymmetric, true);
  EXPECT_ERROR(FormatError, read_grids(folder.path(), {{"a", learned}}), "has no a.factor");
  LinearGrid other = held_grid(GridFit::kRange, 4, quant::GridRule::kAsymmetric, false);
  other.held->scales = at::zeros({kRows, 1}, torch::kFloat32);
  EXPECT_ERROR(FormatError, read_grids(folder.path(), {{"a", other}}), "a.scales is F32");
  grid.held->scales[0][0] = -1;
  write_grids(folder.path(), {{"a", grid}});
  EXPECT_ERROR(FormatError, read_grids(folder.path(), {{"a", grid}}), "not finite and positive");
}

}  // namespace
}  // namespace qlora::lora
