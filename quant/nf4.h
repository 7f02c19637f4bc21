#pragma once

#include <torch/types.h>

#include <array>
#include <cstdint>
#include <map>
#include <string>

#include "quant/nf4_options.h"

namespace qlora::quant {

using TensorMap = std::map<std::string, torch::Tensor>;

/// A weight matrix [N, K] as 4-bit codes with one scale per G consecutive elements of the flat
/// row-major matrix (bitsandbytes' layout). Blocks cross rows where K is no multiple of G.
///   Scales    either `absmax`, or (double quantization) `absmax_codes`, `nested_absmax`, `offset`:
///             scale(b) = dynamic_level(absmax_codes[b]) * nested_absmax[b / 256] + offset
struct Nf4Tensor {
  torch::Tensor codes;          // [ceil(NK / 2)] u8: byte j holds elements 2j (high nibble), 2j + 1
  torch::Tensor absmax;         // [ceil(NK / G)] f32, or undefined
  torch::Tensor absmax_codes;   // [ceil(NK / G)] u8, or undefined
  torch::Tensor nested_absmax;  // [ceil(NK / (256 G))] f32, or undefined
  float offset = 0;             // mean of the absmax before they were quantized

  std::array<int64_t, 2> shape = {0, 0};  // N, K
  int64_t block_size = 64;                // G
  FourBitType quant_type = FourBitType::kNf4;
  torch::ScalarType source_dtype = torch::kFloat32;  // of the matrix that was quantized

  int64_t rows() const { return shape[0]; }
  int64_t cols() const { return shape[1]; }
  int64_t numel() const { return shape[0] * shape[1]; }
  bool is_double_quantized() const { return absmax_codes.defined(); }
  bool is_cuda() const { return codes.is_cuda(); }
  torch::Device device() const { return codes.device(); }
  int64_t size_bytes() const;  // of codes and scales together

  Nf4Tensor to(torch::Device device) const;

  /// The tensors of a bitsandbytes checkpoint: `name`, `name`.absmax, `name`.quant_map,
  /// `name`.nested_absmax, `name`.nested_quant_map, `name`.quant_state.bitsandbytes__nf4 (or fp4).
  /// Codes and scales are shared, not copied.
  TensorMap to_tensors(const std::string& name) const;

  /// Reverse of to_tensors; reads files made by bitsandbytes too. Tensors are shared, not copied.
  ///   tensors   may hold more than this weight's; contiguous
  ///   throws    FormatError where one is missing or does not fit its state (shapes, types, block
  ///             sizes, quantization maps), or where a scale is not finite
  static Nf4Tensor from_tensors(const std::string& name, const TensorMap& tensors);
};

/// Quantizes a weight matrix: 4-bit codes, 8-bit block scales where options.double_quant is set.
///   weight    [N, K] f32, f16 or bf16, CPU or CUDA, any strides; not changed
///   returns   on the device of weight; equal to bitsandbytes' on the CPU bit for bit but for
///             `offset`, which is summed in one fixed order (docs/numerics.md)
///   throws    ShapeError if empty or not 2-D; ValueError if an element is not finite (with its
///             row and column) or the type is none of the three; ConfigError for block_size
///   cost      reads weight once; the result takes 0.52 bytes per weight at block size 64
Nf4Tensor quantize_nf4(const torch::Tensor& weight, const Nf4Options& options = {});

/// w[i] = level(code i) * scale(i / G), rounded once, to nearest even, where dtype is f16 or bf16.
///   dtype     torch::kFloat32, kFloat16 or kBFloat16
///   returns   [N, K] on the device of t
torch::Tensor dequantize_nf4(const Nf4Tensor& t, torch::ScalarType dtype);

/// Same into memory that is already there: the hot path's reused tile.
///   out       contiguous, N*K elements (any shape), f32, f16 or bf16, on the device of t
///   throws    ShapeError, ValueError (type), DeviceError (another device)
///   cost      no allocation; reads 0.52 bytes and writes one element per weight
void dequantize_nf4_into(const Nf4Tensor& t, const torch::Tensor& out);

/// Rows [row_begin, row_begin + row_count) only.
///   out       contiguous, row_count*K elements
void dequantize_nf4_rows_into(const Nf4Tensor& t, int64_t row_begin, int64_t row_count,
                              const torch::Tensor& out);

}  // namespace qlora::quant
