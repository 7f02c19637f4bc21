#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "quant/blockwise8_math.h"

namespace qlora::quant {

/// Value of `first_bad_block` before a call, and after it where all elements were finite.
inline constexpr int64_t kNoBadBlock = INT64_MAX;

/// 8-bit codes and absmax of flat blocks.
///   Numerics  bit-exact between back ends
///   Threads   a call on few blocks stays on the calling thread (the optimizer calls it per block)
struct Blockwise8QuantArgs {
  const void* in;  // [count]
  FloatKind in_kind;
  int64_t count;
  int64_t block_size;
  DynamicMap map;
  SignRule sign_rule;
  uint8_t* codes;            // [count]
  float* absmax;             // [ceil(count / block_size)]
  int64_t* first_bad_block;  // lowered to the first block with NaN or infinity: its absmax is 0
  void* stream = nullptr;    // cudaStream_t
};

/// out[i] = level(codes[i]) * absmax[i / block_size]
///   Numerics  bit-exact between back ends; f16 and bf16 are rounded once, to nearest even
struct Blockwise8DequantArgs {
  const uint8_t* codes;  // [count]
  const float* absmax;   // [ceil(count / block_size)]
  int64_t count;
  int64_t block_size;
  DynamicMap map;
  void* out;  // [count]
  FloatKind out_kind;
  void* stream = nullptr;
};

namespace cpu {
void quantize_blockwise8(const Blockwise8QuantArgs& args);
void dequantize_blockwise8(const Blockwise8DequantArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void quantize_blockwise8(const Blockwise8QuantArgs& args);
void dequantize_blockwise8(const Blockwise8DequantArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
