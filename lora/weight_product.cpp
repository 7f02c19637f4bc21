#include "lora/weight_product.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>

#include "core/error.h"
#include "lora/product.h"
#include "lora/tiled_weight.h"
#include "lora/weight_device.h"
#include "quant/gemv.h"

namespace qlora::lora {
namespace {

using torch::Tensor;

void check_fit(const Tensor& x, int64_t width, const FrozenWeight& weight) {
  QLORA_CHECK(x.dim() == 2 && x.size(1) == width, ShapeError,
              "[lora] a weight [{}, {}] is multiplied with {}, allowed [T, {}]", weight.rows(),
              weight.cols(), c10::str(x.sizes()), width);
  QLORA_CHECK(x.device() == device_of(weight), DeviceError,
              "[lora] a weight on {} is multiplied with numbers on {}, allowed one device; move "
              "them together",
              device_of(weight).str(), x.device().str());
}

/// Codes on a device: decoded tile by tile.
bool is_tiled(const Tensor& x, const FrozenWeight& weight) {
  return x.is_cuda() && weight.is_quantized();
}

/// Tokens that share one reading of the codes (quant/gemv_backend.h): those of generation.
constexpr int64_t kFewTokens = 4;

/// x·Wᵀ straight from codes on a device, for few rows of x.
bool is_gemv(const Tensor& x, const FrozenWeight& weight) {
  return x.is_cuda() && x.size(0) <= kFewTokens &&
         (weight.holds<quant::Nf4Tensor>() || weight.holds<quant::PackedAffine>());
}

void gemv(const Tensor& y, const Tensor& x, const FrozenWeight& weight) {
  const Tensor rows = x.contiguous();
  if (weight.holds<quant::Nf4Tensor>()) {
    quant::gemv_into(weight.as<quant::Nf4Tensor>(), rows, y);
  } else {
    quant::gemv_into(weight.as<quant::PackedAffine>(), rows, y);
  }
}

}  // namespace

Tensor weight_product(const Tensor& x, const FrozenWeight& weight) {
  check_fit(x, weight.cols(), weight);
  if (!is_tiled(x, weight)) return product(x, weight.dense(x.scalar_type()).t());
  const Tensor y = at::empty({x.size(0), weight.rows()}, x.options());
  if (is_gemv(x, weight)) {
    gemv(y, x, weight);
  } else {
    device_tiles(x.device()).product(y, x, weight, Sum::kBegins);
  }
  return y;
}

void add_weight_product(const Tensor& sum, const Tensor& x, const FrozenWeight& weight) {
  check_fit(x, weight.cols(), weight);
  if (!is_tiled(x, weight)) return add_product(sum, x, weight.dense(x.scalar_type()).t());
  if (is_gemv(x, weight)) {
    const at::NoGradGuard no_graph;
    sum.add_(weight_product(x, weight));
    return;
  }
  device_tiles(x.device()).product(sum, x, weight, Sum::kGoesOn);
}

Tensor weight_gradient(const Tensor& dy, const FrozenWeight& weight) {
  check_fit(dy, weight.rows(), weight);
  if (!is_tiled(dy, weight)) return product(dy, weight.dense(dy.scalar_type()));
  const Tensor dx = at::empty({dy.size(0), weight.cols()}, dy.options());
  device_tiles(dy.device()).gradient(dx, dy, weight, Sum::kBegins);
  return dx;
}

void add_weight_gradient(const Tensor& sum, const Tensor& dy, const FrozenWeight& weight) {
  check_fit(dy, weight.rows(), weight);
  if (!is_tiled(dy, weight)) return add_product(sum, dy, weight.dense(dy.scalar_type()));
  device_tiles(dy.device()).gradient(sum, dy, weight, Sum::kGoesOn);
}

}  // namespace qlora::lora
