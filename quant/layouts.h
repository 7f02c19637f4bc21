#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine.h"
#include "quant/fp8.h"
#include "quant/nf4.h"

namespace qlora::quant {

// The tensors that checkpoints hold for one linear, by the last part of their names ("qweight" of
// "model.layers.0.mlp.up_proj.qweight"), and back. Everything on the CPU. What is read shares no
// memory with its source, may be wrong in every respect, and is refused with a FormatError or
// ShapeError that names the tensor. docs/formats.md has the layouts bit by bit.

/// How zero points are stored: v1 subtracts one, v2 does not.
enum class GptqFormat { kV1, kV2 };

/// GPTQ: qweight i32 [K bits / 32, N], qzeros i32 [groups, N bits / 32], scales [groups, N], g_idx
/// i32 [K]. Bit streams run down the columns of qweight and along the rows of qzeros.
///   throws    ShapeError where K or N is no multiple of 32; ValueError for a zero point 0 in v1,
///             which its readers disagree about
TensorMap to_gptq(const AffineTensor& t, GptqFormat format);

/// Reverse. K and N come from qweight.
///   bits, group_size   of the checkpoint's configuration (-1: one group)
///   tensors   g_idx may be missing; runs of columns become an undefined group_of
AffineTensor from_gptq(const TensorMap& tensors, GptqFormat format, int64_t bits,
                       int64_t group_size);

/// AWQ's GEMM form, 4 bits: qweight i32 [K, N / 8], qzeros i32 [groups, N / 8], scales [groups, N].
///   throws    ShapeError where N is no multiple of 8 or groups are not runs of columns; ValueError
///             for other bits
TensorMap to_awq_gemm(const AffineTensor& t);
AffineTensor from_awq_gemm(const TensorMap& tensors, int64_t group_size);

/// compressed-tensors for integers.
enum class CompressedFormat {
  kPackQuantized,  // weight_packed i32 [N, ceil(K bits / 32)], weight_scale [N, groups],
                   // weight_shape i64 [2]; where zero points are not all 2^(bits-1)
                   // weight_zero_point i32 [ceil(N bits / 32), groups]; with group_of
                   // weight_g_idx i32 [K]
  kIntQuantized,   // weight i8 [N, K], weight_scale [N, groups], weight_zero_point i8 if needed
};

/// throws    ValueError where kIntQuantized meets other than 8 bits
TensorMap to_compressed_tensors(const AffineTensor& t, CompressedFormat format);

/// Reverse. A scale for the whole matrix ([1]) becomes one per row.
///   bits      of the checkpoint's configuration; 8 for kIntQuantized
AffineTensor from_compressed_tensors(const TensorMap& tensors, CompressedFormat format,
                                     int64_t bits);

/// compressed-tensors for E4M3 ("float-quantized"): weight f8 [N, K], weight_scale [N, 1] or [1],
/// and input_scale [1] where the activations' scale is fixed.
TensorMap to_float_quantized(const Fp8Tensor& t);
Fp8Tensor from_float_quantized(const TensorMap& tensors);

/// bitsandbytes' LLM.int8: weight i8 [N, K], SCB f32 [N] (the row's greatest |w|); w = q · SCB/127.
///   returns   8 bits, one group a row, f32 scales
AffineTensor from_llm_int8(const TensorMap& tensors);

}  // namespace qlora::quant
