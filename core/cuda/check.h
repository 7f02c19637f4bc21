#pragma once

#include <cuda_runtime_api.h>

#include <source_location>

namespace qlora::cuda {

/// Turns a failed CUDA call into DeviceError: what failed, where, and what to do about it.
///   Example   check(cudaMalloc(&p, bytes)); kernel<<<…>>>(…); check(cudaGetLastError());
///   throws    DeviceError
void check(cudaError_t status, std::source_location where = std::source_location::current());

}  // namespace qlora::cuda
