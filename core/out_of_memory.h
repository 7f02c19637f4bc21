#pragma once

#include <cstdint>
#include <exception>
#include <optional>

namespace qlora {

/// Memory that ran out, on whichever side.
struct OutOfMemory {
  bool is_device = false;                // of a GPU; else of the machine
  std::optional<uint64_t> wanted_bytes;  // what was asked for last, where the exception says it
};

/// What an exception says of memory: std::bad_alloc, and what libtorch's allocators, CUDA and
/// cuBLAS say, which are known by their texts because core sees no torch. Nothing for other
/// exceptions.
std::optional<OutOfMemory> as_out_of_memory(const std::exception& error);

}  // namespace qlora
