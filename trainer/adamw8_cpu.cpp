#include <algorithm>
#include <cassert>

#include "quant/blockwise8_backend.h"
#include "trainer/adamw32_backend.h"
#include "trainer/adamw8_backend.h"
#include "trainer/tensor_ranges.h"

namespace qlora::trainer {
namespace {

constexpr int64_t kChunk = 2 * kAdamwBlock;  // states in work: 4 kB, beside the code tables

void decode(const uint8_t* codes, const float* absmax, int64_t count, quant::DynamicMap map,
            float* out) {
  quant::cpu::dequantize_blockwise8({.codes = codes,
                                     .absmax = absmax,
                                     .count = count,
                                     .block_size = kAdamwBlock,
                                     .map = map,
                                     .out = out,
                                     .out_kind = FloatKind::kF32});
}

void encode(const float* in, int64_t count, quant::DynamicMap map, quant::SignRule rule,
            uint8_t* codes, float* absmax) {
  int64_t bad_block = quant::kNoBadBlock;
  quant::cpu::quantize_blockwise8({.in = in,
                                   .in_kind = FloatKind::kF32,
                                   .count = count,
                                   .block_size = kAdamwBlock,
                                   .map = map,
                                   .sign_rule = rule,
                                   .codes = codes,
                                   .absmax = absmax,
                                   .first_bad_block = &bad_block});
  assert(bad_block == quant::kNoBadBlock && "gradients beyond kHighestNorm are never applied");
}

/// Elements [first, first + count) of one tensor.
void update(const Adamw8Tensor& t, int64_t first, int64_t count, const AdamwStep& step) {
  using quant::DynamicMap, quant::SignRule;
  float mean[kChunk];
  float square[kChunk];
  float* mean_absmax = t.mean_absmax + first / kAdamwBlock;
  float* square_absmax = t.square_absmax + first / kAdamwBlock;
  decode(t.mean_codes + first, mean_absmax, count, DynamicMap::kSigned, mean);
  decode(t.square_codes + first, square_absmax, count, DynamicMap::kUnsigned, square);
  cpu::adamw32_range({.parameter = t.parameter + first,
                      .gradient = t.gradient + first,
                      .mean = mean,
                      .square = square,
                      .count = count},
                     0, count, step);
  encode(mean, count, DynamicMap::kSigned, SignRule::kKeep, t.mean_codes + first, mean_absmax);
  encode(square, count, DynamicMap::kUnsigned, SignRule::kNearest, t.square_codes + first,
         square_absmax);
}

void update_range(const Adamw8Tensor& t, int64_t begin, int64_t end, const AdamwStep& step) {
  for (int64_t first = begin; first < end; first += kChunk) {
    update(t, first, std::min(kChunk, end - first), step);
  }
}

}  // namespace

void cpu::adamw8_run(const Adamw8Tensor& tensor, const AdamwStep& step) {
  update_range(tensor, 0, tensor.count, step);
}

void cpu::adamw8(const Adamw8Args& args) {
  parallel_over_blocks(args.tensors, kAdamwBlock, 64,
                       [&](const Adamw8Tensor& tensor, int64_t begin, int64_t end) {
                         update_range(tensor, begin, end, args.step);
                       });
}

}  // namespace qlora::trainer
