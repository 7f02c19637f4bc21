#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "core/host_device.h"

namespace qlora::quant {

/// out[n, k] = scale(n, g) · (code(n, k) - zero(n, g)); g = group_of[k], or k / group_size.
///   Numerics  bit-exact between back ends; f16 and bf16 are rounded once, to nearest even
struct PackedAffineArgs {
  const uint8_t* codes;  // [rows, row_bytes]
  int64_t row_bytes;     // ceil(cols / 2), or cols
  bool two_a_byte;       // the even column in the low nibble
  const void* scales;    // [rows, groups]
  FloatKind scale_kind;
  const uint8_t* zeros;     // [rows, groups]
  const int32_t* group_of;  // [cols], each in [0, groups), or null
  int64_t rows;
  int64_t cols;
  int64_t groups;
  int64_t group_size;  // cols / groups where group_of is null
  void* out;           // [rows, cols]
  FloatKind out_kind;
  void* stream = nullptr;  // cudaStream_t
};

/// Code of one column of a row.
QLORA_HD uint8_t packed_code(const uint8_t* row, int64_t col, bool two_a_byte) {
  if (!two_a_byte) return row[col];
  return col % 2 == 0 ? row[col / 2] & 15 : row[col / 2] >> 4;
}

namespace cpu {
void dequantize_packed(const PackedAffineArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void dequantize_packed(const PackedAffineArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
