#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "io/gguf_dequant.cpp"
#include "io/gguf_dequant.h"

#include <hwy/foreach_target.h>  // compiles this file once per instruction set
#include <hwy/highway.h>

#include <cstring>

#include "core/error.h"
#include "io/float_convert.h"

// Each function turns `blocks` blocks into floats; the layouts are those of ggml-quants.c. The
// inner loops are written so that the compiler vectorises them for every target.
HWY_BEFORE_NAMESPACE();
namespace qlora::io::HWY_NAMESPACE {

using Bytes = const uint8_t* HWY_RESTRICT;
using Out = float* HWY_RESTRICT;

HWY_INLINE float half_at(Bytes data) {
  uint16_t bits;
  std::memcpy(&bits, data, 2);
  return f16_to_f32(bits);
}

/// out[j] = scale * (nibble j + shift) + offset for the 32 nibbles of 16 bytes, low ones first.
/// `high` holds a fifth bit for each, or 0.
template <bool kOffset>
HWY_INLINE void dequantize_32(Bytes nibbles, uint32_t high, float scale, int shift, float offset,
                              Out out) {
  for (int j = 0; j < 16; ++j) {
    const int low = static_cast<int>((nibbles[j] & 15) | (high >> j & 1) << 4);
    const float product = scale * static_cast<float>(low + shift);
    out[j] = kOffset ? product + offset : product;
  }
  for (int j = 0; j < 16; ++j) {
    const int top = static_cast<int>((nibbles[j] >> 4) | (high >> (j + 16) & 1) << 4);
    const float product = scale * static_cast<float>(top + shift);
    out[j + 16] = kOffset ? product + offset : product;
  }
}

void q4_0(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 18, out += 32) {
    dequantize_32<false>(in + 2, 0, half_at(in), -8, 0.0f, out);
  }
}

void q4_1(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 20, out += 32) {
    dequantize_32<true>(in + 4, 0, half_at(in), 0, half_at(in + 2), out);
  }
}

void q5_0(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 22, out += 32) {
    uint32_t high;
    std::memcpy(&high, in + 2, 4);
    dequantize_32<false>(in + 6, high, half_at(in), -16, 0.0f, out);
  }
}

void q5_1(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 24, out += 32) {
    uint32_t high;
    std::memcpy(&high, in + 4, 4);
    dequantize_32<true>(in + 8, high, half_at(in), 0, half_at(in + 2), out);
  }
}

void q8_0(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 34, out += 32) {
    const float scale = half_at(in);
    for (int j = 0; j < 32; ++j)
      out[j] = scale * static_cast<float>(static_cast<int8_t>(in[2 + j]));
  }
}

/// Scale and minimum of sub-block j of 8: 6 bits each, packed in 12 bytes.
HWY_INLINE void scale_and_minimum(Bytes packed, int j, int* scale, int* minimum) {
  if (j < 4) {
    *scale = packed[j] & 63;
    *minimum = packed[j + 4] & 63;
  } else {
    *scale = (packed[j + 4] & 15) | (packed[j - 4] >> 6) << 4;
    *minimum = (packed[j + 4] >> 4) | (packed[j] >> 6) << 4;
  }
}

/// Q4_K and Q5_K: 8 sub-blocks of 32; byte k of pair p holds element k of sub-blocks 2p and 2p + 1,
/// and bit j of high[k] the fifth bit of element k of sub-block j.
template <bool kFifthBit>
HWY_INLINE void dequantize_k(Bytes in, Bytes high, Bytes nibbles, Out out) {
  const float scale = half_at(in), minimum = half_at(in + 2);
  for (int j = 0; j < 8; ++j, out += 32) {
    int sub_scale = 0, sub_minimum = 0;
    scale_and_minimum(in + 4, j, &sub_scale, &sub_minimum);
    const float d = scale * static_cast<float>(sub_scale);
    const float m = minimum * static_cast<float>(sub_minimum);
    const Bytes pair = nibbles + 32 * (j / 2);
    const int shift = 4 * (j % 2);
    for (int k = 0; k < 32; ++k) {
      const int fifth = kFifthBit ? (high[k] >> j & 1) << 4 : 0;
      out[k] = d * static_cast<float>((pair[k] >> shift & 15) | fifth) - m;
    }
  }
}

void q4_k(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 144, out += 256)
    dequantize_k<false>(in, in, in + 16, out);
}

void q5_k(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 176, out += 256)
    dequantize_k<true>(in, in + 16, in + 48, out);
}

/// Q6_K: 128 low nibbles bytes, 64 bytes of upper bit pairs, 16 signed scales, one half. Each half
/// of the block holds four runs of 32: low and high nibbles of two times 32 bytes.
void q6_k(Bytes in, int64_t blocks, Out out) {
  for (int64_t b = 0; b < blocks; ++b, in += 210, out += 256) {
    const float scale = half_at(in + 208);
    for (int run = 0; run < 8; ++run) {
      const Bytes nibbles = in + 64 * (run / 4) + 32 * (run % 2);
      const Bytes pairs = in + 128 + 32 * (run / 4);
      const int nibble_shift = run % 4 < 2 ? 0 : 4, pair_shift = 2 * (run % 4);
      for (int part = 0; part < 2; ++part) {
        const float d = scale * static_cast<float>(static_cast<int8_t>(in[192 + 2 * run + part]));
        for (int k = 16 * part; k < 16 * part + 16; ++k) {
          const int q = (nibbles[k] >> nibble_shift & 15) | (pairs[k] >> pair_shift & 3) << 4;
          out[32 * run + k] = d * static_cast<float>(q - 32);
        }
      }
    }
  }
}

}  // namespace qlora::io::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::io {
namespace {

HWY_EXPORT(q4_0);
HWY_EXPORT(q4_1);
HWY_EXPORT(q5_0);
HWY_EXPORT(q5_1);
HWY_EXPORT(q8_0);
HWY_EXPORT(q4_k);
HWY_EXPORT(q5_k);
HWY_EXPORT(q6_k);

}  // namespace

void dequantize_ggml(GgmlType type, const std::byte* data, int64_t count, float* out) {
  const GgmlTypeInfo& info = ggml_type_info(type);
  QLORA_CHECK(info.can_dequantize, ValueError,
              "[io] GGUF tensors of type {} are not read; F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, "
              "Q8_0, Q4_K, Q5_K "
              "and Q6_K are",
              info.name);
  QLORA_CHECK(count >= 0 && count % info.block_elements == 0, ValueError,
              "[io] {} elements of type {} are no whole blocks of {}", count, info.name,
              info.block_elements);
  const auto* in = reinterpret_cast<const uint8_t*>(data);
  const int64_t blocks = count / info.block_elements;
  switch (type) {
    case GgmlType::kF32:
      return convert_to_f32(DType::kF32, data, count, out);
    case GgmlType::kF16:
      return convert_to_f32(DType::kF16, data, count, out);
    case GgmlType::kBF16:
      return convert_to_f32(DType::kBF16, data, count, out);
    case GgmlType::kQ4_0:
      return HWY_DYNAMIC_DISPATCH(q4_0)(in, blocks, out);
    case GgmlType::kQ4_1:
      return HWY_DYNAMIC_DISPATCH(q4_1)(in, blocks, out);
    case GgmlType::kQ5_0:
      return HWY_DYNAMIC_DISPATCH(q5_0)(in, blocks, out);
    case GgmlType::kQ5_1:
      return HWY_DYNAMIC_DISPATCH(q5_1)(in, blocks, out);
    case GgmlType::kQ8_0:
      return HWY_DYNAMIC_DISPATCH(q8_0)(in, blocks, out);
    case GgmlType::kQ4_K:
      return HWY_DYNAMIC_DISPATCH(q4_k)(in, blocks, out);
    case GgmlType::kQ5_K:
      return HWY_DYNAMIC_DISPATCH(q5_k)(in, blocks, out);
    case GgmlType::kQ6_K:
      return HWY_DYNAMIC_DISPATCH(q6_k)(in, blocks, out);
  }
}

void unpermute_rope_rows(const float* in, int64_t rows, int64_t columns, int64_t head_dim,
                         float* out) {
  QLORA_CHECK(
      head_dim > 0 && head_dim % 2 == 0 && rows >= 0 && columns >= 0 && rows % head_dim == 0,
      ValueError, "[io] {} rows are no whole heads of {} (which has to be even)", rows, head_dim);
  for (int64_t row = 0; row < rows; ++row) {
    std::memcpy(out + row * columns, in + gguf_rope_row(row, head_dim) * columns,
                static_cast<size_t>(columns) * sizeof(float));
  }
}

}  // namespace qlora::io
#endif  // HWY_ONCE
