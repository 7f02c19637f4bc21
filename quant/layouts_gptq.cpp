// GPTQ's and AWQ's layouts: words of codes with the input columns down and the rows of the weight
// across, zero points packed the same way.
#include <ATen/core/grad_mode.h>

#include "quant/checks.h"
#include "quant/layouts.h"
#include "quant/layouts_parts.h"
#include "quant/layouts_streams.h"
#include "quant/pack_words_backend.h"
#include "quant/packed_layout_math.h"

namespace qlora::quant {
namespace {

using namespace layouts;  // NOLINT: what all layouts share
using torch::Tensor;

/// Adds or subtracts what v1 takes off every zero point, whole words at a time as GPTQModel does. A
/// carry leaves a word only where numbers straddle words.
void shift_v1_zeros(const Tensor& words, int64_t bits, bool add) {
  uint32_t* out = mutable_words_of(words);
  const int64_t stride = words.size(1);
  uint64_t carry = 0;
  for (int64_t i = 0; i < words.numel(); ++i) {
    const int64_t word = i % stride;
    if (32 % bits == 0 || word % bits == 0) carry = 0;  // 32 numbers fill `bits` words
    const uint64_t change = stream_of_ones(word, bits) + carry;
    carry = add ? (out[i] + change) >> 32 : uint64_t{out[i] < change};
    out[i] = static_cast<uint32_t>(add ? out[i] + change : out[i] - change);
  }
}

/// words [rows, N / 8] of AWQ's nibbles -> codes [rows, N].
Tensor unpack_awq(const Tensor& words) {
  const int64_t count = words.numel();
  Tensor codes = torch::empty({words.size(0), words.size(1) * 8}, torch::kUInt8);
  uint8_t* out = codes.mutable_data_ptr<uint8_t>();
  const uint32_t* in = words_of(words);
  for (int64_t w = 0; w < count; ++w) {
    for (int c = 0; c < 8; ++c) out[8 * w + c] = (in[w] >> (4 * awq_nibble(c))) & 15u;
  }
  return codes;
}

/// Codes [N, columns] -> words [columns, N / 8] of AWQ's nibbles.
Tensor pack_awq(const Tensor& codes) {
  Tensor words = torch::empty({codes.size(1), codes.size(0) / 8}, torch::kInt32);
  cpu::pack_words({.order = WordOrder::kAwq,
                   .codes = codes.const_data_ptr<uint8_t>(),
                   .rows = codes.size(0),
                   .cols = codes.size(1),
                   .bits = 4,
                   .words = mutable_words_of(words)});
  return words;
}

}  // namespace

TensorMap to_gptq(const AffineTensor& t, GptqFormat format) {
  const at::NoGradGuard no_grad;
  check_written(t);
  QLORA_CHECK(t.rows() % 32 == 0 && t.cols() % 32 == 0, ShapeError,
              "[quant] a weight [{}, {}] does not fit the GPTQ layout, allowed multiples of 32; "
              "leave this matrix out or write compressed-tensors",
              t.rows(), t.cols());
  const int64_t bits = t.options.bits;
  const Tensor group_of =
      t.group_of.defined() ? t.group_of.contiguous() : runs_of(t.cols(), t.cols() / t.groups());
  const Tensor zeros = t.zeros.t().contiguous();  // [groups, N]
  Tensor packed_zeros = pack_rows(zeros, bits);
  if (format == GptqFormat::kV1) {
    QLORA_CHECK(zeros.min().item<uint8_t>() > 0, ValueError,
                "[quant] a zero point is 0, which the GPTQ v1 layout cannot hold (its readers "
                "disagree); quantize with least_zero 1, or write gptq_v2");
    shift_v1_zeros(packed_zeros, bits, /*add=*/false);
  }
  return {{"qweight", pack_columns(t.codes.contiguous(), bits)},
          {"qzeros", packed_zeros},
          {"scales", written_scales(t.scales.t(), t.options.scale_type)},
          {"g_idx", group_of}};
}

AffineTensor from_gptq(const TensorMap& tensors, GptqFormat format, int64_t bits,
                       int64_t group_size) {
  const at::NoGradGuard no_grad;
  check_bits<FormatError>(bits);
  const Tensor& words = tensor_at(tensors, "qweight", torch::kInt32, 2);
  const int64_t n = words.size(1), cols = words.size(0) * 32 / bits;
  if (words.size(0) * 32 % bits != 0) {
    refuse("qweight has {} rows of words, allowed a multiple of {}", words.size(0), bits);
  }
  const int64_t size = group_columns(cols, group_size), groups = (cols + size - 1) / size;
  const auto [scales, scale_type] = scales_at(tensors, "scales");
  check_sizes("scales", scales, {groups, n});
  const Tensor zeros = tensor_at(tensors, "qzeros", torch::kInt32, 2).clone();
  check_sizes("qzeros", zeros, {groups, stream_words(n, bits)});
  if (format == GptqFormat::kV1) shift_v1_zeros(zeros, bits, /*add=*/true);
  AffineTensor t;
  t.options = {.bits = bits, .group_size = group_size, .scale_type = scale_type};
  t.scales = scales.t().contiguous();
  t.zeros = unpack_rows(zeros, n, bits).t().contiguous();
  t.group_of = groups_at(tensors, "g_idx", cols, groups, size);
  t.codes = unpack_columns(words, cols, bits);
  set_rule(t);
  return t;
}

TensorMap to_awq_gemm(const AffineTensor& t) {
  const at::NoGradGuard no_grad;
  check_written(t);
  QLORA_CHECK(t.options.bits == 4, ValueError, "[quant] bits is {}, the AWQ layout holds 4",
              t.options.bits);
  QLORA_CHECK(t.rows() % 8 == 0 && !t.group_of.defined(), ShapeError,
              "[quant] a weight [{}, {}]{} does not fit the AWQ layout, allowed N a multiple of 8 "
              "and groups that are runs of columns; leave this matrix out or write GPTQ",
              t.rows(), t.cols(), t.group_of.defined() ? " with reordered columns" : "");
  return {{"qweight", pack_awq(t.codes.contiguous())},
          {"qzeros", pack_awq(t.zeros.contiguous())},
          {"scales", written_scales(t.scales.t(), t.options.scale_type)}};
}

AffineTensor from_awq_gemm(const TensorMap& tensors, int64_t group_size) {
  const at::NoGradGuard no_grad;
  const Tensor& words = tensor_at(tensors, "qweight", torch::kInt32, 2);
  const int64_t cols = words.size(0), n = words.size(1) * 8;
  const int64_t size = group_columns(cols, group_size);
  if (cols % size != 0) refuse("group_size {} does not divide the {} columns", size, cols);
  const auto [scales, scale_type] = scales_at(tensors, "scales");
  check_sizes("scales", scales, {cols / size, n});
  const Tensor& zeros = tensor_at(tensors, "qzeros", torch::kInt32, 2);
  check_sizes("qzeros", zeros, {cols / size, words.size(1)});
  AffineTensor t;
  t.options = {.bits = 4, .group_size = group_size, .scale_type = scale_type};
  t.scales = scales.t().contiguous();
  t.zeros = unpack_awq(zeros).t().contiguous();
  t.codes = unpack_awq(words).t().contiguous();
  set_rule(t);
  return t;
}

}  // namespace qlora::quant
