#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "quant/affine_options.h"

namespace qlora::quant {

/// out[n, k] = scale(n) · fp8(codes[n, k])
///   Numerics  bit-exact between instruction sets; f16 and bf16 are rounded once, to nearest even
struct Fp8DequantArgs {
  const uint8_t* codes;  // [rows, cols]
  const float* scales;   // [rows], or [1]
  bool scale_per_row;
  int64_t rows;
  int64_t cols;
  void* out;  // [rows, cols]
  FloatKind out_kind;
  void* stream = nullptr;  // cudaStream_t
};

/// Scales max|w| / 448, rounded to their type, and E4M3 codes of w / scale; values are fake-quant:
/// what the codes stand for.
///   Numerics  bit-exact between back ends
struct Fp8QuantArgs {
  const float* weight;  // [rows, cols]
  int64_t rows;
  int64_t cols;
  bool scale_per_row;  // false: one for the matrix
  ScaleType scale_type;
  float* scales;           // [rows], or [1]
  uint8_t* codes;          // [rows, cols], or null
  float* values;           // [rows, cols], or null
  int64_t* first_bad_row;  // lowered to the first row with NaN, infinity or an infinite scale: the
                           // outputs then mean nothing
  void* stream = nullptr;
};

namespace cpu {
void quantize_fp8(const Fp8QuantArgs& args);
void dequantize_fp8(const Fp8DequantArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void quantize_fp8(const Fp8QuantArgs& args);
void dequantize_fp8(const Fp8DequantArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
