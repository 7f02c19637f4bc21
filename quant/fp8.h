#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine_options.h"

namespace qlora::quant {

/// A weight matrix [N, K] as E4M3 numbers: w[n, k] = scales[n or 0] · fp8(codes[n, k]).
struct Fp8Tensor {
  torch::Tensor codes;        // [N, K] u8, no NaN
  torch::Tensor scales;       // [N, 1], or [1] for the whole matrix, f32
  torch::Tensor input_scale;  // [1] f32 where an engine scales activations by it, or undefined:
                              // activations get a scale a token, absmax / 448
  ScaleType scale_type = ScaleType::kF16;  // of scales and input_scale in files

  int64_t rows() const { return codes.size(0); }
  int64_t cols() const { return codes.size(1); }
  bool per_row() const { return scales.dim() == 2; }
  int64_t size_bytes() const;
};

enum class Fp8Scaling { kTensor, kRow };

/// Rounds w / scale to the nearest E4M3 number, with scale = max|w| / 448 rounded to scale_type.
///   weight    [N, K] f32, CPU; not changed
///   throws    ShapeError if empty or not 2-D; ValueError if an element is not finite or no f32
Fp8Tensor quantize_fp8(const torch::Tensor& weight, Fp8Scaling scaling, ScaleType scale_type);

/// scales · fp8(codes).  [N, K] f32
torch::Tensor dequantize_fp8(const Fp8Tensor& t);

/// Same into memory that is already there, rounded once to its type.
///   out       contiguous, N·K elements, f32, f16 or bf16, on the device of t
void dequantize_fp8_into(const Fp8Tensor& t, const torch::Tensor& out);

}  // namespace qlora::quant
