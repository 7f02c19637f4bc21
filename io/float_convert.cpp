#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "io/float_convert.cpp"
#include "io/float_convert.h"

#include <hwy/foreach_target.h>  // compiles this file once per instruction set
#include <hwy/highway.h>

#include <cstring>

#include "core/error.h"

HWY_BEFORE_NAMESPACE();
namespace qlora::io::HWY_NAMESPACE {

template <class Bits, class Convert>
HWY_INLINE void widen(const std::byte* HWY_RESTRICT data, int64_t count, float* HWY_RESTRICT out,
                      Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    Bits bits;
    std::memcpy(&bits, data + i * sizeof(Bits), sizeof(Bits));
    out[i] = convert(bits);
  }
}

void widen_bf16(const std::byte* data, int64_t count, float* out) {
  widen<uint16_t>(data, count, out, [](uint16_t bits) HWY_ATTR { return bf16_to_f32(bits); });
}
void widen_f16(const std::byte* data, int64_t count, float* out) {
  widen<uint16_t>(data, count, out, [](uint16_t bits) HWY_ATTR { return f16_to_f32(bits); });
}
void widen_e5m2(const std::byte* data, int64_t count, float* out) {
  widen<uint8_t>(data, count, out, [](uint8_t bits) HWY_ATTR { return f8e5m2_to_f32(bits); });
}
void widen_e4m3(const std::byte* data, int64_t count, float* out) {
  widen<uint8_t>(data, count, out, [](uint8_t bits) HWY_ATTR { return f8e4m3_to_f32(bits); });
}

template <class Convert>
HWY_INLINE void narrow(const float* HWY_RESTRICT data, int64_t count, std::byte* HWY_RESTRICT out,
                       Convert convert) {
  for (int64_t i = 0; i < count; ++i) {
    const uint16_t bits = convert(data[i]);
    std::memcpy(out + 2 * i, &bits, 2);
  }
}

void narrow_bf16(const float* data, int64_t count, std::byte* out) {
  narrow(data, count, out, [](float value) HWY_ATTR { return f32_to_bf16(value); });
}
void narrow_f16(const float* data, int64_t count, std::byte* out) {
  narrow(data, count, out, [](float value) HWY_ATTR { return f32_to_f16(value); });
}

void round_bf16(float* data, int64_t count) {
  for (int64_t i = 0; i < count; ++i) data[i] = bf16_to_f32(f32_to_bf16(data[i]));
}

}  // namespace qlora::io::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace qlora::io {
namespace {

HWY_EXPORT(widen_bf16);
HWY_EXPORT(widen_f16);
HWY_EXPORT(widen_e5m2);
HWY_EXPORT(widen_e4m3);
HWY_EXPORT(narrow_bf16);
HWY_EXPORT(narrow_f16);
HWY_EXPORT(round_bf16);

void narrow_f64(const std::byte* data, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i) {
    double value;
    std::memcpy(&value, data + 8 * i, 8);
    out[i] = static_cast<float>(value);
  }
}

}  // namespace

void convert_to_f32(DType dtype, const std::byte* data, int64_t count, float* out) {
  if (count <= 0) return;
  switch (dtype) {
    case DType::kF32:
      std::memcpy(out, data, static_cast<size_t>(count) * 4);
      return;
    case DType::kBF16:
      return HWY_DYNAMIC_DISPATCH(widen_bf16)(data, count, out);
    case DType::kF16:
      return HWY_DYNAMIC_DISPATCH(widen_f16)(data, count, out);
    case DType::kF8E5M2:
      return HWY_DYNAMIC_DISPATCH(widen_e5m2)(data, count, out);
    case DType::kF8E4M3:
      return HWY_DYNAMIC_DISPATCH(widen_e4m3)(data, count, out);
    case DType::kF64:
      return narrow_f64(data, count, out);
    default:
      throw ValueError(
          fmt::format("[io] {} elements are no weights; F64, F32, F16, BF16, F8_E4M3 or "
                      "F8_E5M2 can be read as float",
                      dtype_name(dtype)));
  }
}

void convert_f32_to_bf16(const float* data, int64_t count, std::byte* out) {
  HWY_DYNAMIC_DISPATCH(narrow_bf16)(data, count, out);
}
void convert_f32_to_f16(const float* data, int64_t count, std::byte* out) {
  HWY_DYNAMIC_DISPATCH(narrow_f16)(data, count, out);
}
void round_to_bf16(float* data, int64_t count) {
  HWY_DYNAMIC_DISPATCH(round_bf16)(data, count);
}

}  // namespace qlora::io
#endif  // HWY_ONCE
