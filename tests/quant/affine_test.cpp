#include "quant/affine.h"

#include <ATen/core/Generator.h>
#include <gtest/gtest.h>

#include <limits>

#include "core/error.h"
#include "quant/affine_composed.h"
#include "quant/affine_math.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

torch::Tensor normal(const std::vector<int64_t>& shape, uint64_t seed = 1, double sigma = 0.02) {
  return torch::randn(shape, at::make_generator<at::CPUGeneratorImpl>(seed)) * sigma;
}

template <class Body>
void for_each_options(const Body& body) {
  for (const int64_t bits : {2, 3, 4, 8}) {
    for (const auto& [rule, rule_name] : EnumNames<GridRule>::kNames) {
      for (const auto& [type, type_name] : EnumNames<ScaleType>::kNames) {
        for (const int64_t group_size : {-1, 64, 32, 24}) {
          for (const int64_t least_zero : {0, 1}) {
            SCOPED_TRACE(fmt::format("{} bits, {}, {}, group {}, least {}", bits, rule_name,
                                     type_name, group_size, least_zero));
            body(AffineOptions{bits, group_size, rule, type, least_zero});
          }
        }
      }
    }
  }
}

torch::Tensor hard_weight() {
  auto w = normal({13, 192});
  w[0].zero_();
  w[1].abs_();
  w[2].abs_().neg_();
  w[3].mul_(1e-5);
  w[4].mul_(1e3);
  w[5][7] = 30;
  w[6] = -0.0;
  return w;
}

TEST(Affine, EqualsTheCompositionOfLibtorchBitForBit) {
  const auto w = hard_weight();
  for_each_options([&](const AffineOptions& o) {
    const AffineTensor t = quantize_affine(w, o);
    const int64_t size = checked_group_size(192, o);
    ASSERT_EQ(t.groups(), 192 / size);
    const auto grids = composed::affine_grids(w, size, o);
    EXPECT_TRUE(torch::equal(t.scales, grids.scales));
    EXPECT_TRUE(torch::equal(t.zeros, grids.zeros));
    const auto scales = composed::spread(grids.scales, 192, {});
    const auto zeros = composed::spread(grids.zeros, 192, {});
    EXPECT_TRUE(torch::equal(t.codes, composed::affine_codes(w, scales, zeros, o.bits)));
    const auto values = composed::affine_values(t.codes, scales, zeros);
    EXPECT_TRUE(torch::equal(dequantize_affine(t), values));
    EXPECT_TRUE(torch::equal(round_to_grid(w, o), values));
    AffineTensor again = affine_grids(w, o);
    EXPECT_FALSE(again.codes.defined());
    EXPECT_TRUE(torch::equal(again.scales, t.scales));
    EXPECT_TRUE(torch::equal(again.zeros, t.zeros));
    requantize_affine(w, again);
    EXPECT_TRUE(torch::equal(again.codes, t.codes));
    EXPECT_EQ(t.options.bits, o.bits);
  });
}

TEST(Affine, ComposesNumbersFarOutsideAsTheMathDoes) {
  const float inf = std::numeric_limits<float>::infinity();
  const auto w = torch::tensor({1e30f, -1e30f, inf, -inf, std::nanf(""), 0.5f, 1.5f, -0.0f});
  for (const int64_t bits : {2, 3, 4, 8}) {
    const auto codes = composed::affine_codes(w, torch::ones({1}), torch::ones({1}), bits);
    for (int64_t i = 0; i < w.numel(); ++i) {
      EXPECT_EQ(codes[i].item<uint8_t>(), affine_code(w[i].item<float>(), {1, 1}, bits)) << i;
    }
  }
}

TEST(Affine, RoundsGroupsOfScatteredColumns) {
  const auto w = normal({11, 96});
  const AffineOptions o{.group_size = 32};
  const auto order =
      torch::randperm(96, at::make_generator<at::CPUGeneratorImpl>(uint64_t{2}), torch::kInt64);
  // Quantized in another order of columns, then put back: group_of says which columns were
  // together.
  const AffineTensor ordered = quantize_affine(w.index_select(1, order), o);
  AffineTensor t = ordered;
  t.codes = torch::empty_like(ordered.codes);
  t.codes.index_copy_(1, order, ordered.codes);
  t.group_of = torch::empty({96}, torch::kInt32);
  t.group_of.index_copy_(0, order, torch::arange(96, torch::kInt32).div(32, "floor"));
  const auto expected = dequantize_affine(ordered);
  EXPECT_TRUE(torch::equal(dequantize_affine(t).index_select(1, order), expected));
  const auto composition =
      composed::affine_values(t.codes, composed::spread(t.scales, 96, t.group_of),
                              composed::spread(t.zeros, 96, t.group_of));
  EXPECT_TRUE(torch::equal(dequantize_affine(t), composition));
  AffineTensor again = t;
  again.codes = torch::Tensor();
  requantize_affine(w, again);
  EXPECT_TRUE(torch::equal(again.codes, t.codes));
}

TEST(Affine, TakesWeightsOfAnyStridesAndChangesNone) {
  const auto w = normal({64, 48});
  const auto kept = w.clone();
  const AffineOptions o{.group_size = 16};
  const auto transposed = quantize_affine(w.t(), o), plain = quantize_affine(w.t().contiguous(), o);
  EXPECT_TRUE(torch::equal(transposed.codes, plain.codes));
  EXPECT_TRUE(torch::equal(round_to_grid(w.slice(1, 16, 48), o),
                           round_to_grid(w.slice(1, 16, 48).contiguous(), o)));
  EXPECT_TRUE(torch::equal(w, kept));
  const auto with_gradient = w.clone().requires_grad_();
  EXPECT_FALSE(round_to_grid(with_gradient, o).requires_grad());
}

TEST(Affine, RefusesSizesThatDoNotFit) {
  const auto w = normal({4, 96});
  const auto say = [&](const AffineOptions& o, const torch::Tensor& weight) {
    return testing::message_of<Error>([&] { quantize_affine(weight, o); });
  };
  EXPECT_SAYS(say({.bits = 5}, w), "bits is 5, allowed 2, 3, 4, 8");
  EXPECT_SAYS(say({.group_size = 0}, w), "group_size is 0");
  EXPECT_SAYS(say({.group_size = -2}, w), "group_size is -2");
  EXPECT_SAYS(say({.group_size = 128}, w),
              "group_size 128 does not divide the 96 columns of the weight; these do: 32, 16, -1");
  EXPECT_SAYS(say({.group_size = 32, .least_zero = 15}, w), "least_zero is 15");
  EXPECT_SAYS(say({.group_size = 32, .least_zero = -1}, w), "least_zero is -1");
  EXPECT_SAYS(say({}, torch::empty({0, 128})), "at least one element");
  EXPECT_SAYS(say({}, torch::empty({128})), "weight has shape [128]");
  EXPECT_SAYS(say({}, torch::Tensor()), "weight has shape none");
  EXPECT_SAYS(say({.group_size = 32}, w.to(torch::kFloat16)), "weight is Half, allowed f32");
  EXPECT_THROW(checked_group_size(96, {.bits = 7}), ConfigError);
  EXPECT_THROW(checked_group_size(96, {.group_size = 36}), ShapeError);
  EXPECT_EQ(checked_group_size(96, {.group_size = -1}), 96);
}

TEST(Affine, RefusesNumbersThatAreNotFinite) {
  for (const float poison : {std::nanf(""), std::numeric_limits<float>::infinity()}) {
    auto w = normal({8, 64});
    w[5][33] = poison;
    w[7][1] = poison;
    const auto text =
        testing::message_of<ValueError>([&] { round_to_grid(w, {.group_size = 64}); });
    EXPECT_SAYS(text, "weight element [5, 33] is");
    EXPECT_THROW(affine_grids(w, {.group_size = 32}), ValueError);
    EXPECT_THROW(quantize_affine(w, {.group_size = -1}), ValueError);
  }
  auto w = normal({8, 64});
  w[3][3] = 1.1e6;
  const AffineOptions o{.group_size = 64};
  const auto text = testing::message_of<ValueError>([&] { quantize_affine(w, o); });
  EXPECT_SAYS(text, "row 3 reaches 1100000, its scale at 4 bits leaves fp16");
  EXPECT_NO_THROW(quantize_affine(w, {.group_size = 64, .scale_type = ScaleType::kBF16}));
}

TEST(Affine, RefusesTensorsThatDoNotFitEachOther) {
  const auto w = normal({4, 96});
  const AffineTensor good = quantize_affine(w, {.group_size = 32});
  const auto refuses = [&](const char* part, const auto& spoil) {
    AffineTensor t = good;
    spoil(t);
    EXPECT_SAYS(testing::message_of<Error>([&] { dequantize_affine(t); }), part);
  };
  refuses("codes have shape none", [](AffineTensor& t) { t.codes = torch::Tensor(); });
  refuses("codes have shape", [](AffineTensor& t) { t.codes = t.codes.to(torch::kInt32); });
  refuses("scales have shape none", [](AffineTensor& t) { t.scales = torch::Tensor(); });
  refuses("scales have shape", [](AffineTensor& t) { t.scales = t.scales.t(); });
  refuses("zeros none", [](AffineTensor& t) { t.zeros = torch::Tensor(); });
  refuses("zeros [4, 1]", [](AffineTensor& t) { t.zeros = t.zeros.slice(1, 0, 1); });
  refuses("scales are Half", [](AffineTensor& t) { t.scales = t.scales.to(torch::kFloat16); });
  refuses("96 columns have 5 groups", [](AffineTensor& t) {
    t.scales = torch::ones({4, 5});
    t.zeros = torch::ones({4, 5}, torch::kUInt8);
  });
  refuses("group_of is Int [95]",
          [](AffineTensor& t) { t.group_of = torch::zeros({95}, torch::kInt32); });
  refuses("group_of is Long",
          [](AffineTensor& t) { t.group_of = torch::zeros({96}, torch::kInt64); });
  refuses("group_of holds 0 to 3, allowed 0 to 2", [](AffineTensor& t) {
    t.group_of = torch::zeros({96}, torch::kInt32);
    t.group_of[50] = 3;
  });
  refuses("group_of holds -1 to 0", [](AffineTensor& t) {
    t.group_of = torch::zeros({96}, torch::kInt32);
    t.group_of[95] = -1;
  });
  AffineTensor t = good;
  EXPECT_THROW(requantize_affine(normal({5, 96}), t), ShapeError);
  t.options.bits = 9;
  EXPECT_THROW(requantize_affine(w, t), ConfigError);
}

}  // namespace
}  // namespace qlora::quant
