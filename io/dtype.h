#pragma once

#include <cstdint>
#include <string_view>

namespace qlora::io {

/// Element types of safetensors files that the program reads and writes.
/// The order is the writer's: the reference library stores tensors by falling type, then by name.
enum class DType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E5M2,
  kF8E4M3,
  kI16,
  kF16,
  kBF16,
  kI32,
  kF32,
  kF64,
  kI64,
};

/// Bytes of one element.
int64_t dtype_bytes(DType dtype);

/// Name in a safetensors header: "F32", "BF16", "F8_E4M3" …
std::string_view dtype_name(DType dtype);

/// Type of a safetensors name.
///   throws    FormatError that lists the known names; `where` is the file for the message
DType dtype_from_name(std::string_view name, std::string_view where);

/// True for the types that read_f32 converts: all but BOOL and the integers.
bool is_float(DType dtype);

}  // namespace qlora::io
