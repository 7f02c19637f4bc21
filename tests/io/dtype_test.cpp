#include "io/dtype.h"

#include "tests/io/test_files.h"

namespace qlora::io {
namespace {

constexpr DType kAll[] = {DType::kBool,   DType::kU8,  DType::kI8,  DType::kF8E5M2,
                          DType::kF8E4M3, DType::kI16, DType::kF16, DType::kBF16,
                          DType::kI32,    DType::kF32, DType::kF64, DType::kI64};

TEST(DType, NamesGoBothWays) {
  for (const DType dtype : kAll) EXPECT_EQ(dtype_from_name(dtype_name(dtype), "x"), dtype);
}

TEST(DType, SizesFollowTheNames) {
  for (const DType dtype : kAll) {
    const std::string name(dtype_name(dtype));
    const int64_t bits =
        name == "BOOL" ? 8 : std::stoi(name.substr(name.find_first_of("0123456789")));
    EXPECT_EQ(dtype_bytes(dtype) * 8, bits) << name;
    EXPECT_EQ(is_float(dtype), name.find('F') != std::string::npos) << name;
  }
}

TEST(DType, RefusesUnknownNamesAndListsTheKnown) {
  EXPECT_MESSAGE(FormatError, dtype_from_name("F4", "a.safetensors"),
                 "a.safetensors: unknown tensor type 'F4'; known are BOOL, U8, I8, F8_E5M2, "
                 "F8_E4M3, I16, F16, BF16, "
                 "I32, F32, F64, I64");
  EXPECT_MESSAGE(FormatError, dtype_from_name("f32\n", "a"), "'f32\\x0a'");
}

}  // namespace
}  // namespace qlora::io
