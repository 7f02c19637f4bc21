#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/blockwise8_math.h"

namespace qlora::quant {

struct Blockwise8Options {
  DynamicMap map = DynamicMap::kSigned;
  SignRule sign_rule = SignRule::kNearest;
  int64_t block_size = 256;  // elements per absmax; a power of two in [64, 4096]
};

/// A tensor as 8-bit codes of a dynamic map, with one f32 absmax per block of the flat tensor.
struct Blockwise8Tensor {
  torch::Tensor codes;   // u8, the shape of the source
  torch::Tensor absmax;  // [ceil(count / block_size)] f32
  DynamicMap map = DynamicMap::kSigned;
  int64_t block_size = 256;
};

/// Each element becomes the code of the level nearest to x * (1 / absmax), ties to the lower.
///   values    f32, f16 or bf16, CPU or CUDA, any strides; not changed
///   returns   on the device of values; absmax equals bitsandbytes' bit for bit, and so do
///             the codes where its CPU look-up of 65,536 bins takes the nearest code
///             (docs/numerics.md)
///   throws    ShapeError if empty; ValueError if an element is not finite (with its index) or the
///             type is none of the three; ConfigError for block_size
Blockwise8Tensor quantize_blockwise8(const torch::Tensor& values,
                                     const Blockwise8Options& options = {});

/// level(code) * absmax, rounded once, to nearest even, where dtype is f16 or bf16.
torch::Tensor dequantize_blockwise8(const Blockwise8Tensor& t,
                                    torch::ScalarType dtype = torch::kFloat32);

/// Same into memory that is already there.
///   out       contiguous, as many elements as codes, f32, f16 or bf16, on the device of t
///   throws    ShapeError, ValueError (type), DeviceError (another device)
void dequantize_blockwise8_into(const Blockwise8Tensor& t, const torch::Tensor& out);

}  // namespace qlora::quant
