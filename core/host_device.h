#pragma once

/// Marks arithmetic that the CPU and CUDA compilers share. The only place that asks who compiles.
#if defined(__CUDACC__)
#define QLORA_HD __host__ __device__ inline
#else
#define QLORA_HD inline
#endif
