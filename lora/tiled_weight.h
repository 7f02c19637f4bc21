#pragma once

#include <torch/types.h>

#include <cstdint>
#include <memory>

#include "lora/frozen_weight.h"
#include "quant/tiled_products_backend.h"

namespace qlora::lora {

/// Whether a product is written over what is there or added to it.
enum class Sum { kBegins, kGoesOn };

/// Products with the codes of a frozen weight on a CUDA device: libtorch's products (cuBLASLt) of
/// tiles that are decoded beside them (quant/tiled_products_backend.h), on libtorch's current
/// stream.
///   Memory    the two tiles, of libtorch's allocator, held for good
///   Threads   one product at a time
class TiledWeight {
 public:
  /// throws    DeviceError; ValueError for fewer than 512 bytes
  TiledWeight(torch::Device device, int64_t memory_bytes);

  /// y = x·Wᵀ, or y += x·Wᵀ.  x [T, K], y [T, N]
  void product(const torch::Tensor& y, const torch::Tensor& x, const FrozenWeight& weight, Sum sum);
  /// dx = dy·W, or dx += dy·W.  dy [T, N], dx [T, K]
  void gradient(const torch::Tensor& dx, const torch::Tensor& dy, const FrozenWeight& weight,
                Sum sum);

 private:
  void run(const FrozenWeight& weight, quant::Gemm& gemm, torch::ScalarType dtype);

  torch::Device device_;
  torch::Tensor memory_;
  std::unique_ptr<quant::TiledProducts> tiles_;
};

/// The one of a device, made when it is asked for first.
TiledWeight& device_tiles(torch::Device device);

}  // namespace qlora::lora
