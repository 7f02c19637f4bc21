// Products straight from codes, as tensors: shapes, types, refusals. The kernels' bounds are in
// tests/kernels.
#include "quant/gemv.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "quant/affine.h"
#include "quant/gemv_backend.h"
#include "tests/support/errors.h"

namespace qlora::quant {
namespace {

using torch::Tensor;

/// Product and sum of magnitudes in double: gemv_roundings bounds the distance from the one by the
/// other.
void expect_product(const Tensor& y, const Tensor& x, const Tensor& dense) {
  const Tensor wide = x.to(torch::kFloat64), w = dense.to(torch::kFloat64);
  const Tensor want = wide.mm(w.t()), size = wide.abs().mm(w.abs().t());
  const double unit = y.scalar_type() == torch::kFloat32   ? 0x1p-24
                      : y.scalar_type() == torch::kFloat16 ? 0x1p-11
                                                           : 0x1p-8;
  const double chain = static_cast<double>(gemv_roundings(x.size(1))) * 0x1p-24;
  const Tensor bound = size * chain + want.abs() * (2 * unit) + 0x1p-24;
  EXPECT_TRUE(((y.to(torch::kFloat64) - want).abs() <= bound).all().item<bool>());
}

TEST(Gemv, IsTheProductWithTheDecodedWeight) {
  torch::manual_seed(3);
  const Tensor w = torch::randn({24, 96}) * 0.1;
  const Nf4Tensor nf4 = quantize_nf4(w), plain = quantize_nf4(w, {.double_quant = false});
  const PackedAffine packed = pack_affine(quantize_affine(w, {.bits = 4, .group_size = 32}));
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    for (const int64_t tokens : {1, 3, 6}) {
      const Tensor x = torch::randn({tokens, 96}).to(dtype);
      const Tensor y = torch::empty({tokens, 24}, x.options());
      gemv_into(nf4, x, y);
      expect_product(y, x, dequantize_nf4(nf4, torch::kFloat32));
      gemv_into(plain, x, y);
      expect_product(y, x, dequantize_nf4(plain, torch::kFloat32));
      gemv_into(packed, x, y);
      expect_product(y, x, dequantize_packed(packed, torch::kFloat32));
    }
  }
}

TEST(Gemv, RefusesWhatDoesNotFit) {
  const Nf4Tensor w = quantize_nf4(torch::randn({24, 96}));
  const Tensor x = torch::randn({2, 96}), y = torch::empty({2, 24});
  EXPECT_ERROR(ShapeError, gemv_into(w, torch::randn({2, 95}), y), "allowed a contiguous [T, 96]");
  EXPECT_ERROR(ShapeError, gemv_into(w, torch::randn({96, 2}).t(), y), "(not contiguous)");
  EXPECT_ERROR(ShapeError, gemv_into(w, x, torch::empty({2, 23})), "tensor of 2 x 24 elements");
  EXPECT_ERROR(ValueError, gemv_into(w, x, y.to(torch::kFloat16)), "x is Float and y Half");
  EXPECT_ERROR(DeviceError, gemv_into(w, torch::empty({2, 96}, torch::kMeta), y), "x is on meta");
}

}  // namespace
}  // namespace qlora::quant
