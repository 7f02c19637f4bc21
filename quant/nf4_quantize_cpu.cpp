#include "quant/nf4_backend.h"

// AVX-512 (AVX3), AVX2 and plain code; nothing in between.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "quant/nf4_quantize_cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstring>

#include "core/parallel.h"
#include "quant/lanes-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::quant::HWY_NAMESPACE {

#if HWY_TARGET <= HWY_AVX2  // and everything better, which has a smaller number

/// Codes of a full block, `bytes` of them, a multiple of 16.
template <class In>
void encode_block(FourBitType type, const In* in, int64_t bytes, float inverse,
                  const float* midpoints, uint8_t* codes) {
  const hn::Repartition<uint64_t, decltype(kU32)> u64;
  const hn::Repartition<uint8_t, decltype(kU32)> u8;
  const hn::Rebind<uint8_t, decltype(u64)> packed;
  const int64_t lanes = hn::Lanes(kF32);
  alignas(16) uint8_t code_of_rank[16];
  for (int r = 0; r < 16; ++r) code_of_rank[r] = four_bit_code_of_rank(type, r);
  const auto rank_table = hn::LoadDup128(u8, code_of_rank);
  const auto by_inverse = hn::Set(kF32, inverse);

  for (int64_t i = 0; i < 2 * bytes; i += lanes) {
    const auto x = hn::Mul(load_lanes(in + i), by_inverse);
    auto rank = hn::Zero(kI32);
    for (int k = 0; k < 15; ++k) {
      const auto above = hn::Gt(x, hn::Set(kF32, midpoints[k]));
      rank = hn::Sub(rank, hn::VecFromMask(kI32, hn::RebindMask(kI32, above)));
    }
    const auto code = hn::TableLookupBytes(rank_table, hn::BitCast(u8, rank));
    const auto nibble = hn::And(hn::BitCast(kU32, code), hn::Set(kU32, 15u));
    const auto pair = hn::BitCast(u64, nibble);  // first element below, second above
    const auto byte = hn::Or(hn::ShiftLeft<4>(pair), hn::ShiftRight<32>(pair));
    hn::StoreU(hn::TruncateTo(packed, byte), packed, codes + i / 2);
  }
}

#else  // plain

template <class In>
void encode_block(FourBitType type, const In* in, int64_t bytes, float inverse,
                  const float* midpoints, uint8_t* codes) {
  for (int64_t i = 0; i < 2 * bytes; i += 32) {  // 32 at once, so that the compiler can vectorise
    float x[32];
    int32_t rank[32] = {};
    for (int e = 0; e < 32; ++e) x[e] = to_float(in[i + e]) * inverse;
    for (int k = 0; k < 15; ++k) {
      for (int e = 0; e < 32; ++e) rank[e] += x[e] > midpoints[k] ? 1 : 0;
    }
    for (int e = 0; e < 32; e += 2) {
      codes[(i + e) / 2] = four_bit_pack(four_bit_code_of_rank(type, rank[e]),
                                         four_bit_code_of_rank(type, rank[e + 1]));
    }
  }
}

#endif

/// Codes of a block that is short or of an odd size: as nf4_math.h has it, element by element.
template <class In>
void encode_elements(FourBitType type, const In* in, int64_t count, Nf4BlockScale scale,
                     uint8_t* codes) {
  for (int64_t i = 0; i < count; i += 2) {
    const float second = i + 1 < count ? to_float(in[i + 1]) : 0.0f;
    codes[i / 2] = four_bit_pack(four_bit_code(type, nf4_normalize(to_float(in[i]), scale)),
                                 four_bit_code(type, nf4_normalize(second, scale)));
  }
}

template <class In>
void quantize_range(const Nf4QuantArgs& a, int64_t first, int64_t last, const In* in) {
  float midpoints[15];
  for (int k = 0; k < 15; ++k) midpoints[k] = four_bit_midpoint(a.type, k);
  for (int64_t block = first; block < last; ++block) {
    const int64_t begin = block * a.block_size;
    const int64_t count = std::min(a.block_size, a.count - begin);
    const uint32_t most = absmax_bits(in + begin, count);
    uint8_t* codes = a.codes + begin / 2;
    if (!is_finite_bits(most)) {
      lower_to(a.first_bad_block, block);
      a.absmax[block] = 0;
      std::memset(codes, 0, (count + 1) / 2);
      continue;
    }
    const Nf4BlockScale scale = nf4_block_scale(bits_float(most), count < a.block_size);
    a.absmax[block] = scale.stored;
    if (scale.inverse != 0 && count % 32 == 0) {
      encode_block(a.type, in + begin, count / 2, scale.inverse, midpoints, codes);
    } else {
      encode_elements(a.type, in + begin, count, scale, codes);
    }
  }
}

void quantize_blocks(const Nf4QuantArgs& a, int64_t first, int64_t last) {
  with_kind(a.in_kind, [&](const auto* type) {
    quantize_range(a, first, last, static_cast<decltype(type)>(a.in));
  });
}

}  // namespace qlora::quant::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::quant {
namespace {

HWY_EXPORT(quantize_blocks);

/// Elements that are worth a thread of their own (some 20 microseconds).
constexpr int64_t kGrainElements = 1 << 15;

}  // namespace

void cpu::quantize_nf4(const Nf4QuantArgs& a) {
  const int64_t blocks = (a.count + a.block_size - 1) / a.block_size;
  const int64_t grain = std::max<int64_t>(1, kGrainElements / a.block_size);
  parallel_for(blocks, grain, [&](int64_t first, int64_t last) {
    HWY_DYNAMIC_DISPATCH(quantize_blocks)(a, first, last);
  });
}

namespace {

/// out[g] = sum of group g of values.
template <class T>
void sum_groups(const T* values, int64_t count, int64_t groups, double* out) {
  parallel_for(groups, 64, [&](int64_t first, int64_t last) {
    for (int64_t g = first; g < last; ++g) {
      double v[kSumGroup] = {};
      const int64_t begin = g * kSumGroup;
      const int64_t size = std::min<int64_t>(kSumGroup, count - begin);
      for (int64_t i = 0; i < size; ++i) v[i] = static_cast<double>(values[begin + i]);
      out[g] = sum_group(v);
    }
  });
}

}  // namespace

void cpu::mean(const MeanArgs& a) {
  int64_t groups = (a.count + kSumGroup - 1) / kSumGroup;
  double* sums = a.scratch;
  sum_groups(a.values, a.count, groups, sums);
  while (groups > 1) {
    const int64_t fewer = (groups + kSumGroup - 1) / kSumGroup;
    sum_groups(sums, groups, fewer, sums + groups);
    sums += groups;
    groups = fewer;
  }
  *a.mean = static_cast<float>(sums[0] / static_cast<double>(a.count));
}

}  // namespace qlora::quant
#endif
