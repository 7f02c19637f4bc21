#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>

#include "core/float_kind.h"
#include "tests/kernels/back_end.h"

namespace qlora::testing {

inline constexpr double kF32Unit = 0x1p-24;  // unit roundoff of FP32

/// What rounding y to a type moves it, half of a subnormal step included.
inline double store_error(FloatKind kind, double y) {
  const double unit = kind == FloatKind::kF32   ? 0x1p-24
                      : kind == FloatKind::kF16 ? 0x1p-11
                                                : 0x1p-8;
  const double least = kind == FloatKind::kF16 ? 0x1p-25 : 0x1p-127;
  return std::fabs(y) * unit + least;
}

/// Relative error of `roundings` FP32 operations in a row.
inline double gamma(double roundings) {
  return roundings * kF32Unit / (1 - roundings * kF32Unit);
}

/// got within `error` (before it was stored in its type) of want; NaN is not.
inline ::testing::AssertionResult within(double got, double want, double error, FloatKind kind) {
  const double bound = error + store_error(kind, std::fabs(want) + error);
  if (std::fabs(got - want) <= bound) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << got << " is " << std::fabs(got - want) << " from " << want << ", allowed " << bound;
}

/// Numbers where the back end computes, `offset` elements after an aligned place.
class Placed {
 public:
  Placed(const KernelCase& row, Numbers numbers, int64_t offset = 0)
      : kind_(row.kind),
        offset_bytes_(offset * kind_bytes(row.kind)),
        count_(numbers.size()),
        array_(row.back_end, shifted(numbers)) {}

  void* data() { return array_.data() + offset_bytes_; }
  float* floats() { return static_cast<float*>(data()); }
  Numbers values() const {
    Numbers host(kind_, count_);
    std::memcpy(host.data(), array_.values().data() + offset_bytes_,
                static_cast<size_t>(count_ * kind_bytes(kind_)));
    return host;
  }

 private:
  std::vector<std::byte> shifted(Numbers& numbers) const {
    const auto* from = static_cast<const std::byte*>(numbers.data());
    std::vector<std::byte> bytes(static_cast<size_t>(offset_bytes_), std::byte{0xFF});
    bytes.insert(bytes.end(), from, from + count_ * kind_bytes(kind_));
    return bytes;
  }

  FloatKind kind_;
  int64_t offset_bytes_, count_;
  DeviceArray<std::byte> array_;
};

/// The same for f32 arrays of a row of any kind.
inline Placed placed_floats(const KernelCase& row, const std::vector<float>& values,
                            int64_t offset = 0) {
  return {{row.back_end, FloatKind::kF32}, Numbers(FloatKind::kF32, values), offset};
}

}  // namespace qlora::testing
