#pragma once

#include <torch/types.h>

#include <cstdint>

#include "quant/affine.h"

namespace qlora::quant {

/// An affine weight matrix [N, K] as it is held in memory and decoded for each product:
/// w[n, k] = scales[n, g] · (code(n, k) - zeros[n, g]),  g = group_of[k], or a run of columns.
///   Memory    2, 3 and 4 bits take half a byte an element, 8 bits a byte; 4.19 bits per weight at
///             4 bits and groups of 128
struct PackedAffine {
  torch::Tensor codes;     // [N, ceil(K / 2)] u8: byte j of a row holds columns 2j (low nibble) and
                           // 2j + 1; at 8 bits [N, K]
  torch::Tensor scales;    // [N, groups] f16, bf16 or f32, as the file has them
  torch::Tensor zeros;     // [N, groups] u8
  torch::Tensor group_of;  // [K] i32, or undefined
  int64_t columns = 0;     // K
  int64_t bits = 4;

  int64_t rows() const { return codes.size(0); }
  int64_t cols() const { return columns; }
  int64_t groups() const { return scales.size(1); }
  bool is_cuda() const { return codes.is_cuda(); }
  int64_t size_bytes() const;
};

/// Two codes a byte. The result shares no memory with t.
///   throws    ShapeError, ValueError where the parts of t do not fit each other; DeviceError where
///             they are not on the CPU
PackedAffine pack_affine(const AffineTensor& t);

/// Reverse of pack_affine.
AffineTensor unpack_affine(const PackedAffine& t);

/// The matrix in dtype, rounded once.  [N, K]
torch::Tensor dequantize_packed(const PackedAffine& t, torch::ScalarType dtype);

/// Same into memory that is already there: the hot path's reused tile.
///   out       contiguous, N·K elements, f32, f16 or bf16, on the device of t
///   throws    ShapeError, ValueError (type), DeviceError (another device)
void dequantize_packed_into(const PackedAffine& t, const torch::Tensor& out);

}  // namespace qlora::quant
