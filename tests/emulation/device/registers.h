#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace qlora::emulation {

// Registers hold bits; these are the numbers that instructions read in them.
using b8 = uint8_t;
using b16 = uint16_t;
using b32 = uint32_t;
using b64 = uint64_t;
using s8 = int8_t;
using s16 = int16_t;
using s32 = int32_t;
using s64 = int64_t;
struct f16 {
  b16 bits;
};
struct bf16 {
  b16 bits;
};
template <class Half>
struct Pair {
  Half low, high;
};
using f16x2 = Pair<f16>;
using bf16x2 = Pair<bf16>;

/// Bits of a register as a number of type T; the low ones where the register is wider.
template <class T, class S>
T as(S source) {
  T number{};
  std::memcpy(&number, &source, sizeof(T) < sizeof(S) ? sizeof(T) : sizeof(S));
  return number;
}

/// Bits of a number into a register; integers are extended by their sign, others by zeros.
template <class D, class T>
void set(D& target, T value) {
  if constexpr (std::is_integral_v<T>) {
    target = static_cast<D>(value);
  } else {
    target = {};
    std::memcpy(&target, &value, sizeof(T) < sizeof(D) ? sizeof(T) : sizeof(D));
  }
}

template <class T>
T read(const char* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}

template <class T>
void write(char* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

inline b64 address_of(const void* variable) {
  return reinterpret_cast<b64>(variable);
}

/// The integer type twice as wide.
template <class T>
using wide_t = std::conditional_t<
    sizeof(T) == 2, std::conditional_t<std::is_signed_v<T>, s32, b32>,
    std::conditional_t<sizeof(T) == 4, std::conditional_t<std::is_signed_v<T>, s64, b64>,
                       std::conditional_t<std::is_signed_v<T>, __int128, unsigned __int128>>>;

}  // namespace qlora::emulation
