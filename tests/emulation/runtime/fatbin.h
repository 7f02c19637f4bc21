#pragma once

#include <cstdint>
#include <string_view>

namespace qlora::emulation {

/// The PTX of a fat binary for the highest compute capability that is not above `capability`;
/// empty where it has none. Its layout is that of translator/fatbin.py.
///   wrapper   what nvcc's code hands to __cudaRegisterFatBinary
std::string_view find_ptx(const void* wrapper, int capability);

/// FNV-1a, 64 bits; translator/emit.py has the same.
uint64_t hash_of(std::string_view text);

}  // namespace qlora::emulation
