#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "quant/blockwise8_backend.h"
#include "quant/nf4_math.h"

namespace qlora::quant {

/// out[i - begin] = level(code i) * scale(i / block_size) for i in [begin, begin + count).
///   Numerics  bit-exact between back ends; f16 and bf16 are rounded once, to nearest even
struct Nf4DequantArgs {
  const uint8_t* codes;  // of the whole matrix
  Nf4Scales scales;
  FourBitType type;
  int64_t block_size;  // a power of two
  int64_t begin;
  int64_t count;
  void* out;  // [count]
  FloatKind out_kind;
  void* stream = nullptr;  // cudaStream_t
};

/// Codes and absmax of flat blocks; the last byte of an odd count is padded with the code of 0.
///   Numerics  bit-exact between back ends
struct Nf4QuantArgs {
  const void* in;  // [count]
  FloatKind in_kind;
  int64_t count;
  int64_t block_size;  // a power of two
  FourBitType type;
  uint8_t* codes;            // [ceil(count / 2)]
  float* absmax;             // [ceil(count / block_size)]
  int64_t* first_bad_block;  // lowered to the first block with NaN or infinity; its codes are 0
  void* stream = nullptr;
};

/// Mean of values in the fixed order of sum_group, in double, rounded to float at the end.
struct MeanArgs {
  const float* values;  // [count]
  int64_t count;
  double* scratch;  // [mean_scratch_size(count)]
  float* mean;      // [1]
  void* stream = nullptr;
};

/// Doubles that a mean of `count` values needs: the sums of all its groups and of theirs.
QLORA_HD int64_t mean_scratch_size(int64_t count) {
  int64_t size = 0;
  do {
    count = (count + kSumGroup - 1) / kSumGroup;
    size += count;
  } while (count > 1);
  return size;
}

namespace cpu {
void dequantize_nf4(const Nf4DequantArgs& args);
void quantize_nf4(const Nf4QuantArgs& args);
void mean(const MeanArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void dequantize_nf4(const Nf4DequantArgs& args);
void quantize_nf4(const Nf4QuantArgs& args);
void mean(const MeanArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
