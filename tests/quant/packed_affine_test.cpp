#include "quant/packed_affine.h"

#include <gtest/gtest.h>
#include <hwy/targets.h>

#include "core/error.h"
#include "core/parallel.h"
#include "quant/affine_math.h"
#include "tests/quant/export_fixture.h"
#include "tests/support/simd_targets.h"

namespace qlora::quant {
namespace {

using testing::same_bytes;

struct Size {
  int64_t rows, cols, groups;
};

AffineTensor random_affine(Size size, int64_t bits, ScaleType type, bool reordered) {
  const int64_t top = (1 << bits) - 1;
  AffineTensor t;
  t.options = {.bits = bits, .group_size = size.cols / size.groups, .scale_type = type};
  t.codes = torch::randint(0, top + 1, {size.rows, size.cols}, torch::kUInt8);
  t.scales = (torch::rand({size.rows, size.groups}) - 0.5).to(torch_type(type)).to(torch::kFloat32);
  t.zeros = torch::randint(0, top + 1, {size.rows, size.groups}, torch::kUInt8);
  if (reordered) t.group_of = torch::randint(0, size.groups, {size.cols}, torch::kInt32);
  return t;
}

/// The definition, element by element.
torch::Tensor by_definition(const AffineTensor& t) {
  auto w = torch::empty({t.rows(), t.cols()}, torch::kFloat32);
  for (int64_t n = 0; n < t.rows(); ++n) {
    for (int64_t k = 0; k < t.cols(); ++k) {
      const int64_t g = t.group_of.defined() ? t.group_of.const_data_ptr<int32_t>()[k]
                                             : k / (t.cols() / t.groups());
      const AffineGrid grid{t.scales.const_data_ptr<float>()[n * t.groups() + g],
                            t.zeros.const_data_ptr<uint8_t>()[n * t.groups() + g]};
      w.mutable_data_ptr<float>()[n * t.cols() + k] =
          affine_value(t.codes.const_data_ptr<uint8_t>()[n * t.cols() + k], grid);
    }
  }
  return w;
}

/// Runs the body once for every instruction set of this machine.
template <class Body>
void for_each_target(const Body& body) {
  for (const int64_t target : testing::simd_targets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    const testing::UseSimdTarget use(target);
    body();
  }
}

TEST(PackedAffine, EqualsTheDefinitionInEveryTypeWidthOrderAndInstructionSet) {
  torch::manual_seed(1);
  for (const Size size : {Size{3, 128, 1}, Size{5, 192, 6}, Size{2, 45, 3}, Size{4, 7, 7},
                          Size{1, 1, 1}, Size{300, 256, 2}}) {
    for (const int64_t bits : {2, 3, 4, 8}) {
      for (const auto type : {ScaleType::kF16, ScaleType::kBF16, ScaleType::kF32}) {
        for (const bool reordered : {false, true}) {
          const AffineTensor t = random_affine(size, bits, type, reordered);
          const PackedAffine packed = pack_affine(t);
          const auto expected = by_definition(t);
          for_each_target([&] {
            for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
              EXPECT_TRUE(same_bytes(dequantize_packed(packed, dtype), expected.to(dtype)))
                  << size.rows << " x " << size.cols << ", " << bits << " bits";
            }
          });
        }
      }
    }
  }
}

TEST(PackedAffine, UnpacksToWhatWasPackedAndTakesHalfAByte) {
  torch::manual_seed(2);
  for (const bool reordered : {false, true}) {
    const AffineTensor t = random_affine({16, 256, 2}, 4, ScaleType::kF16, reordered);
    const PackedAffine packed = pack_affine(t);
    EXPECT_EQ(packed.size_bytes(), 16 * 128 + 16 * 2 * 3 + (reordered ? 4 * 256 : 0));
    const AffineTensor back = unpack_affine(packed);
    EXPECT_TRUE(torch::equal(back.codes, t.codes));
    EXPECT_TRUE(torch::equal(back.scales, t.scales));
    EXPECT_TRUE(torch::equal(back.zeros, t.zeros));
    EXPECT_EQ(back.group_of.defined(), reordered);
    EXPECT_EQ(back.options.scale_type, ScaleType::kF16);
    EXPECT_EQ(back.options.group_size, 128);
  }
}

TEST(PackedAffine, ThreadsChangeNothing) {
  torch::manual_seed(3);
  const PackedAffine packed = pack_affine(random_affine({700, 256, 2}, 4, ScaleType::kF16, true));
  const int threads = thread_count();
  set_thread_count(1);
  const auto one = dequantize_packed(packed, torch::kBFloat16);
  set_thread_count(3);
  EXPECT_TRUE(same_bytes(dequantize_packed(packed, torch::kBFloat16), one));
  EXPECT_EQ(pack_affine(unpack_affine(packed)).codes.equal(packed.codes), true);
  set_thread_count(threads);
}

TEST(PackedAffine, PartsThatDoNotFitAreRefused) {
  const AffineTensor good = random_affine({4, 32, 2}, 4, ScaleType::kF16, false);
  AffineTensor t = good;
  t.codes = torch::Tensor();
  EXPECT_THROW(pack_affine(t), ShapeError);
  t = good;
  t.zeros = torch::zeros({4, 3}, torch::kUInt8);
  EXPECT_THROW(pack_affine(t), ShapeError);
  t = good;
  t.scales = torch::ones({4, 3});
  t.zeros = torch::zeros({4, 3}, torch::kUInt8);
  EXPECT_THROW(pack_affine(t), ShapeError);
  t = good;
  t.scales = t.scales.to(torch::kFloat16);
  EXPECT_THROW(pack_affine(t), ValueError);
  t = good;
  t.codes = t.codes.to(torch::kMeta);
  EXPECT_THROW(pack_affine(t), DeviceError);
  t = good;
  t.group_of = torch::zeros({31}, torch::kInt32);
  EXPECT_THROW(pack_affine(t), ShapeError);
  t.group_of = torch::full({32}, 2, torch::kInt32);
  EXPECT_THROW(pack_affine(t), ValueError);
  t = good;
  t.codes = torch::full({4, 32}, 16, torch::kUInt8);
  EXPECT_THROW(pack_affine(t), ValueError);
  const PackedAffine packed = pack_affine(good);
  EXPECT_THROW(dequantize_packed_into(packed, torch::empty({4, 31})), ShapeError);
  EXPECT_THROW(dequantize_packed(packed, torch::kFloat64), ValueError);
  EXPECT_THROW(dequantize_packed_into(packed, torch::empty({4, 32}, torch::kMeta)), DeviceError);
}

}  // namespace
}  // namespace qlora::quant
