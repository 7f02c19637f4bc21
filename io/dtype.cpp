#include "io/dtype.h"

#include <array>
#include <string>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

struct Row {
  DType dtype;
  std::string_view name;
  int64_t bytes;
  bool is_float;
};

constexpr std::array<Row, 12> kRows = {{
    {DType::kBool, "BOOL", 1, false},
    {DType::kU8, "U8", 1, false},
    {DType::kI8, "I8", 1, false},
    {DType::kF8E5M2, "F8_E5M2", 1, true},
    {DType::kF8E4M3, "F8_E4M3", 1, true},
    {DType::kI16, "I16", 2, false},
    {DType::kF16, "F16", 2, true},
    {DType::kBF16, "BF16", 2, true},
    {DType::kI32, "I32", 4, false},
    {DType::kF32, "F32", 4, true},
    {DType::kF64, "F64", 8, true},
    {DType::kI64, "I64", 8, false},
}};

const Row& row(DType dtype) {
  return kRows[static_cast<size_t>(dtype)];
}

}  // namespace

int64_t dtype_bytes(DType dtype) {
  return row(dtype).bytes;
}
std::string_view dtype_name(DType dtype) {
  return row(dtype).name;
}
bool is_float(DType dtype) {
  return row(dtype).is_float;
}

DType dtype_from_name(std::string_view name, std::string_view where) {
  std::string known;
  for (const Row& candidate : kRows) {
    if (candidate.name == name) return candidate.dtype;
    known += known.empty() ? "" : ", ";
    known += candidate.name;
  }
  throw FormatError(
      fmt::format("[io] {}: unknown tensor type {}; known are {}", where, quote(name), known));
}

}  // namespace qlora::io
