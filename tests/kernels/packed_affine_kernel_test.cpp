#include <algorithm>

#include "quant/affine_math.h"
#include "quant/fp8_backend.h"
#include "quant/fp8_math.h"
#include "quant/packed_affine_backend.h"
#include "tests/kernels/back_end.h"

namespace qlora::quant {
namespace {

using testing::BackEnd;
using testing::Numbers;

void dequantize(BackEnd back_end, const PackedAffineArgs& args) {
  back_end == BackEnd::kCpu ? cpu::dequantize_packed(args) : cuda::dequantize_packed(args);
}
void dequantize(BackEnd back_end, const Fp8DequantArgs& args) {
  back_end == BackEnd::kCpu ? cpu::dequantize_fp8(args) : cuda::dequantize_fp8(args);
}

enum class Order { kGroupsInARow, kActOrder };

/// A matrix in groups, and its elements straight from affine_math.h.
class PackedAffineKernel : public testing::KernelTest {
 protected:
  void expect_matrix(int64_t rows, int64_t cols, bool two_a_byte, FloatKind scale_kind, Order order,
                     int64_t group_size = 32) {
    const int64_t groups = cols / group_size, row_bytes = two_a_byte ? (cols + 1) / 2 : cols;
    const auto codes = testing::random_bytes(rows * row_bytes, 1);
    const auto zeros = testing::random_bytes(rows * groups, 2);
    Numbers scales(scale_kind, testing::normal_values(rows * groups, 3, 0.1f));
    std::vector<int32_t> group_of(cols);
    for (int64_t k = 0; k < cols; ++k) {
      group_of[k] =
          static_cast<int32_t>(order == Order::kActOrder ? k * 7 % groups : k / group_size);
    }
    Numbers want(kind(), rows * cols);
    for (int64_t i = 0; i < rows * cols; ++i) {
      const int64_t row = i / cols, col = i % cols, at = row * groups + group_of[col];
      const uint8_t code = packed_code(codes.data() + row * row_bytes, col, two_a_byte);
      want.set(i, affine_value(code, {scales.get(at), zeros[at]}));
    }
    auto device_codes = array(codes);
    auto device_zeros = array(zeros);
    auto device_groups = array(group_of);
    auto device_scales = testing::DeviceNumbers({back_end(), scale_kind}, scales);
    Numbers nothing(kind(), rows * cols);
    auto out = numbers(nothing);
    dequantize(back_end(), {.codes = device_codes.data(),
                            .row_bytes = row_bytes,
                            .two_a_byte = two_a_byte,
                            .scales = device_scales.data(),
                            .scale_kind = scale_kind,
                            .zeros = device_zeros.data(),
                            .group_of = order == Order::kActOrder ? device_groups.data() : nullptr,
                            .rows = rows,
                            .cols = cols,
                            .groups = groups,
                            .group_size = group_size,
                            .out = out.data(),
                            .out_kind = kind()});
    EXPECT_TRUE(same_bits(out.values(), want)) << rows << " x " << cols;
  }
};

TEST_P(PackedAffineKernel, EveryElementIsTheMath) {
  for (const FloatKind scale_kind : testing::kFloatKinds) {
    for (const bool two_a_byte : {false, true}) {
      for (const Order order : {Order::kGroupsInARow, Order::kActOrder}) {
        expect_matrix(1, 32, two_a_byte, scale_kind, order);
        expect_matrix(5, 96, two_a_byte, scale_kind, order);
        expect_matrix(8, 128, two_a_byte, scale_kind, order);
        expect_matrix(9, 45, two_a_byte, scale_kind, order, 15);  // no row is aligned
        expect_matrix(4, 24, two_a_byte, scale_kind, order, 12);  // a run lies in two groups
      }
    }
  }
}

TEST_P(PackedAffineKernel, BlocksAreManyAndTheLastIsRagged) {
  for (const bool two_a_byte : {false, true}) {
    expect_matrix(33, 512, two_a_byte, FloatKind::kF16, Order::kGroupsInARow, 128);
  }
}

class Fp8Kernel : public testing::KernelTest {};

TEST_P(Fp8Kernel, EveryCodeIsTheMath) {
  for (const bool scale_per_row : {false, true}) {
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 254}, {7, 254}, {33, 512}}) {
      std::vector<uint8_t> codes(rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        const auto code = static_cast<uint8_t>(i % 254);  // the codes that are numbers
        codes[i] = static_cast<uint8_t>(code < 0x7F ? code : code + 1);
      }
      const auto scales = testing::normal_values(scale_per_row ? rows : 1, 4, 0.5f);
      Numbers want(kind(), rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        want.set(i, fp8_to_float(codes[i]) * scales[scale_per_row ? i / cols : 0]);
      }
      auto device_codes = array(codes);
      auto device_scales = array(scales);
      Numbers nothing(kind(), rows * cols);
      auto out = numbers(nothing);
      dequantize(back_end(), Fp8DequantArgs{device_codes.data(), device_scales.data(),
                                            scale_per_row, rows, cols, out.data(), kind()});
      EXPECT_TRUE(same_bits(out.values(), want)) << rows;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, PackedAffineKernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);
INSTANTIATE_TEST_SUITE_P(All, Fp8Kernel, ::testing::ValuesIn(testing::kernel_cases()),
                         testing::case_name);

}  // namespace
}  // namespace qlora::quant
