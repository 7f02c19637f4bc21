#pragma once

#include <cstdint>

#include "core/float_kind.h"

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

namespace cpu {
void dequantize_fp8(const Fp8DequantArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void dequantize_fp8(const Fp8DequantArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
