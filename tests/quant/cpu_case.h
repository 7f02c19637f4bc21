#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "core/float_kind.h"
#include "core/parallel.h"
#include "quant/float_math.h"
#include "tests/support/simd_targets.h"

namespace qlora::testing {

inline constexpr FloatKind kFloatKinds[] = {FloatKind::kF32, FloatKind::kF16, FloatKind::kBF16};

inline int64_t kind_bytes(FloatKind kind) {
  return kind == FloatKind::kF32 ? 4 : 2;
}

inline const char* kind_name(FloatKind kind) {
  return kind == FloatKind::kF32 ? "f32" : kind == FloatKind::kF16 ? "f16" : "bf16";
}

/// Numbers of one type behind an untyped pointer. The bytes start at an odd multiple of the element
/// size, so that nothing can lean on alignment.
class Numbers {
 public:
  Numbers(FloatKind kind, int64_t count) : kind_(kind), bytes_((count + 1) * kind_bytes(kind)) {}
  Numbers(FloatKind kind, std::span<const float> values)
      : Numbers(kind, static_cast<int64_t>(values.size())) {
    for (size_t i = 0; i < values.size(); ++i) set(i, values[i]);
  }

  void* data() { return bytes_.data() + kind_bytes(kind_); }
  int64_t size() const { return static_cast<int64_t>(bytes_.size()) / kind_bytes(kind_) - 1; }

  void set(int64_t i, float value) {
    const uint32_t bits = encoded(value);
    std::memcpy(static_cast<std::byte*>(data()) + i * kind_bytes(kind_), &bits, kind_bytes(kind_));
  }

  /// Bits of element i as they lie in memory.
  uint32_t bits(int64_t i) {
    uint32_t bits = 0;
    std::memcpy(&bits, static_cast<std::byte*>(data()) + i * kind_bytes(kind_), kind_bytes(kind_));
    return bits;
  }

  float get(int64_t i) {
    switch (kind_) {
      case FloatKind::kF32:
        return quant::bits_float(bits(i));
      case FloatKind::kF16:
        return quant::f16_to_float(static_cast<uint16_t>(bits(i)));
      default:
        return quant::bf16_to_float(static_cast<uint16_t>(bits(i)));
    }
  }

  /// What `value` has to look like when it is stored in this type.
  uint32_t encoded(float value) const {
    switch (kind_) {
      case FloatKind::kF32:
        return quant::float_bits(value);
      case FloatKind::kF16:
        return quant::float_to_f16(value);
      default:
        return quant::float_to_bf16(value);
    }
  }

 private:
  FloatKind kind_;
  std::vector<std::byte> bytes_;
};

inline std::vector<float> normal_values(int64_t count, uint32_t seed, float sigma = 0.02f) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, sigma);
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

inline std::vector<uint8_t> random_bytes(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<uint8_t> bytes(count);
  for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
  return bytes;
}

/// Sets the thread count and puts it back.
class UseThreads {
 public:
  explicit UseThreads(int count) : before_(thread_count()) { set_thread_count(count); }
  ~UseThreads() { set_thread_count(before_); }
  UseThreads(const UseThreads&) = delete;
  UseThreads& operator=(const UseThreads&) = delete;

 private:
  int before_;
};

}  // namespace qlora::testing
