#pragma once

#include "tests/emulation/device/arithmetic.h"
#include "tests/emulation/device/bits.h"
#include "tests/emulation/device/memory.h"

// Atomic operations; each returns what was there. Semantics: PTX ISA 9.0, section 9.7.13.

namespace qlora::emulation {

template <class T, class F>
T atomic(Thread& t, Space space, b64 address, int line, F f) {
  char* const place = at(t, space, address, sizeof(T), Access::kAtomic, line);
  machine().epochs().meet(address, t.has_released);
  const T before = read<T>(place);
  write(place, f(before));
  return before;
}
template <class T>
T atomic_add(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return add(x, v); });
}
template <class T>
T atomic_min(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return minimum(x, v); });
}
template <class T>
T atomic_max(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return maximum(x, v); });
}
template <class T>
T atomic_and(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return bit_and(x, v); });
}
template <class T>
T atomic_or(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return bit_or(x, v); });
}
template <class T>
T atomic_xor(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T x) { return bit_xor(x, v); });
}
template <class T>
T atomic_exch(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line, [v](T) { return v; });
}
template <class T>
T atomic_cas(Thread& t, Space space, b64 address, T expected, T v, int line) {
  return atomic<T>(t, space, address, line, [=](T x) { return x == expected ? v : x; });
}
/// Counts up to v, then starts at 0.
template <class T>
T atomic_inc(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line,
                   [v](T x) { return x >= v ? T{0} : static_cast<T>(x + 1); });
}
/// Counts down from v, from 0 on to v again.
template <class T>
T atomic_dec(Thread& t, Space space, b64 address, T v, int line) {
  return atomic<T>(t, space, address, line,
                   [v](T x) { return x == 0 || x > v ? v : static_cast<T>(x - 1); });
}

}  // namespace qlora::emulation
