#include "quant/blockwise8_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/blockwise8_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "quant/code_buckets.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

inline uint8_t code_of(const CodeBuckets& buckets, float x) {
  const uint32_t bits = float_bits(x);
  const int32_t upper = static_cast<int32_t>((bits & ~kFloatSignBit) >> 16);
  const int32_t bucket = std::clamp(upper, CodeBuckets::kFirst, CodeBuckets::kLast);
  const int32_t sign = bits >> 31 ? CodeBuckets::kCount : 0;
  const int32_t code = buckets.lowest_code[bucket - CodeBuckets::kFirst + sign];
  return static_cast<uint8_t>(code + (x > buckets.thresholds[code] ? 1 : 0));
}

inline uint8_t keep_sign(SignRule rule, uint8_t zero_code, float x, uint8_t code) {
  return rule == SignRule::kKeep && x < 0 && code == zero_code && code > 0
             ? static_cast<uint8_t>(code - 1)
             : code;
}

/// Elements [i, count) of a block, one by one.
template <class In>
void encode_elements(const Blockwise8QuantArgs& a, const CodeBuckets& buckets, uint8_t zero_code,
                     const In* in, int64_t i, int64_t count, Blockwise8Scale scale,
                     uint8_t* codes) {
  for (; i < count; ++i) {
    const float x = to_float(in[i]);
    codes[i] =
        keep_sign(a.sign_rule, zero_code, x, code_of(buckets, blockwise8_normalize(x, scale)));
  }
}

#if HWY_TARGET <= HWY_AVX2

template <class In>
void encode_block(const Blockwise8QuantArgs& a, const CodeBuckets& buckets, uint8_t zero_code,
                  const In* in, int64_t count, Blockwise8Scale scale, uint8_t* codes) {
  int64_t i = 0;
  if (scale.inverse != 0) {
    const hn::Rebind<uint8_t, decltype(kI32)> u8;
    const int64_t lanes = hn::Lanes(kF32);
    const auto by_inverse = hn::Set(kF32, scale.inverse);
    const auto zero = hn::Set(kI32, zero_code);
    const auto step = hn::Set(kI32, a.sign_rule == SignRule::kKeep && zero_code > 0 ? 1 : 0);
    for (; i + lanes <= count; i += lanes) {
      const auto x = load_lanes(in + i);
      const auto scaled = hn::Mul(x, by_inverse);
      const auto bits = hn::BitCast(kI32, scaled);
      const auto upper = hn::ShiftRight<16>(hn::And(bits, hn::Set(kI32, 0x7FFFFFFF)));
      const auto bucket = hn::Sub(hn::Min(hn::Max(upper, hn::Set(kI32, CodeBuckets::kFirst)),
                                          hn::Set(kI32, CodeBuckets::kLast)),
                                  hn::Set(kI32, CodeBuckets::kFirst));
      const auto half = hn::And(hn::ShiftRight<31>(bits), hn::Set(kI32, CodeBuckets::kCount));
      auto code = hn::GatherIndex(kI32, buckets.lowest_code, hn::Add(bucket, half));
      const auto threshold = hn::GatherIndex(kF32, buckets.thresholds, code);
      const auto is_above = hn::RebindMask(kI32, hn::Gt(scaled, threshold));
      code = hn::Sub(code, hn::VecFromMask(kI32, is_above));
      const auto is_negative = hn::RebindMask(kI32, hn::Lt(x, hn::Zero(kF32)));
      const auto lost_sign = hn::And(is_negative, hn::Eq(code, zero));
      code = hn::Sub(code, hn::IfThenElseZero(lost_sign, step));
      hn::StoreU(hn::DemoteTo(u8, code), u8, codes + i);
    }
  }
  encode_elements(a, buckets, zero_code, in, i, count, scale, codes);
}

template <class Out>
void decode_block(const float* levels, const uint8_t* codes, int64_t count, float absmax,
                  Out* out) {
  const hn::Rebind<uint8_t, decltype(kI32)> u8;
  const int64_t lanes = hn::Lanes(kF32);
  const auto scale = hn::Set(kF32, absmax);
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    const auto code = hn::PromoteTo(kI32, hn::LoadU(u8, codes + i));
    store_lanes(hn::Mul(hn::GatherIndex(kF32, levels, code), scale), out + i);
  }
  for (; i < count; ++i) store_rounded(levels[codes[i]] * absmax, out + i);
}

#else  // plain

template <class In>
void encode_block(const Blockwise8QuantArgs& a, const CodeBuckets& buckets, uint8_t zero_code,
                  const In* in, int64_t count, Blockwise8Scale scale, uint8_t* codes) {
  encode_elements(a, buckets, zero_code, in, 0, count, scale, codes);
}

template <class Out>
void decode_block(const float* levels, const uint8_t* codes, int64_t count, float absmax,
                  Out* out) {
  for (int64_t i = 0; i < count; ++i) store_rounded(levels[codes[i]] * absmax, out + i);
}

#endif

template <class In>
void quantize_range(const Blockwise8QuantArgs& a, int64_t first, int64_t last, const In* in) {
  const CodeBuckets& buckets = code_buckets(a.map);
  const uint8_t zero_code = code_of(buckets, 0.0f);
  for (int64_t block = first; block < last; ++block) {
    const int64_t begin = block * a.block_size;
    const int64_t count = std::min(a.block_size, a.count - begin);
    const uint32_t most = absmax_bits(in + begin, count);
    const bool is_finite = is_finite_bits(most);
    if (!is_finite) lower_to(a.first_bad_block, block);
    a.absmax[block] = is_finite ? bits_float(most) : 0.0f;
    if (a.absmax[block] > 0) {
      encode_block(a, buckets, zero_code, in + begin, count, blockwise8_scale(a.absmax[block]),
                   a.codes + begin);
    } else {
      std::memset(a.codes + begin, 0, count);
    }
  }
}

void quantize_blocks(const Blockwise8QuantArgs& a, int64_t first, int64_t last) {
  with_kind(a.in_kind, [&](const auto* type) {
    quantize_range(a, first, last, static_cast<decltype(type)>(a.in));
  });
}

template <class Out>
void dequantize_range(const Blockwise8DequantArgs& a, int64_t first, int64_t last, Out* out) {
  for (int64_t block = first; block < last; ++block) {
    const int64_t begin = block * a.block_size;
    const int64_t count = std::min(a.block_size, a.count - begin);
    decode_block(dynamic_table(a.map).levels, a.codes + begin, count, a.absmax[block], out + begin);
  }
}

void dequantize_blocks(const Blockwise8DequantArgs& a, int64_t first, int64_t last) {
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_range(a, first, last, static_cast<decltype(type)>(a.out));
  });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(quantize_blocks);
HWY_EXPORT(dequantize_blocks);

/// Elements that are worth a thread of their own (some 20 microseconds).
constexpr int64_t kGrainElements = 1 << 15;

template <class Args, class Body>
void for_blocks(const Args& a, const Body& body) {
  const int64_t blocks = (a.count + a.block_size - 1) / a.block_size;
  parallel_for(blocks, std::max<int64_t>(1, kGrainElements / a.block_size), body);
}

}  // namespace

void cpu::quantize_blockwise8(const Blockwise8QuantArgs& a) {
  for_blocks(a, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(quantize_blocks)(a, first, last);
  });
}

void cpu::dequantize_blockwise8(const Blockwise8DequantArgs& a) {
  for_blocks(a, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(dequantize_blocks)(a, first, last);
  });
}

}  // namespace qlora::quant
#endif
