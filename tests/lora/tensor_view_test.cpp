#include "lora/tensor_view.h"

#include <ATen/ops/ones.h>
#include <ATen/ops/randn.h>
#include <ATen/ops/zeros.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

#include "core/error.h"
#include "tests/support/errors.h"

namespace qlora::lora {
namespace {

using testing::message_of;

/// Written down a second time; all other types are refused.
const std::vector<std::pair<io::DType, torch::ScalarType>> kPairs = {
    {io::DType::kF32, torch::kFloat32},
    {io::DType::kF16, torch::kFloat16},
    {io::DType::kBF16, torch::kBFloat16},
    {io::DType::kF64, torch::kFloat64},
    {io::DType::kF8E4M3, torch::kFloat8_e4m3fn},
    {io::DType::kI8, torch::kInt8},
    {io::DType::kU8, torch::kUInt8},
    {io::DType::kI32, torch::kInt32},
    {io::DType::kI64, torch::kInt64}};

TEST(TensorView, TypesOfFilesAndOfLibtorchCorrespond) {
  for (const auto& [in_file, in_memory] : kPairs) {
    EXPECT_EQ(file_dtype(in_memory), in_file) << io::dtype_name(in_file);
    EXPECT_EQ(torch_dtype(in_file), in_memory) << io::dtype_name(in_file);
    EXPECT_EQ(io::dtype_bytes(in_file), static_cast<int64_t>(c10::elementSize(in_memory)));
  }
}

TEST(TensorView, RefusesTypesThatModelFilesDoNotHold) {
  EXPECT_EQ(message_of<ValueError>([] { file_dtype(torch::kComplexFloat); }),
            "[lora] the number type ComplexFloat is none that model files hold");
  for (const auto dtype : {torch::kBool, torch::kInt16, torch::kFloat8_e5m2}) {
    EXPECT_ERROR(ValueError, file_dtype(dtype), "is none that model files hold");
  }
}

TEST(TensorView, RefusesTypesThatAreNotComputedWith) {
  EXPECT_EQ(message_of<FormatError>([] { torch_dtype(io::DType::kBool); }),
            "[lora] the number type BOOL of a file is none that is computed with");
  for (const auto dtype : {io::DType::kI16, io::DType::kF8E5M2}) {
    EXPECT_ERROR(FormatError, torch_dtype(dtype), "is none that is computed with");
  }
}

TEST(TensorView, KnowsTheTypesOfModelFiles) {
  const torch::Tensor tensor = at::ones({2, 3}, torch::kInt32);
  const io::TensorView view = tensor_view("a", tensor);
  EXPECT_EQ(view.name, "a");
  EXPECT_EQ(view.dtype, io::DType::kI32);
  EXPECT_EQ(view.shape, (std::vector<int64_t>{2, 3}));
  EXPECT_EQ(view.bytes.size(), 24U);
  EXPECT_EQ(static_cast<const void*>(view.bytes.data()), tensor.const_data_ptr());
  const torch::Tensor complex = at::ones({2}, torch::kComplexFloat);
  EXPECT_EQ(message_of<ValueError>([&] { tensor_view("b", complex); }),
            "[lora] the number type ComplexFloat is none that model files hold (tensor b)");
}

TEST(TensorView, CopiesBytesThatAreNotAligned) {
  for (const auto& [in_file, in_memory] : kPairs) {
    const torch::Tensor tensor = at::randn({3, 5}).to(in_memory);
    std::vector<std::byte> file(static_cast<size_t>(tensor.nbytes()) + 1);
    std::memcpy(file.data() + 1, tensor.const_data_ptr(), tensor.nbytes());
    const torch::Tensor copy = tensor_copy({.name = "a",
                                            .dtype = in_file,
                                            .shape = {3, 5},
                                            .bytes = {file.data() + 1, file.size() - 1}});
    EXPECT_EQ(copy.scalar_type(), in_memory);
    EXPECT_EQ(copy.sizes(), tensor.sizes());
    std::fill(file.begin(), file.end(), std::byte{0});  // it has memory of its own
    ASSERT_EQ(copy.nbytes(), tensor.nbytes());
    EXPECT_EQ(std::memcmp(copy.const_data_ptr(), tensor.const_data_ptr(), tensor.nbytes()), 0)
        << io::dtype_name(in_file);
  }
}

TEST(TensorView, CopiesScalarsAndNothing) {
  const torch::Tensor scalar = at::ones({}, torch::kFloat32);
  const torch::Tensor copy = tensor_copy(tensor_view("a", scalar));
  EXPECT_EQ(copy.dim(), 0);
  EXPECT_EQ(copy.item<float>(), 1);
  const torch::Tensor empty = tensor_copy(tensor_view("a", at::zeros({0, 4}, torch::kInt8)));
  EXPECT_EQ(empty.sizes(), (std::vector<int64_t>{0, 4}));
}

TEST(TensorView, ACopyOfAnotherTypeIsRefusedByName) {
  const std::byte bytes[2] = {};
  const io::TensorView view{
      .name = "flags", .dtype = io::DType::kBool, .shape = {2}, .bytes = bytes};
  EXPECT_EQ(message_of<FormatError>([&] { tensor_copy(view); }),
            "[lora] the number type BOOL of a file is none that is computed with (tensor flags)");
}

}  // namespace
}  // namespace qlora::lora
