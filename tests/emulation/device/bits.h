#pragma once

#include <algorithm>
#include <bit>

#include "tests/emulation/device/registers.h"

// What bit instructions do. Semantics: PTX ISA 9.0, sections 9.7.1 (bfe, prmt …) and 9.7.8.

namespace qlora::emulation {

template <class T>
T bit_and(T a, T b) {
  return static_cast<T>(a & b);
}
template <class T>
T bit_or(T a, T b) {
  return static_cast<T>(a | b);
}
template <class T>
T bit_xor(T a, T b) {
  return static_cast<T>(a ^ b);
}
template <class T>
T bit_not(T a) {
  if constexpr (std::is_same_v<T, bool>)
    return !a;
  else
    return static_cast<T>(~a);
}

/// Shifts by the width or more leave nothing but copies of the sign.
template <class T>
T shift_left(T a, b32 n) {
  return n >= 8 * sizeof(T) ? T{0} : static_cast<T>(a << n);
}
template <class T>
T shift_right(T a, b32 n) {
  return static_cast<T>(a >> std::min<b32>(n, 8 * sizeof(T) - 1)) &
         static_cast<T>(std::is_signed_v<T> || n < 8 * sizeof(T) ? -1 : 0);
}

template <class T>
b32 count_ones(T a) {
  return static_cast<b32>(std::popcount(a));
}
template <class T>
b32 leading_zeros(T a) {
  return static_cast<b32>(std::countl_zero(a));
}
template <class T>
T reverse_bits(T a) {
  T result = 0;
  for (size_t i = 0; i < 8 * sizeof(T); ++i) result = static_cast<T>(result << 1 | (a >> i & 1));
  return result;
}

/// Bits [position, position + length); signed types repeat the field's highest one.
template <class T>
T extract_bits(T a, b32 position, b32 length) {
  using U = std::make_unsigned_t<T>;
  constexpr b32 width = 8 * sizeof(T);
  position &= 255, length &= 255;
  U result = 0;
  if (length == 0) return 0;
  const U sign =
      std::is_signed_v<T>
          ? static_cast<U>(static_cast<U>(a) >> std::min(position + length - 1, width - 1) & 1)
          : U{0};
  for (b32 i = 0; i < width; ++i) {
    const bool is_inside = i < length && position + i < width;
    const U bit = is_inside ? static_cast<U>(static_cast<U>(a) >> (position + i) & 1) : sign;
    result |= static_cast<U>(bit << i);
  }
  return static_cast<T>(result);
}

/// b with bits [position, position + length) taken from the low ones of a.
template <class T>
T insert_bits(T a, T b, b32 position, b32 length) {
  position &= 255, length &= 255;
  for (b32 i = 0; i < length && position + i < 8 * sizeof(T); ++i) {
    const T mask = static_cast<T>(T{1} << (position + i));
    b = static_cast<T>((b & ~mask) | ((a >> i & 1) != 0 ? mask : T{0}));
  }
  return b;
}

/// Position of the highest bit that differs from the sign, or how far it is from the top; all ones
/// where there is none.
template <bool IsShiftAmount, class T>
b32 highest_bit(T a) {
  using U = std::make_unsigned_t<T>;
  const U bits = std::is_signed_v<T> && a < 0 ? static_cast<U>(~a) : static_cast<U>(a);
  if (bits == 0) return ~b32{0};
  const int zeros = std::countl_zero(bits);
  return static_cast<b32>(IsShiftAmount ? zeros : static_cast<int>(8 * sizeof(T)) - 1 - zeros);
}

/// Four bytes of {b, a}, chosen by the nibbles of c; a nibble's highest bit repeats the sign.
inline b32 permute_bytes(b32 a, b32 b, b32 c) {
  const b64 bytes = b64{b} << 32 | a;
  b32 result = 0;
  for (int i = 0; i < 4; ++i) {
    const b32 chosen = c >> (4 * i) & 15;
    b32 byte = static_cast<b32>(bytes >> (8 * (chosen & 7)) & 255);
    if ((chosen & 8) != 0) byte = (byte & 128) != 0 ? 255 : 0;
    result |= byte << (8 * i);
  }
  return result;
}

/// Every result bit is bit (4a + 2b + c) of the table.
inline b32 logic3(b32 a, b32 b, b32 c, b32 table) {
  b32 result = 0;
  for (b32 i = 0; i < 8; ++i) {
    if ((table >> i & 1) == 0) continue;
    result |= ((i & 4) != 0 ? a : ~a) & ((i & 2) != 0 ? b : ~b) & ((i & 1) != 0 ? c : ~c);
  }
  return result;
}

/// 32 bits of {b, a} shifted; the amount wraps at 32 or stops there.
template <bool Wraps>
b32 funnel_left(b32 a, b32 b, b32 n) {
  const b32 amount = Wraps ? n & 31 : std::min<b32>(n, 32);
  return static_cast<b32>((b64{b} << 32 | a) << amount >> 32);
}
template <bool Wraps>
b32 funnel_right(b32 a, b32 b, b32 n) {
  const b32 amount = Wraps ? n & 31 : std::min<b32>(n, 32);
  return static_cast<b32>((b64{b} << 32 | a) >> amount);
}

/// c plus the products of four pairs of bytes.
template <class A, class B>
b32 dot_bytes(b32 a, b32 b, b32 c) {
  for (int i = 0; i < 4; ++i) {
    c += static_cast<b32>(static_cast<s32>(static_cast<A>(a >> (8 * i))) *
                          static_cast<s32>(static_cast<B>(b >> (8 * i))));
  }
  return c;
}

}  // namespace qlora::emulation
