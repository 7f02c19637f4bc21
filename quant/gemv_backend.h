#pragma once

#include <cstdint>

#include "core/float_kind.h"
#include "core/host_device.h"
#include "quant/nf4_math.h"
#include "quant/packed_affine_backend.h"

namespace qlora::quant {

// y[t, n] = Σ_k w[n, k]·x[t, k] for few tokens, from the codes: what a generated token asks of a
// linear. The weight is read once per four tokens, and no decoded weight is written anywhere.
//   Numerics  bounded: products and sums are FP32, at most gemv_roundings(cols) roundings on the
//   way
//             of any term (docs/numerics.md, quant); y is rounded once

/// Most roundings between a product w·x and y: a chain of at most cols / 8 additions, and what
/// joins the chains.
QLORA_HD int64_t gemv_roundings(int64_t cols) {
  return cols / 8 + 64;
}

/// x and y of a product.
struct GemvVectors {
  const void* x;  // [tokens, cols] of kind
  void* y;        // [tokens, rows] of kind
  int64_t tokens;
  FloatKind kind;
};

/// An NF4 or FP4 matrix: w = level(code) · scale(block), blocks over the flat matrix.
struct Nf4GemvArgs {
  const uint8_t* codes;  // [ceil(rows · cols / 2)]
  Nf4Scales scales;
  FourBitType type;
  int64_t block_size;  // a power of two
  int64_t rows;
  int64_t cols;
  GemvVectors vectors;
  void* stream = nullptr;  // cudaStream_t
};

/// The program's own packed form (4 or 8 bits): w = scale · (code - zero); groups may be reordered.
struct PackedGemvArgs {
  PackedAffineArgs weight;  // out, out_kind and stream are not read
  GemvVectors vectors;
  void* stream = nullptr;
};

/// How 4-bit codes lie in 32-bit words.
enum class WordLayout {
  kGptq,  // words [cols / 8, rows]: eight columns of a row; zeros [groups, rows / 8] in order
  kAwq,   // words [cols, rows / 8]: eight rows, zeros alike, in AWQ's order of nibbles
};

/// A matrix in the words of a checkpoint: w[n, k] = scale[g, n] · (code - zero[g, n]),
/// g = group_of[k], or k / group_size.
struct WordGemvArgs {
  WordLayout layout;
  const uint32_t* words;
  const uint32_t* zeros;
  bool zeros_less_one;  // GPTQ v1: one is added to every zero point, modulo 16
  const void* scales;   // [groups, rows]
  FloatKind scale_kind;
  const int32_t* group_of;  // [cols], each in [0, groups), or null
  int64_t rows;             // a multiple of 8
  int64_t cols;             // kGptq: a multiple of 8
  int64_t groups;
  int64_t group_size;  // where group_of is null
  GemvVectors vectors;
  int64_t splits = 1;        // parts of the columns that are summed apart, for more blocks
  float* partial = nullptr;  // [splits, tokens, rows] where splits > 1
  void* stream = nullptr;
};

/// Splits that keep a device with so many multiprocessors busy, three blocks on each: the fewest
/// with which the last round of blocks leaves the least idle, as far as the columns suffice.
int64_t word_gemv_splits(WordLayout layout, int64_t rows, int64_t cols, int multiprocessors);

namespace cpu {
void gemv_nf4(const Nf4GemvArgs& args);
void gemv_packed(const PackedGemvArgs& args);
void gemv_words(const WordGemvArgs& args);
}  // namespace cpu

/// Pointers are device memory. All work is queued on args.stream; nothing waits for it.
namespace cuda {
void gemv_nf4(const Nf4GemvArgs& args);
void gemv_packed(const PackedGemvArgs& args);
void gemv_words(const WordGemvArgs& args);
}  // namespace cuda

}  // namespace qlora::quant
