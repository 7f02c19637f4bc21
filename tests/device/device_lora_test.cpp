// The linear on a device: codes, tiles, dropout, the sum of base, adapter and bias.
#include <ATen/ops/randint.h>
#include <ATen/ops/randn.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "core/error.h"
#include "lora/lora_linear.h"
#include "lora/tiled_weight.h"
#include "lora/weight_device.h"
#include "lora/weight_product.h"
#include "quant/affine.h"
#include "tests/device/compare.h"
#include "tests/support/errors.h"

namespace qlora::lora {
namespace {

using emulation::Operation;
using emulation::OperationKind;
using testing::expect_same;
using testing::kDevice;
using testing::relative_error;
using torch::Tensor;

/// Of products whose tiles round their sums once each: a sum of 60 to 100 terms in f32, one or two
/// more roundings of a half.
double bound_of(torch::ScalarType dtype) {
  return testing::rounding_bound(dtype, 2);
}

/// A weight [96, 64] in each form that a base may have.
std::vector<std::pair<std::string, FrozenWeight>> forms() {
  at::manual_seed(3);
  const Tensor w = at::randn({96, 64}) * 0.1;
  const auto affine = quant::quantize_affine(w, {.bits = 4, .group_size = 32});
  return {{"dense", FrozenWeight(w)},
          {"nf4", FrozenWeight(quant::quantize_nf4(w))},
          {"nf4, plain scales", FrozenWeight(quant::quantize_nf4(w, {.double_quant = false}))},
          {"packed", FrozenWeight(quant::pack_affine(affine))},
          {"fp8",
           FrozenWeight(quant::quantize_fp8(w, quant::Fp8Scaling::kRow, quant::ScaleType::kF16))}};
}

class DeviceLora : public testing::DeviceTest {};

TEST_F(DeviceLora, WeightsMoveAndDecodeToTheSameNumbers) {
  for (const auto& [name, weight] : forms()) {
    const FrozenWeight there = moved_to(weight, kDevice);
    EXPECT_EQ(device_of(weight), torch::Device(torch::kCPU));
    EXPECT_EQ(device_of(there), kDevice) << name;
    EXPECT_EQ(there.bytes(), weight.bytes());
    for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
      const Tensor decoded = there.dense(dtype);
      EXPECT_EQ(decoded.device(), kDevice);
      SCOPED_TRACE(name);
      expect_same(decoded, weight.dense(dtype));
    }
  }
}

TEST_F(DeviceLora, NumbersAreQuantizedThereAsHere) {
  at::manual_seed(4);
  const Tensor w = at::randn({40, 60});
  const auto here = quant::quantize_nf4(w), there = quant::quantize_nf4(w.to(kDevice));
  expect_same(there.codes, here.codes);
  expect_same(there.absmax_codes, here.absmax_codes);
  expect_same(there.nested_absmax, here.nested_absmax);
  EXPECT_EQ(there.offset, here.offset);
}

TEST_F(DeviceLora, ProductsWithEveryFormAreThoseOfTheCpu) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    const Tensor x = at::randn({7, 64}).to(dtype), dy = at::randn({7, 96}).to(dtype);
    const Tensor to_y = at::randn({7, 96}).to(dtype), to_x = at::randn({7, 64}).to(dtype);
    for (const auto& [name, weight] : forms()) {
      SCOPED_TRACE(name + " in " + c10::toString(dtype));
      const FrozenWeight there = moved_to(weight, kDevice);
      EXPECT_LE(relative_error(weight_product(x.to(kDevice), there), weight_product(x, weight)),
                bound_of(dtype));
      EXPECT_LE(relative_error(weight_gradient(dy.to(kDevice), there), weight_gradient(dy, weight)),
                bound_of(dtype));
      const Tensor y = to_y.clone(), dx = to_x.clone();
      const Tensor y_there = to_y.to(kDevice), dx_there = to_x.to(kDevice);
      add_weight_product(y, x, weight);
      add_weight_product(y_there, x.to(kDevice), there);
      EXPECT_LE(relative_error(y_there, y), bound_of(dtype));
      add_weight_gradient(dx, dy, weight);
      add_weight_gradient(dx_there, dy.to(kDevice), there);
      EXPECT_LE(relative_error(dx_there, dx), bound_of(dtype));
    }
  }
}

// A generated token's product: straight from the codes, no tile.
TEST_F(DeviceLora, ProductsOfFewTokensAreThoseOfTheCpu) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    for (const int64_t tokens : {1, 2, 4, 5}) {
      const Tensor x = at::randn({tokens, 64}).to(dtype), to_y = at::randn({tokens, 96}).to(dtype);
      for (const auto& [name, weight] : forms()) {
        SCOPED_TRACE(fmt::format("{} in {}, {} tokens", name, c10::toString(dtype), tokens));
        const FrozenWeight there = moved_to(weight, kDevice);
        EXPECT_LE(relative_error(weight_product(x.to(kDevice), there), weight_product(x, weight)),
                  bound_of(dtype));
        const Tensor y = to_y.clone(), y_there = to_y.to(kDevice);
        add_weight_product(y, x, weight);
        add_weight_product(y_there, x.to(kDevice), there);
        EXPECT_LE(relative_error(y_there, y), bound_of(dtype));
      }
    }
  }
}

// Six tiles of 16 rows in two buffers. Streams run in a random order where nothing orders them, and
// memory that is given back is filled with NaN.
TEST_F(DeviceLora, ManyTilesGiveOneProductInEveryOrderOfStreams) {
  const auto all = forms();
  const Tensor x = at::randn({5, 64}), dy = at::randn({5, 96});
  for (uint64_t seed = 1; seed <= 6; ++seed) {
    testing::set_order(seed);
    TiledWeight tiles(kDevice, 2 * 16 * 64 * 4);
    for (const auto& [name, weight] : all) {
      if (!weight.is_quantized()) continue;
      SCOPED_TRACE(name);
      const FrozenWeight there = moved_to(weight, kDevice);
      Tensor y = at::empty({5, 96}, torch::TensorOptions(kDevice));
      Tensor dx = at::empty({5, 64}, torch::TensorOptions(kDevice));
      tiles.product(y, x.to(kDevice), there, Sum::kBegins);
      tiles.gradient(dx, dy.to(kDevice), there, Sum::kBegins);
      EXPECT_LE(relative_error(y, weight_product(x, weight)), 1e-6);
      EXPECT_LE(relative_error(dx, weight_gradient(dy, weight)), 1e-6);
      tiles.product(y, x.to(kDevice), there, Sum::kGoesOn);
      tiles.gradient(dx, dy.to(kDevice), there, Sum::kGoesOn);
      EXPECT_LE(relative_error(y, 2 * weight_product(x, weight)), 1e-6);
      EXPECT_LE(relative_error(dx, 2 * weight_gradient(dy, weight)), 1e-6);
    }
  }
}

TEST_F(DeviceLora, TilesAreDecodedOnAStreamOfTheirOwn) {
  auto* const device = testing::open_torch_device();
  if (device == nullptr) GTEST_SKIP() << "only the emulation tells what ran";
  const FrozenWeight weight = moved_to(forms()[1].second, kDevice);
  TiledWeight tiles(kDevice, 2 * 16 * 64 * 4);
  const Tensor x = at::randn({5, 64}).to(kDevice), y = at::empty({5, 96}, x.options());
  device->clear_operations();
  tiles.product(y, x, weight, Sum::kBegins);
  y.cpu();
  const auto log = device->operations();
  const auto is_decode = [](const Operation& o) {
    return o.kind == OperationKind::kKernel && o.name.find("dequantize_nf4") != std::string::npos;
  };
  EXPECT_EQ(std::ranges::count_if(log, is_decode), 6);
  for (const Operation& o : log) {
    if (is_decode(o)) {
      EXPECT_NE(o.stream, 0);
    }
  }
}

TEST_F(DeviceLora, DropoutDropsTheSameElements) {
  for (const auto dtype : {torch::kFloat32, torch::kFloat16, torch::kBFloat16}) {
    const Tensor x = at::randn({13, 21}).to(dtype);
    const DropoutKey key{.training = true, .seed = 5, .draw = 2};
    expect_same(dropout(x.to(kDevice), 0.3, key, 77), dropout(x, 0.3, key, 77));
  }
}

struct Sides {
  LoraLinear here, there;
};

/// One linear on the CPU and on the device.
Sides sides(const FrozenWeight& weight, bool adapted, bool biased, double dropped) {
  at::manual_seed(8);
  const Tensor bias = biased ? at::randn({96}) : Tensor();
  const auto on = [&](torch::Device device) {
    return LoraLinear("layer.q_proj", moved_to(weight, device), biased ? bias.to(device) : bias);
  };
  Sides s{on(torch::kCPU), on(kDevice)};
  if (!adapted) return s;
  const Tensor a = at::randn({4, 64}), b = at::randn({96, 4});
  const auto adapter = [&](torch::Device device) {
    return Adapter{.a = a.clone().to(device).requires_grad_(true),
                   .b = b.clone().to(device).requires_grad_(true),
                   .alpha = 8,
                   .scale = 2,
                   .dropout = dropped,
                   .dtype = torch::kFloat32};
  };
  s.here.set_adapter(adapter(torch::kCPU));
  s.there.set_adapter(adapter(kDevice));
  return s;
}

TEST_F(DeviceLora, TheLinearAndItsGradientsAreThoseOfTheCpu) {
  const DropoutKey key{.training = true, .seed = 5, .draw = 1};
  for (const auto& [name, weight] : forms()) {
    for (const auto dtype : {torch::kFloat32, torch::kBFloat16}) {
      for (const bool adapted : {false, true}) {
        for (const bool wide_out : {false, true}) {
          SCOPED_TRACE(name + (adapted ? ", adapted " : " ") + c10::toString(dtype));
          const Sides s = sides(weight, adapted, /*biased=*/wide_out, 0.2);
          const Tensor x = at::randn({6, 64}).to(dtype), dy = at::randn({6, 96});
          const auto out = wide_out ? torch::kFloat32 : dtype;
          const auto run = [&](const LoraLinear& linear, torch::Device device) {
            Tensor input = x.to(device).detach().requires_grad_(true);
            const Tensor y = linear.forward(input, out, key);
            torch::autograd::backward({y}, {dy.to(device).to(out)});
            return std::vector<Tensor>{y, input.grad()};
          };
          const auto here = run(s.here, torch::kCPU), there = run(s.there, kDevice);
          EXPECT_EQ(there[0].device(), kDevice);
          for (size_t i = 0; i < here.size(); ++i) {
            EXPECT_LE(relative_error(there[i], here[i]), bound_of(dtype)) << i;
          }
          if (!adapted) continue;
          const auto &mine = *s.here.adapter(), &its = *s.there.adapter();
          EXPECT_LE(relative_error(its.a.grad(), mine.a.grad()), bound_of(dtype));
          EXPECT_LE(relative_error(its.b.grad(), mine.b.grad()), bound_of(dtype));
        }
      }
    }
  }
}

TEST_F(DeviceLora, TensorsOnTwoDevicesAreRefusedByName) {
  const FrozenWeight weight = moved_to(forms()[1].second, kDevice);
  const Tensor x = at::randn({5, 64});
  EXPECT_ERROR(DeviceError, weight_product(x, weight), "a weight on cuda:0 is multiplied");
  EXPECT_ERROR(DeviceError, weight_gradient(at::randn({5, 96}), weight), "numbers on cpu");
  EXPECT_ERROR(ShapeError, weight_product(at::randn({5, 63}), weight), "allowed [T, 64]");
  const LoraLinear linear("q_proj", weight, at::randn({96}));
  EXPECT_ERROR(DeviceError, linear.forward(x.to(kDevice), torch::kFloat32, {}),
               "tensors lie on cuda:0 and cpu");
}

TEST_F(DeviceLora, MemoryForTilesIsChecked) {
  EXPECT_ERROR(ValueError, TiledWeight(kDevice, 511), "511 bytes");
}

}  // namespace
}  // namespace qlora::lora
