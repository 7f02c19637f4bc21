#include "quant/nf4_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/nf4_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>

#include "core/parallel.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

/// The 16 values that the codes of one block can stand for, rounded to Out: what a block needs of
/// its scale. Everything else is looking up.
template <class Out>
HWY_INLINE void block_values(const float* levels, float scale, Out* values) {
  for (int c = 0; c < 16; ++c) store_rounded(levels[c] * scale, values + c);
}

/// Any range of elements of one block.
template <class Out>
void decode_elements(const uint8_t* codes, int64_t begin, int64_t end, const float* levels,
                     float scale, Out* out) {
  Out values[16];
  block_values(levels, scale, values);
  for (int64_t i = begin; i < end; ++i) out[i - begin] = values[four_bit_at(codes, i)];
}

#if HWY_TARGET <= HWY_AVX2  // and everything better, which has a smaller number

/// Rounded values as 16 bits in each 32-bit lane.
HWY_INLINE U32 rounded_bits(F32 v, const BF16*) {
  const auto bits = hn::BitCast(kU32, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(kU32, 1u));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(kU32, 0x7FFFu))));
  return hn::IfThenElse(hn::RebindMask(kU32, hn::IsNaN(v)), hn::Set(kU32, 0x7FC0u), rounded);
}
HWY_INLINE U32 rounded_bits(F32 v, const F16*) {
  const hn::Rebind<hwy::float16_t, decltype(kF32)> f16;
  const hn::Rebind<uint16_t, decltype(kF32)> u16;
  return hn::PromoteTo(kU32, hn::BitCast(u16, hn::DemoteTo(f16, v)));
}

/// One byte of codes per 32-bit lane.
HWY_INLINE U32 load_bytes(const uint8_t* codes) {
  return hn::PromoteTo(kU32, hn::LoadU(hn::Rebind<uint8_t, decltype(kU32)>(), codes));
}

/// Lanes 2m and 2m + 1 hold the elements of byte `first_byte` + m of `bytes`.
HWY_INLINE U32 spread_codes(U32 bytes, int first_byte) {
  const auto lane = hn::Iota(kU32, 0);
  const auto source = hn::Add(hn::ShiftRight<1>(lane), hn::Set(kU32, first_byte));
  const auto shift = hn::ShiftLeft<2>(hn::AndNot(lane, hn::Set(kU32, 1u)));  // 4, 0, 4, 0 …
  const auto byte = hn::TableLookupLanes(bytes, hn::IndicesFromVec(kU32, source));
  return hn::And(hn::Shr(byte, shift), hn::Set(kU32, 15u));
}

#if HWY_TARGET <= HWY_AVX3

/// A register holds all 16 values: one permutation looks up 16 elements.
HWY_INLINE void decode_block(const uint8_t* codes, int64_t bytes, const float* levels, float scale,
                             float* out) {
  const auto values = hn::Mul(hn::Load(kF32, levels), hn::Set(kF32, scale));
  for (int64_t j = 0; j < bytes; j += 16) {
    const auto v = load_bytes(codes + j);
    const auto low = hn::IndicesFromVec(kF32, spread_codes(v, 0));
    const auto high = hn::IndicesFromVec(kF32, spread_codes(v, 8));
    hn::StoreU(hn::TableLookupLanes(values, low), kF32, out + 2 * j);
    hn::StoreU(hn::TableLookupLanes(values, high), kF32, out + 2 * j + 16);
  }
}

/// A 32-bit lane takes both elements of one byte of codes.
template <class Half>
HWY_INLINE void decode_block(const uint8_t* codes, int64_t bytes, const float* levels, float scale,
                             Half* out) {
  const hn::Repartition<uint16_t, decltype(kU32)> u16;
  const auto values = hn::Mul(hn::Load(kF32, levels), hn::Set(kF32, scale));
  const auto first_values = rounded_bits(values, out);
  const auto second_values = hn::ShiftLeft<16>(first_values);
  for (int64_t j = 0; j < bytes; j += 16) {
    const auto v = load_bytes(codes + j);
    const auto first = hn::IndicesFromVec(kU32, hn::ShiftRight<4>(v));
    const auto second = hn::IndicesFromVec(kU32, hn::And(v, hn::Set(kU32, 15u)));
    const auto pair = hn::Or(hn::TableLookupLanes(first_values, first),
                             hn::TableLookupLanes(second_values, second));
    hn::StoreU(hn::BitCast(u16, pair), u16, &out[2 * j].bits);
  }
}

#else  // AVX2

/// Two registers hold the 16 values; bit 3 of the code chooses.
HWY_INLINE F32 look_up(F32 low_values, F32 high_values, U32 codes) {
  const auto index = hn::IndicesFromVec(kF32, hn::And(codes, hn::Set(kU32, 7u)));
  const auto is_high = hn::RebindMask(kF32, hn::Gt(hn::BitCast(kI32, codes), hn::Set(kI32, 7)));
  return hn::IfThenElse(is_high, hn::TableLookupLanes(high_values, index),
                        hn::TableLookupLanes(low_values, index));
}

HWY_INLINE void decode_block(const uint8_t* codes, int64_t bytes, const float* levels, float scale,
                             float* out) {
  const auto low_values = hn::Mul(hn::Load(kF32, levels), hn::Set(kF32, scale));
  const auto high_values = hn::Mul(hn::Load(kF32, levels + 8), hn::Set(kF32, scale));
  for (int64_t j = 0; j < bytes; j += 8) {
    const auto v = load_bytes(codes + j);
    hn::StoreU(look_up(low_values, high_values, spread_codes(v, 0)), kF32, out + 2 * j);
    hn::StoreU(look_up(low_values, high_values, spread_codes(v, 4)), kF32, out + 2 * j + 8);
  }
}

/// Byte `Shift / 8` of 16 values given as two vectors of bits, in both halves of a register.
template <int Shift>
HWY_INLINE hn::Vec<hn::Full256<uint8_t>> byte_table(U32 low, U32 high) {
  const hn::Rebind<uint8_t, decltype(kI32)> u8;
  const hn::Full128<uint8_t> u8x16;
  const auto mask = hn::Set(kU32, 0xFFu);
  const auto first = hn::BitCast(kI32, hn::And(hn::ShiftRight<Shift>(low), mask));
  const auto second = hn::BitCast(kI32, hn::And(hn::ShiftRight<Shift>(high), mask));
  const auto table = hn::Combine(u8x16, hn::DemoteTo(u8, second), hn::DemoteTo(u8, first));
  return hn::Combine(hn::Full256<uint8_t>(), table, table);
}

/// The values' low bytes and high bytes are looked up apart, 32 elements at once.
template <class Half>
HWY_INLINE void decode_block(const uint8_t* codes, int64_t bytes, const float* levels, float scale,
                             Half* out) {
  const hn::Full256<uint8_t> u8;
  const hn::Full256<uint16_t> u16;
  const auto by_scale = hn::Set(kF32, scale);
  const auto low = rounded_bits(hn::Mul(hn::Load(kF32, levels), by_scale), out);
  const auto high = rounded_bits(hn::Mul(hn::Load(kF32, levels + 8), by_scale), out);
  const auto low_bytes = byte_table<0>(low, high);
  const auto high_bytes = byte_table<8>(low, high);
  for (int64_t j = 0; j < bytes; j += 16) {
    const auto v = hn::PromoteTo(u16, hn::LoadU(hn::Full128<uint8_t>(), codes + j));
    const auto both = hn::Or(hn::ShiftRight<4>(v), hn::ShiftLeft<8>(v));
    const auto nibbles = hn::BitCast(u8, hn::And(both, hn::Set(u16, 0x0F0F)));
    const auto l = hn::TableLookupBytes(low_bytes, nibbles);
    const auto h = hn::TableLookupBytes(high_bytes, nibbles);
    const auto a = hn::BitCast(u16, hn::InterleaveLower(u8, l, h));  // elements 0-7, 16-23
    const auto b = hn::BitCast(u16, hn::InterleaveUpper(u8, l, h));  // elements 8-15, 24-31
    hn::StoreU(hn::ConcatLowerLower(u16, b, a), u16, &out[2 * j].bits);
    hn::StoreU(hn::ConcatUpperUpper(u16, b, a), u16, &out[2 * j + 16].bits);
  }
}

#endif

#else  // plain

template <class Out>
void decode_block(const uint8_t* codes, int64_t bytes, const float* levels, float scale, Out* out) {
  Out values[16];
  block_values(levels, scale, values);
  for (int64_t j = 0; j < bytes; ++j) {
    out[2 * j] = values[codes[j] >> 4];
    out[2 * j + 1] = values[codes[j] & 15];
  }
}

#endif

/// Elements [begin, end) of the matrix into out.
template <class Out>
void dequantize_range(const Nf4DequantArgs& a, int64_t begin, int64_t end, Out* out) {
  HWY_ALIGN float levels[16];
  for (int c = 0; c < 16; ++c) levels[c] = four_bit_level(a.type, static_cast<uint8_t>(c));
  const int64_t size = a.block_size;
  for (int64_t i = begin; i < end;) {
    const int64_t block = i / size;
    const int64_t stop = std::min(end, (block + 1) * size);
    const float scale = nf4_scale(a.scales, block);
    if (stop - i == size && size % 32 == 0) {
      decode_block(a.codes + i / 2, size / 2, levels, scale, out);
    } else {
      decode_elements(a.codes, i, stop, levels, scale, out);
    }
    out += stop - i;
    i = stop;
  }
}

void dequantize_elements(const Nf4DequantArgs& a, int64_t begin, int64_t end) {
  with_kind(a.out_kind, [&](auto* type) {
    dequantize_range(a, begin, end, static_cast<decltype(type)>(a.out) + (begin - a.begin));
  });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(dequantize_elements);

/// Elements that are worth a thread of their own (some 20 microseconds).
constexpr int64_t kGrainElements = 1 << 16;

}  // namespace

void cpu::dequantize_nf4(const Nf4DequantArgs& a) {
  if (a.count <= 0) return;
  const int64_t size = a.block_size;
  const int64_t first = a.begin / size;
  const int64_t blocks = (a.begin + a.count - 1) / size + 1 - first;
  parallel_for(blocks, std::max<int64_t>(1, kGrainElements / size), [&](int64_t b, int64_t e) {
    const int64_t begin = std::max(a.begin, (first + b) * size);
    const int64_t end = std::min(a.begin + a.count, (first + e) * size);
    HWY_DYNAMIC_DISPATCH(dequantize_elements)(a, begin, end);
  });
}

}  // namespace qlora::quant
#endif
