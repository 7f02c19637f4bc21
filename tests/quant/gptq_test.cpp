#include "quant/gptq.h"

#include <ATen/core/Generator.h>
#include <ATen/ops/linalg_inv.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "quant/affine_composed.h"
#include "quant/gptq_backend.h"
#include "quant/gptq_composed.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

Tensor normal(const std::vector<int64_t>& shape, uint64_t seed) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed));
}

/// Inputs whose columns depend on each other and differ in size, as those of a model do.
Tensor correlated_inputs(int64_t tokens, int64_t cols, uint64_t seed) {
  const auto mix = normal({cols, cols}, seed + 1000) * 0.5 + torch::eye(cols);
  const auto sizes = normal({cols}, seed + 2000).exp();
  return torch::matmul(normal({tokens, cols}, seed), mix) * sizes;
}

LinearStatistics statistics_of(const Tensor& x) {
  return {.gram = torch::matmul(x.t(), x),
          .abs_sum = x.abs().sum(0),
          .abs_max = x.abs().amax({0}),
          .tokens = x.size(0)};
}

/// Algorithm of the paper without its tricks (Optimal Brain Quantization in a given order): in 64
/// bits, the inverse Hessian is updated column by column.
Tensor unblocked_codes(const Tensor& weight, const LinearStatistics& s, const AffineOptions& affine,
                       double damp, AffineTensor* grids) {
  const int64_t cols = weight.size(1), size = affine.group_size;
  auto h = s.gram.to(torch::kFloat64) * (2.0 / static_cast<double>(s.tokens));
  h.diagonal().add_(damp * h.diagonal().mean());
  auto inverse = at::linalg_inv(h);
  auto w = weight.to(torch::kFloat64).clone();
  grids->scales = torch::zeros({weight.size(0), cols / size});
  grids->zeros = torch::zeros({weight.size(0), cols / size}, torch::kUInt8);
  auto codes = torch::zeros(weight.sizes(), torch::kUInt8);
  for (int64_t k = 0; k < cols; ++k) {
    const int64_t g = k / size;
    if (k % size == 0) {
      const auto found =
          composed::affine_grids(w.narrow(1, k, size).to(torch::kFloat32), size, affine);
      grids->scales.narrow(1, g, 1).copy_(found.scales);
      grids->zeros.narrow(1, g, 1).copy_(found.zeros);
    }
    const auto scales = grids->scales.select(1, g), zeros = grids->zeros.select(1, g);
    const auto code =
        composed::affine_codes(w.select(1, k).to(torch::kFloat32), scales, zeros, affine.bits);
    codes.select(1, k).copy_(code);
    const auto q = composed::affine_values(code, scales, zeros).to(torch::kFloat64);
    const auto e = (w.select(1, k) - q) / inverse[k][k];
    w -= e.unsqueeze(1) * inverse[k].unsqueeze(0);
    inverse = inverse - inverse.select(1, k).unsqueeze(1) * inverse[k].unsqueeze(0) / inverse[k][k];
  }
  return codes;
}

constexpr GptqOptions kPlain{.act_group_aware = false, .scale_search = ScaleSearch::kMinMax};

TEST(Gptq, OneColumnIsRoundedToNearest) {
  const auto w = normal({37, 1}, 1);
  for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kGptq}) {
    GptqOptions options;
    options.scale_search = search;
    options.scale_least = 1;
    const auto r = quantize_gptq(w, statistics_of(normal({20, 1}, 2)), {.group_size = 1}, options);
    const auto nearest = quantize_affine(w, {.group_size = 1});
    EXPECT_TRUE(torch::equal(r.tensor.codes, nearest.codes));
    EXPECT_TRUE(torch::equal(r.tensor.scales, nearest.scales));
  }
}

TEST(Gptq, IndependentInputsAreRoundedToNearest) {
  const auto w = normal({40, 256}, 3);
  LinearStatistics s{.gram = torch::diag(normal({256}, 4).abs() + 0.1), .tokens = 10};
  for (const bool desc_act : {false, true}) {
    GptqOptions options = kPlain;
    options.desc_act = desc_act;
    options.static_groups = desc_act;
    const auto r = quantize_gptq(w, s, {.group_size = 64}, options);
    const auto nearest = quantize_affine(w, {.group_size = 64});
    EXPECT_TRUE(torch::equal(r.tensor.codes, nearest.codes));
    EXPECT_TRUE(torch::equal(r.tensor.scales, nearest.scales));
    EXPECT_EQ(r.report.fallback, "");
    EXPECT_DOUBLE_EQ(r.report.error, r.report.error_rtn);
  }
}

TEST(Gptq, EqualsOptimalBrainQuantizationInSixtyFourBits) {
  int64_t different = 0, rows = 0;
  for (uint64_t seed = 0; seed < 4; ++seed) {
    for (const int64_t group_size : {16, 48, 96}) {
      // 96 and 48 columns: several blocks where groups are 48, one where they are 16.
      const int64_t cols = group_size == 48 ? 288 : 96;
      const auto w = normal({16, cols}, seed);
      const auto s = statistics_of(correlated_inputs(3 * cols, cols, seed + 50));
      const AffineOptions affine{.group_size = group_size};
      GptqOptions options = kPlain;
      options.hessian_fp64 = true;
      AffineTensor grids;
      const auto codes = unblocked_codes(w, s, affine, options.damp_percent, &grids);
      const auto r = quantize_gptq(w, s, affine, options);
      ASSERT_EQ(r.report.fallback, "");
      // A number that lies on the edge between two codes may fall to either side, and the rest of
      // its row with it.
      different += r.tensor.codes.ne(codes).any(1).sum().item<int64_t>();
      rows += w.size(0);
    }
  }
  EXPECT_LE(different, rows / 100) << "of " << rows;
}

TEST(Gptq, LosesLessThanRoundingToNearest) {
  double ratio = 0;
  int runs = 0;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const int64_t cols = 128 + 64 * static_cast<int64_t>(seed % 3);
    const auto w = normal({48, cols}, seed);
    const auto x = correlated_inputs(2 * cols, cols, seed + 70);
    const auto s = statistics_of(x);
    for (const int64_t bits : {2, 3, 4, 8}) {
      for (const auto rule : {GridRule::kAsymmetric, GridRule::kSymmetric}) {
        for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kGptq}) {
          GptqOptions options;
          options.scale_search = search;
          options.damp_percent = 0.01;
          const auto r =
              quantize_gptq(w, s, {.bits = bits, .group_size = 64, .rule = rule}, options);
          // Only four levels over the whole range may be beyond repair.
          if (bits > 2 || search != ScaleSearch::kMinMax) {
            EXPECT_EQ(r.report.fallback, "");
            EXPECT_LT(r.report.error, r.report.error_rtn);
          }
          EXPECT_LE(r.report.error, r.report.error_rtn);
          ratio += r.report.error / r.report.error_rtn;
          ++runs;
          // What is reported is what the outputs on the samples say.
          if (seed > 1) continue;
          const auto d = dequantize_affine(r.tensor) - w;
          const double seen = torch::matmul(x, d.t()).square().sum().item<double>() / x.size(0);
          EXPECT_NEAR(r.report.error, seen, 1e-3 * seen);
        }
      }
    }
  }
  EXPECT_LT(ratio / runs, 0.5);
}

TEST(Gptq, TheSearchesLoseLessThanTheRangeDoes) {
  double sums[3] = {};
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const auto w = normal({64, 192}, seed);
    const auto s = statistics_of(correlated_inputs(500, 192, seed + 90));
    for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kGptq}) {
      GptqOptions options;
      options.scale_search = search;
      const auto r = quantize_gptq(w, s, {.bits = 3, .group_size = 64}, options);
      sums[static_cast<int>(search)] += r.report.error / r.report.error_rtn;
    }
  }
  EXPECT_LT(sums[1], sums[0]);
  EXPECT_LT(sums[2], sums[1]);
}

TEST(Gptq, ActOrderRoundsImportantColumnsFirst) {
  const int64_t cols = 192, size = 32;
  const auto w = normal({24, cols}, 5);
  const auto s = statistics_of(correlated_inputs(400, cols, 6));
  const auto order = s.gram.diagonal().argsort(true, 0, true);
  GptqOptions options = kPlain;
  options.desc_act = true;
  const auto r = quantize_gptq(w, s, {.group_size = size}, options);
  // The same as ordering the columns by hand.
  const LinearStatistics ordered{
      .gram = s.gram.index_select(0, order).index_select(1, order).contiguous(),
      .tokens = s.tokens};
  const auto by_hand =
      quantize_gptq(w.index_select(1, order), ordered, {.group_size = size}, kPlain);
  EXPECT_TRUE(torch::equal(r.tensor.codes.index_select(1, order), by_hand.tensor.codes));
  EXPECT_TRUE(torch::equal(r.tensor.scales, by_hand.tensor.scales));
  ASSERT_TRUE(r.tensor.group_of.defined());
  EXPECT_TRUE(torch::equal(r.tensor.group_of.index_select(0, order),
                           torch::arange(cols, torch::kInt32).div(size, "floor")));
  EXPECT_TRUE(torch::equal(dequantize_affine(r.tensor).index_select(1, order),
                           dequantize_affine(by_hand.tensor)));

  const auto whole = quantize_gptq(w, s, {.group_size = -1}, options);
  EXPECT_FALSE(whole.tensor.group_of.defined()) << "one group needs no index";
}

TEST(Gptq, GroupAwareOrderKeepsGroupsTogether) {
  const int64_t cols = 192, size = 32;
  const auto w = normal({24, cols}, 7);
  const auto s = statistics_of(correlated_inputs(400, cols, 8));
  GptqOptions options = kPlain;
  options.act_group_aware = true;
  const auto f = factor_gptq(s, {.group_size = size}, options);
  const auto groups = f.order.div(size, "floor").view({-1, size});
  EXPECT_TRUE(torch::equal(groups, groups.select(1, 0).unsqueeze(1).expand_as(groups)));
  const auto diagonal = f.diagonal.index_select(0, f.order).view({-1, size});
  EXPECT_TRUE(diagonal.diff(1, 1).le(0).all().item<bool>()) << "within a group";
  EXPECT_TRUE(diagonal.sum(1).diff().le(0).all().item<bool>()) << "between groups";
  EXPECT_TRUE(torch::equal(std::get<0>(f.order.sort()), torch::arange(cols, torch::kInt64)));

  const auto r = quantize_gptq(w, s, {.group_size = size}, options);
  EXPECT_FALSE(r.tensor.group_of.defined());
  const LinearStatistics ordered{
      .gram = s.gram.index_select(0, f.order).index_select(1, f.order).contiguous(),
      .tokens = s.tokens};
  const auto by_hand =
      quantize_gptq(w.index_select(1, f.order), ordered, {.group_size = size}, kPlain);
  EXPECT_TRUE(torch::equal(r.tensor.codes.index_select(1, f.order), by_hand.tensor.codes));
  EXPECT_TRUE(
      torch::equal(r.tensor.scales.index_select(1, groups.select(1, 0)), by_hand.tensor.scales));
}

TEST(Gptq, StaticGroupsTakeTheGridsOfTheOriginalWeight) {
  const auto w = normal({24, 192}, 9);
  const auto s = statistics_of(correlated_inputs(400, 192, 10));
  for (const bool desc_act : {false, true}) {
    GptqOptions options = kPlain;
    options.static_groups = true;
    options.desc_act = desc_act;
    const auto r = quantize_gptq(w, s, {.group_size = 32}, options);
    const auto grids = affine_grids(w, {.group_size = 32});
    EXPECT_TRUE(torch::equal(r.tensor.scales, grids.scales));
    EXPECT_TRUE(torch::equal(r.tensor.zeros, grids.zeros));
    EXPECT_FALSE(r.tensor.group_of.defined());
    EXPECT_LT(r.report.error, r.report.error_rtn);
    options.scale_search = ScaleSearch::kMse;
    const auto searched = quantize_gptq(w, s, {.bits = 2, .group_size = 32}, options);
    options.scale_search = ScaleSearch::kGptq;
    const auto same = quantize_gptq(w, s, {.bits = 2, .group_size = 32}, options);
    EXPECT_TRUE(torch::equal(searched.tensor.codes, same.tensor.codes));
    EXPECT_FALSE(torch::equal(searched.tensor.scales,
                              affine_grids(w, {.bits = 2, .group_size = 32}).scales));
  }
}

TEST(Gptq, TheBackEndEqualsTheCompositionOfLibtorchBitForBit) {
  for (const auto search : {ScaleSearch::kMinMax, ScaleSearch::kMse, ScaleSearch::kGptq}) {
    for (const int64_t size : {16, 96}) {
      const auto w = normal({21, 96}, 11);
      const auto s = statistics_of(correlated_inputs(200, 96, 12));
      const AffineOptions affine{.bits = 3, .group_size = size};
      const auto f = factor_gptq(s, affine, kPlain);
      std::vector<int32_t> groups(96);
      for (int64_t k = 0; k < 96; ++k) groups[k] = static_cast<int32_t>(k / size);
      const auto bytes = torch::kUInt8;
      composed::GptqBlock b{.weight = w.clone(),
                            .factor = f.factor,
                            .column_weight = f.factor.diagonal().square().reciprocal().contiguous(),
                            .affine = affine,
                            .search = search,
                            .search_steps = 9,
                            .search_least = 0.5,
                            .group_size = size,
                            .fits = true,
                            .scales = torch::zeros({21, 96 / size}),
                            .zeros = torch::zeros({21, 96 / size}, bytes),
                            .codes = torch::zeros({21, 96}, bytes)};
      const auto errors = composed::gptq_block(b, groups, 0, 96);
      auto scales = torch::zeros_like(b.scales), ours = torch::zeros_like(errors);
      auto zeros = torch::zeros_like(b.zeros), codes = torch::zeros_like(b.codes);
      int64_t bad = 21;
      const GridSearch grid_search{.affine = affine,
                                   .kind = search,
                                   .steps = 9,
                                   .least = 0.5,
                                   .column_weight = b.column_weight.const_data_ptr<float>()};
      cpu::gptq_block({.weight = w.const_data_ptr<float>(),
                       .rows = 21,
                       .cols = 96,
                       .begin = 0,
                       .end = 96,
                       .factor = f.factor.const_data_ptr<float>(),
                       .column_group = groups.data(),
                       .groups = 96 / size,
                       .group_size = size,
                       .fits = true,
                       .search = grid_search,
                       .scales = scales.mutable_data_ptr<float>(),
                       .zeros = zeros.mutable_data_ptr<uint8_t>(),
                       .codes = codes.mutable_data_ptr<uint8_t>(),
                       .errors = ours.mutable_data_ptr<float>(),
                       .first_bad_row = &bad});
      EXPECT_TRUE(torch::equal(codes, b.codes));
      EXPECT_TRUE(torch::equal(scales, b.scales));
      EXPECT_TRUE(torch::equal(zeros, b.zeros));
      EXPECT_TRUE(torch::equal(ours, errors));
      if (search == ScaleSearch::kGptq) continue;
      composed::GptqBlock runs = b;
      runs.weight = w;
      composed::search_grids(runs);
      cpu::search_grids({.weight = w.const_data_ptr<float>(),
                         .rows = 21,
                         .cols = 96,
                         .group_size = size,
                         .search = grid_search,
                         .scales = scales.mutable_data_ptr<float>(),
                         .zeros = zeros.mutable_data_ptr<uint8_t>(),
                         .first_bad_row = &bad});
      EXPECT_TRUE(torch::equal(scales, runs.scales));
      EXPECT_TRUE(torch::equal(zeros, runs.zeros));
    }
  }
}

TEST(Gptq, FactorsTheInverseOfTheDampedHessian) {
  const auto s = statistics_of(correlated_inputs(300, 80, 13));
  for (const bool fp64 : {false, true}) {
    GptqOptions options = kPlain;
    options.hessian_fp64 = fp64;
    options.damp_percent = 0.05;
    const auto f = factor_gptq(s, {.group_size = 16}, options);
    auto h = s.gram.to(torch::kFloat64) * (2.0 / 300);
    h.diagonal().add_(0.05 * h.diagonal().mean());
    const auto u = f.factor.to(torch::kFloat64);
    EXPECT_TRUE(torch::equal(u.tril(-1), torch::zeros_like(u)));
    const auto product = torch::matmul(torch::matmul(u.t(), u), h);
    EXPECT_LT((product - torch::eye(80, torch::kFloat64)).abs().max().item<double>(),
              fp64 ? 1e-4 : 1e-2);
    EXPECT_EQ(f.damp_percent, 0.05);
    EXPECT_EQ(f.damp_increases, 0);
  }
}

TEST(Gptq, DoublesTheDampingUntilTheHessianCanBeFactored) {
  auto s = statistics_of(correlated_inputs(300, 32, 14));
  const double mean = s.gram.diagonal().mean().item<double>();
  // One direction has a negative eigenvalue of 0.3 of the mean diagonal.
  const auto v = normal({32}, 15);
  const auto unit = v / v.norm();
  const auto along = torch::matmul(torch::matmul(unit, s.gram), unit);
  const auto gu = torch::matmul(s.gram, unit);
  s.gram = s.gram - torch::outer(gu, gu) / along - torch::outer(unit, unit) * (0.3 * mean);
  s.gram = (s.gram + s.gram.t()) * 0.5;
  const auto f = factor_gptq(s, {.group_size = 16}, {.damp_percent = 0.1});
  EXPECT_TRUE(f.factor.defined());
  EXPECT_GE(f.damp_increases, 1);
  EXPECT_GE(f.damp_percent, 0.2);
  EXPECT_EQ(f.damp_percent, std::min(1.0, 0.1 * static_cast<double>(1 << f.damp_increases)));
  const auto r = quantize_gptq(normal({8, 32}, 16), s, f, {.group_size = 16}, {});
  EXPECT_EQ(r.report.damp_increases, f.damp_increases);
  EXPECT_EQ(r.report.damp_percent, f.damp_percent);
}

TEST(Gptq, RoundsToNearestWhereNoDampingHelps) {
  const auto w = normal({8, 32}, 17);
  auto gram = torch::eye(32) * -1;
  for (const double damp : {0.0, 0.1, 1.0}) {
    const auto r =
        quantize_gptq(w, {.gram = gram, .tokens = 4}, {.group_size = 16}, {.damp_percent = damp});
    EXPECT_SAYS(r.report.fallback, "the Hessian is not positive definite at damping 1");
    EXPECT_TRUE(torch::equal(r.tensor.codes, quantize_affine(w, {.group_size = 16}).codes));
    EXPECT_EQ(r.report.error, r.report.error_rtn);
  }
}

TEST(Gptq, RoundsToNearestWhereAScaleLeavesItsType) {
  // The weight itself just fits; making good what the first group loses does not.
  auto w = normal({64, 32}, 18).abs().clamp_max(4) * 2e5;
  w.narrow(1, 16, 16).fill_(982500);
  const auto x = normal({64, 1}, 19).repeat({1, 32}) + 1e-3 * normal({64, 32}, 20);
  GptqOptions options = kPlain;
  options.damp_percent = 1e-4;
  const AffineOptions affine{.bits = 4, .group_size = 16};
  const auto r = quantize_gptq(w, statistics_of(x), affine, options);
  EXPECT_SAYS(r.report.fallback, "a scale left its type");
  EXPECT_TRUE(torch::equal(r.tensor.codes, quantize_affine(w, affine).codes));
  EXPECT_EQ(r.report.error, r.report.error_rtn);
}

TEST(Gptq, DeadColumnsAreRoundedToNearestAndDisturbNoOther) {
  const auto w = normal({24, 64}, 21);
  auto x = correlated_inputs(200, 64, 22);
  x.select(1, 5).zero_();
  x.select(1, 40).zero_();
  GptqOptions options = kPlain;
  options.static_groups = true;
  const auto r = quantize_gptq(w, statistics_of(x), {.group_size = 32}, options);
  EXPECT_EQ(r.report.dead_columns, 2);
  EXPECT_EQ(r.report.fallback, "");
  const auto nearest = quantize_affine(w, {.group_size = 32}).codes;
  EXPECT_TRUE(torch::equal(r.tensor.codes.select(1, 5), nearest.select(1, 5)));
  EXPECT_TRUE(torch::equal(r.tensor.codes.select(1, 40), nearest.select(1, 40)));

  const auto all_dead =
      quantize_gptq(w, {.gram = torch::zeros({64, 64}), .tokens = 1}, {.group_size = 32}, options);
  EXPECT_EQ(all_dead.report.dead_columns, 64);
  EXPECT_TRUE(torch::equal(all_dead.tensor.codes, nearest));
}

TEST(Gptq, OneFactorServesAllWeightsOfItsInputs) {
  const auto s = statistics_of(correlated_inputs(200, 64, 23));
  const AffineOptions affine{.group_size = 32};
  const auto f = factor_gptq(s, affine, {});
  for (uint64_t seed = 0; seed < 3; ++seed) {
    const auto w = normal({16, 64}, 30 + seed), kept = w.clone();
    const auto shared = quantize_gptq(w, s, f, affine, {});
    EXPECT_TRUE(torch::equal(shared.tensor.codes, quantize_gptq(w, s, affine, {}).tensor.codes));
    EXPECT_TRUE(torch::equal(w, kept));
  }
}

TEST(Gptq, RefusesWhatDoesNotFit) {
  const auto w = normal({8, 32}, 24);
  const auto good = statistics_of(normal({40, 32}, 25));
  const AffineOptions affine{.group_size = 16};
  auto poisoned = good;
  poisoned.gram = good.gram.clone();
  poisoned.gram[3][4] = std::nanf("");
  EXPECT_SAYS(testing::message_of<ValueError>([&] { quantize_gptq(w, poisoned, affine, {}); }),
              "not finite");
  EXPECT_SAYS(testing::message_of<ValueError>(
                  [&] { quantize_gptq(w, {.gram = good.gram, .tokens = 0}, affine, {}); }),
              "0 tokens");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] {
                factor_gptq({.gram = torch::ones({3, 4}), .tokens = 1}, affine, {});
              }),
              "[3, 4], allowed [K, K]");
  EXPECT_SAYS(testing::message_of<ShapeError>([&] { factor_gptq({.tokens = 1}, affine, {}); }),
              "none");
  const auto f = factor_gptq(good, affine, {});
  EXPECT_THROW(quantize_gptq(normal({8, 48}, 26), good, f, affine, {}), ShapeError);
  const auto wide = statistics_of(normal({40, 48}, 27));
  EXPECT_SAYS(testing::message_of<ShapeError>([&] {
                quantize_gptq(normal({8, 48}, 26), wide, f, affine, {});
              }),
              "the factor has 32 columns");
  auto bad_weight = w.clone();
  bad_weight[1][2] = std::numeric_limits<float>::infinity();
  EXPECT_SAYS(testing::message_of<ValueError>([&] { quantize_gptq(bad_weight, good, affine, {}); }),
              "[1, 2]");
  EXPECT_THROW(quantize_gptq(w, good, {.group_size = 24}, {}), ShapeError);
}

}  // namespace
}  // namespace qlora::quant
