#pragma once

#include <cstdint>

// Device functions as nvcc compiles them, one kernel per type: out[f * count + i] is function f of
// element i. functions_test.cpp has the same functions in the same order.

namespace qlora::emulation::planted {

inline constexpr int kFloatFunctions = 24;
inline constexpr int kDoubleFunctions = 9;
inline constexpr int kHalfFunctions = 9;
inline constexpr int kIntegerFunctions = 20;
inline constexpr int kWarpFunctions = 11;

void float_functions(const float* in, float* out, int count);

void double_functions(const double* in, double* out, int count);

/// Of two halves each; bits. Bfloat16 where `is_bf16`.
void half_functions(const uint16_t* a, const uint16_t* b, uint16_t* out, int count, bool is_bf16);

void integer_functions(const int32_t* a, const int32_t* b, int64_t* out, int count);

/// Of whole warps: count is a multiple of 32.
void warp_functions(const int32_t* in, int32_t* out, int count);

/// totals: atomic sum, minimum, maximum, or, and, xor of int32; then of float: sum.
void atomic_functions(const int32_t* in, int32_t* totals, float* float_sum, double* double_sum,
                      int count);

/// out[i] = in[count - 1 - i], count <= 64, through a shared address that only wrapping at 32 bits
/// makes right: newer compilers write such.
void wrapping_addresses(const float* in, float* out, int count);

}  // namespace qlora::emulation::planted
