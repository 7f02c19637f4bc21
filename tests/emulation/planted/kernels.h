#pragma once

#include <cuda_runtime_api.h>

// Kernels with a bug planted, and the same without it. The emulation has to tell them apart.

namespace qlora::emulation::planted {

enum class Variant { kRight, kWrong };

inline constexpr int kThreads = 128;  // of every block here

/// out[i] = in[kThreads - 1 - i] of each block, through shared memory. Wrong: no __syncthreads().
void reverse_blocks(Variant variant, const float* in, float* out, int count, cudaStream_t stream);

/// out[b] = sum and out[b + blocks] = maximum of a block, with one shared array for both. Wrong: no
/// barrier between the two uses.
void sum_and_maximum(Variant variant, const float* in, float* out, int count);

/// out[w] = sum of a warp's values. Wrong: half of the lanes take part in a shuffle for all.
void warp_sums(Variant variant, const float* in, float* out, int count);

/// out[i] = 2 in[i]. Wrong: the last block's threads write behind the end.
void twice(Variant variant, const float* in, float* out, int count);

/// *out = number of values above 0. Wrong: blocks add without an atomic operation.
void count_positive(Variant variant, const float* in, int* out, int count);

/// out[i] = in[i ^ 1], handed over in shared memory within a warp. Wrong: no __syncwarp().
void swap_neighbours(Variant variant, const float* in, float* out, int count);

/// out[i] = in[i] where all threads meet one barrier. Wrong: the halves of a block meet two.
void meet(Variant variant, const float* in, float* out, int count);

/// out[i] = shared[i] that the thread has written. Wrong: every second thread has not.
void keep_shared(Variant variant, const float* in, float* out, int count);

/// *out = sum of in: each block stores its sum, the last to finish adds them (CUDA's
/// threadFenceReduction). Wrong: no __threadfence() before the ticket is taken.
void sum_in_last_block(Variant variant, const float* in, float* partial, unsigned* ticket,
                       float* out, int count);

/// out[i] = in[i], four at a time. Wrong: from an address that is no multiple of 16.
void copy_four(Variant variant, const float* in, float* out, int count);

/// out[i] = in[i] after half of a warp waits for the other half. Wrong: which waits elsewhere.
void wait_in_halves(Variant variant, const float* in, float* out, int count);

/// out[i] = in[count - 1 - i] through dynamic shared memory; count <= kThreads. Wrong: one element
/// less of it than is used.
void reverse_dynamic(Variant variant, const float* in, float* out, int count);

/// out[i] += in[i], one thread each.
void add_to(const float* in, float* out, int count, cudaStream_t stream);

}  // namespace qlora::emulation::planted
