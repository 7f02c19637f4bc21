// How fast the kernels of generation, of the decoder and of the optimizer's step are.
#include "core/cuda/handles.h"
#include "model/cross_entropy_backend.h"
#include "model/rms_norm_backend.h"
#include "model/swiglu_backend.h"
#include "quant/affine_backend.h"
#include "quant/gemv_backend.h"
#include "tests/kernels/benchmark_arrays.h"
#include "trainer/fused_update_backend.h"
#include "trainer/gradient_norm_backend.h"

namespace qlora::testing {
namespace {

constexpr int64_t kBlock = 64, kGroup = 128;
constexpr uint16_t kHalf = 0x3800, kSmall = 0x2000;  // 0.5 and 0.0078 as F16

/// A matrix [rows, cols] of about n weights, as wide as a 7B model's.
struct Shape {
  int64_t rows, cols;

  explicit Shape(int64_t n) : rows(n < 4096 * 64 ? 64 : n / 4096), cols(n / rows) {}
};

PreparedCall prepare_gemv_nf4(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const int64_t blocks = n / kBlock;
  const quant::Nf4GemvArgs args{
      .codes = arrays->add<uint8_t>(n / 2, 0x5A),
      .scales = {.absmax = nullptr,
                 .codes = arrays->add<uint8_t>(blocks, 200),
                 .nested_absmax = arrays->add<float>((blocks + 255) / 256, 0.01f),
                 .offset = 0.02f},
      .type = quant::FourBitType::kNf4,
      .block_size = kBlock,
      .rows = s.rows,
      .cols = s.cols,
      .vectors = {arrays->add<uint16_t>(s.cols, kHalf), arrays->add<uint16_t>(s.rows, 0), 1,
                  FloatKind::kF16}};
  return call(arrays, n / 2 + blocks + 2 * (s.rows + s.cols), [=] { quant::cuda::gemv_nf4(args); });
}

PreparedCall prepare_gemv_int8(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const quant::PackedGemvArgs args{
      .weight = {.codes = arrays->add<uint8_t>(n, 130),
                 .row_bytes = s.cols,
                 .two_a_byte = false,
                 .scales = arrays->add<uint16_t>(s.rows, kSmall),
                 .scale_kind = FloatKind::kF16,
                 .zeros = arrays->add<uint8_t>(s.rows, 128),
                 .group_of = nullptr,
                 .rows = s.rows,
                 .cols = s.cols,
                 .groups = 1,
                 .group_size = s.cols,
                 .out = nullptr,
                 .out_kind = FloatKind::kF16},
      .vectors = {arrays->add<uint16_t>(s.cols, kHalf), arrays->add<uint16_t>(s.rows, 0), 1,
                  FloatKind::kF16}};
  return call(arrays, n + 5 * s.rows + 2 * s.cols, [=] { quant::cuda::gemv_packed(args); });
}

PreparedCall prepare_gemv_words(int64_t n, quant::WordLayout layout) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const int64_t groups = (s.cols + kGroup - 1) / kGroup;
  int multiprocessors = 0;
  cuda::check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, 0));
  const int64_t splits = quant::word_gemv_splits(layout, s.rows, s.cols, multiprocessors);
  const quant::WordGemvArgs args{.layout = layout,
                                 .words = arrays->add<uint32_t>(n / 8, 0x12345678),
                                 .zeros = arrays->add<uint32_t>(groups * s.rows / 8, 0x77777777),
                                 .zeros_less_one = layout == quant::WordLayout::kGptq,
                                 .scales = arrays->add<uint16_t>(groups * s.rows, kSmall),
                                 .scale_kind = FloatKind::kF16,
                                 .group_of = nullptr,
                                 .rows = s.rows,
                                 .cols = s.cols,
                                 .groups = groups,
                                 .group_size = kGroup,
                                 .vectors = {arrays->add<uint16_t>(s.cols, kHalf),
                                             arrays->add<uint16_t>(s.rows, 0), 1, FloatKind::kF16},
                                 .splits = splits,
                                 .partial = arrays->add<float>(splits * s.rows, 0)};
  return call(arrays, n / 2 + groups * s.rows * 5 / 2 + 2 * (s.rows + s.cols),
              [=] { quant::cuda::gemv_words(args); });
}

PreparedCall prepare_fake_quant(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const quant::AffineArgs args{.weight = arrays->add<float>(n, 0.5f),
                               .rows = s.rows,
                               .cols = s.cols,
                               .group_size = 32,
                               .groups = s.cols / 32,
                               .group_of = nullptr,
                               .options = {},
                               .scales = nullptr,
                               .zeros = nullptr,
                               .codes = nullptr,
                               .values = arrays->add<float>(n, 0),
                               .first_bad_row = arrays->add<int64_t>(1, INT64_MAX)};
  return call(arrays, 8 * n, [=] { quant::cuda::affine_fit_and_round(args); });
}

PreparedCall prepare_rms_norm(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const model::RmsNormArgs args{.x = arrays->add<float>(n, 0.5f),
                                .weight = arrays->add<float>(s.cols, 1),
                                .y = arrays->add<uint16_t>(n, 0),
                                .inverse_rms = arrays->add<float>(s.rows, 0),
                                .tokens = s.rows,
                                .width = s.cols,
                                .epsilon = 1e-5f,
                                .kind = FloatKind::kBF16};
  return call(arrays, 6 * n, [=] { model::cuda::rms_norm(args); });
}

PreparedCall prepare_swiglu_backward(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const model::SwigluBackwardArgs args{.dy = arrays->add<uint16_t>(n, 0x3F00),
                                       .gate = arrays->add<uint16_t>(n, 0x3F00),
                                       .up = arrays->add<uint16_t>(n, 0x3F00),
                                       .dgate = arrays->add<uint16_t>(n, 0),
                                       .dup = arrays->add<uint16_t>(n, 0),
                                       .count = n,
                                       .kind = FloatKind::kBF16};
  return call(arrays, 10 * n, [=] { model::cuda::swiglu_backward(args); });
}

PreparedCall prepare_cross_entropy(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const Shape s(n);
  const model::CrossEntropyArgs args{.logits = arrays->add<uint16_t>(n, 0x3F00),
                                     .targets = arrays->add<int64_t>(s.rows, 3),
                                     .nll = arrays->add<float>(s.rows, 0),
                                     .tokens = s.rows,
                                     .vocabulary = s.cols,
                                     .gradient_scale = 1,
                                     .want_gradient = true,
                                     .kind = FloatKind::kBF16};
  return call(arrays, 4 * n, [=] { model::cuda::cross_entropy(args); });
}

template <class Tensor>
trainer::TensorTable<Tensor> table_of(Arrays& arrays, const std::vector<Tensor>& tensors,
                                      int64_t block) {
  const auto first = trainer::first_blocks(std::span<const Tensor>(tensors), block);
  return {arrays.add(tensors), arrays.add(first), std::ssize(tensors), first.back()};
}

trainer::UpdateScalars* add_scalars(Arrays& arrays) {
  const trainer::UpdateScalars scalars{
      trainer::adamw_step(1e-4, 0.9, 0.999, 1e-8, 0.01, 3), 1, 0, 0, 1, 1};
  return arrays.add(std::vector<trainer::UpdateScalars>{scalars});
}

PreparedCall prepare_gradient_norm(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  std::vector<trainer::GradientRange> ranges;
  for (int i = 0; i < 8; ++i) ranges.push_back({arrays->add<float>(n / 8, 0.1f), n / 8});
  const auto table = table_of(*arrays, ranges, trainer::kNormBlock);
  const trainer::GradientNormArgs args{
      table, nullptr, arrays->add<double>(trainer::norm_scratch_size(table.block_count), 0),
      add_scalars(*arrays)};
  return call(arrays, 4 * n, [=] { trainer::cuda::gradient_norm(args); });
}

PreparedCall prepare_fused_adamw8(int64_t n) {
  const auto arrays = std::make_shared<Arrays>();
  const int64_t count = n / 8;
  std::vector<trainer::Adamw8Tensor> tensors;
  for (int i = 0; i < 8; ++i) {
    tensors.push_back({arrays->add<float>(count, 0.5f), arrays->add<float>(count, 0.1f),
                       arrays->add<uint8_t>(count, 140), arrays->add<uint8_t>(count, 30),
                       arrays->add<float>((count + 255) / 256, 0.1f),
                       arrays->add<float>((count + 255) / 256, 0.01f), count});
  }
  const trainer::FusedAdamw8Args args{table_of(*arrays, tensors, trainer::kAdamwBlock),
                                      add_scalars(*arrays)};
  return call(arrays, 16 * n, [=] { trainer::cuda::fused_adamw8(args); });
}

}  // namespace

std::vector<KernelBenchmark> model_benchmarks() {
  using quant::WordLayout;
  return {{"NF4 times one token, double quantization", &prepare_gemv_nf4},
          {"packed 8-bit affine times one token", &prepare_gemv_int8},
          {"GPTQ words times one token",
           [](int64_t n) { return prepare_gemv_words(n, WordLayout::kGptq); }},
          {"AWQ words times one token",
           [](int64_t n) { return prepare_gemv_words(n, WordLayout::kAwq); }},
          {"affine fake-quantization, groups of 32", &prepare_fake_quant},
          {"RMSNorm to BF16", &prepare_rms_norm},
          {"SwiGLU backward, BF16", &prepare_swiglu_backward},
          {"cross-entropy with gradient, BF16", &prepare_cross_entropy},
          {"gradient norm, eight tensors", &prepare_gradient_norm},
          {"AdamW, 8-bit states, eight tensors at once", &prepare_fused_adamw8}};
}

}  // namespace qlora::testing
