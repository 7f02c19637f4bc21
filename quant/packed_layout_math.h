#pragma once

#include <cstdint>

#include "core/host_device.h"

namespace qlora::quant {

/// Words that a little-endian stream of `count` numbers of `bits` bits takes.
QLORA_HD int64_t stream_words(int64_t count, int64_t bits) {
  return count / 32 * bits + (count % 32 * bits + 31) / 32;
}

/// Where number `index` of a little-endian bit stream over 32-bit words lies: number k takes the
/// bits [k·bits, (k + 1)·bits). At 3 bits the numbers 10 and 21 of every 32 straddle two words.
///   Range     bits in [1, 32]
///   Source    the form that GPTQ, compressed-tensors and their readers share
struct StreamSlot {
  int64_t word;
  int32_t shift;     // of the number's low bits in `word`
  int32_t low_bits;  // bits that lie in `word`; the others start word + 1
};

QLORA_HD StreamSlot stream_slot(int64_t index, int64_t bits) {
  const auto bit = static_cast<int32_t>(index % 32 * bits);  // within a run of 32 numbers
  const int32_t shift = bit % 32, room = 32 - shift;
  return {index / 32 * bits + bit / 32, shift,
          room < static_cast<int32_t>(bits) ? room : static_cast<int32_t>(bits)};
}

/// Number `index` of a stream whose word w is words[w * stride].
QLORA_HD uint32_t read_stream(const uint32_t* words, int64_t stride, int64_t index, int64_t bits) {
  const StreamSlot s = stream_slot(index, bits);
  const auto mask = static_cast<uint32_t>((uint64_t{1} << bits) - 1);
  uint32_t value = words[s.word * stride] >> s.shift;
  if (s.low_bits < bits) value |= words[(s.word + 1) * stride] << s.low_bits;
  return value & mask;
}

/// Sets number `index`, whose bits have to be 0 before.
QLORA_HD void write_stream(uint32_t* words, int64_t stride, int64_t index, int64_t bits,
                           uint32_t value) {
  const StreamSlot s = stream_slot(index, bits);
  words[s.word * stride] |= value << s.shift;
  if (s.low_bits < bits) words[(s.word + 1) * stride] |= value >> s.low_bits;
}

/// Word `word` of a stream whose numbers are all 1: what GPTQ v1 subtracts from its zero points.
/// Added to a whole word as its readers do, so that a borrow of the writer's is undone exactly.
QLORA_HD uint32_t stream_of_ones(int64_t word, int64_t bits) {
  const int64_t first = word * 32;
  uint32_t ones = 0;
  for (int64_t bit = 0; bit < 32; ++bit) {
    if ((first + bit) % bits == 0) ones |= uint32_t{1} << bit;
  }
  return ones;
}

/// AWQ's GEMM form: 8 columns share a word, the even ones in its low half.
///   Source    Lin et al., AWQ, arXiv:2306.00978 (gemm kernels)
QLORA_HD int awq_column(int nibble) {
  return nibble < 4 ? 2 * nibble : 2 * nibble - 7;
}

/// Reverse: the nibble that holds column `column` of 8.
QLORA_HD int awq_nibble(int column) {
  return column % 2 == 0 ? column / 2 : column / 2 + 4;
}

}  // namespace qlora::quant
