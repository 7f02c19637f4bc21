#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/gguf.h"

namespace qlora::io {

/// What the front of a GGUF file says, after every check that gguf.h promises.
struct GgufHeader {
  uint32_t version = 0;
  std::vector<GgufValue> values;
  std::vector<GgufTensor> tensors;
  std::unordered_map<std::string_view, size_t> value_index, tensor_index;
};

/// throws FormatError for every rule of the format that the file breaks
GgufHeader parse_gguf(const MappedFile& file);

/// Bytes of one number of this type; 0 for texts and arrays.
size_t gguf_type_bytes(GgufValueType type);

/// "U32", "STRING" …; "type 99" for a number that is none.
std::string gguf_type_name(GgufValueType type);

}  // namespace qlora::io
