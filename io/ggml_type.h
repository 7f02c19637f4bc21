#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace qlora::io {

/// Tensor types of GGUF files, as ggml numbers them. On disk: do not renumber.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

struct GgmlTypeInfo {
  GgmlType type;
  std::string_view name;       // "Q4_1"
  int64_t block_elements = 1;  // elements of a row that share one block
  int64_t block_bytes = 0;
  bool can_dequantize = false;
};

/// Every type whose block size is known, also those that only `inspect` can name; nullptr
/// otherwise.
const GgmlTypeInfo* find_ggml_type(uint32_t id);

/// throws ValueError for a number that is no known type
const GgmlTypeInfo& ggml_type_info(GgmlType type);

}  // namespace qlora::io
