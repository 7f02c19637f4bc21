#include "lora/dropout_backend.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "lora/dropout_cpu.cpp"
#include <hwy/foreach_target.h>
// The order matters: foreach_target.h first.
#include <hwy/highway.h>

#include "core/parallel.h"
#include "core/simd_float-inl.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::lora::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;
using namespace qlora::HWY_NAMESPACE;  // NOLINT: the lanes of core/simd_float-inl.h

constexpr int64_t kBlocks = 16;   // Philox calls side by side: plain loops, vectorised
constexpr int64_t kPerBlock = 8;  // 16-bit draws that one call of Philox4x32 gives
constexpr int64_t kTile = kBlocks * kPerBlock;

/// Draws for the elements [first_block·8, +128): core/rng.h's philox4x32 of each block number,
/// written over arrays so that the compiler vectorises it for the target.
void draw_tile(const DropoutArgs& a, uint64_t first_block, uint16_t* draws) {
  uint32_t c0[kBlocks], c1[kBlocks], c2[kBlocks], c3[kBlocks];
  for (int64_t j = 0; j < kBlocks; ++j) {
    const uint64_t block = first_block + static_cast<uint64_t>(j);
    c0[j] = static_cast<uint32_t>(block);
    c1[j] = static_cast<uint32_t>(block >> 32);
    c2[j] = static_cast<uint32_t>(a.stream);
    c3[j] = static_cast<uint32_t>(a.stream >> 32);
  }
  uint32_t k0 = static_cast<uint32_t>(a.seed), k1 = static_cast<uint32_t>(a.seed >> 32);
  for (int round = 0; round < 10; ++round) {
    for (int64_t j = 0; j < kBlocks; ++j) {
      const uint64_t p0 = uint64_t{0xD2511F53u} * c0[j], p1 = uint64_t{0xCD9E8D57u} * c2[j];
      c0[j] = static_cast<uint32_t>(p1 >> 32) ^ c1[j] ^ k0;
      c1[j] = static_cast<uint32_t>(p1);
      c2[j] = static_cast<uint32_t>(p0 >> 32) ^ c3[j] ^ k1;
      c3[j] = static_cast<uint32_t>(p0);
    }
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  for (int64_t j = 0; j < kBlocks; ++j) {
    const uint32_t words[4] = {c0[j], c1[j], c2[j], c3[j]};
    for (int64_t w = 0; w < 4; ++w) {
      draws[j * 8 + 2 * w] = static_cast<uint16_t>(words[w]);
      draws[j * 8 + 2 * w + 1] = static_cast<uint16_t>(words[w] >> 16);
    }
  }
}

template <class T>
void drop(const DropoutArgs& a, int64_t begin, int64_t end) {
  const uint32_t threshold = dropout_threshold(a.probability);
  const float scale = dropout_scale(a.probability);
  const T* x = static_cast<const T*>(a.x);
  T* y = static_cast<T*>(a.y);
  uint16_t draws[kTile];
  float factors[kTile];
  const FloatTag d;
  for (int64_t i = begin; i < end; i += kTile) {
    draw_tile(a, static_cast<uint64_t>(i / kPerBlock), draws);
    for (int64_t j = 0; j < kTile; ++j) factors[j] = draws[j] < threshold ? 0.0f : scale;
    const int64_t n = end - i < kTile ? end - i : kTile;
    // A dropped infinity must be 0, not NaN: select, do not multiply.
    for_lanes(
        d, n,
        [&](int64_t j) {
          const auto factor = hn::LoadU(d, factors + j);
          const auto kept = hn::Mul(load_f32(d, x + i + j), factor);
          const auto keep = hn::Ne(factor, hn::Zero(d));
          store_f32(d, hn::IfThenElseZero(keep, kept), y + i + j);
        },
        [&](int64_t j) {
          const float kept = load_one(x + i + j) * factors[j];
          store_one(factors[j] != 0 ? kept : 0.0f, y + i + j);
        });
  }
}

void dropout(const DropoutArgs& a, int64_t begin, int64_t end) {
  with_kind(a.kind, [&](auto* p) { drop<std::remove_pointer_t<decltype(p)>>(a, begin, end); });
}

}  // namespace qlora::lora::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::lora::cpu {
HWY_EXPORT(dropout);

void dropout(const DropoutArgs& a) {
  constexpr int64_t kTile = 128;  // a thread starts at a whole tile, so the split changes nothing
  const int64_t tiles = (a.count + kTile - 1) / kTile;
  parallel_for(tiles, 64, [&](int64_t begin, int64_t end) {
    const int64_t last = end * kTile < a.count ? end * kTile : a.count;
    HWY_DYNAMIC_DISPATCH(dropout)(a, begin * kTile, last);
  });
}
}  // namespace qlora::lora::cpu
#endif
