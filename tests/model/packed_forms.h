#pragma once

#include <torch/types.h>

#include <nlohmann/json.hpp>

#include "quant/affine.h"
#include "quant/fp8.h"
#include "quant/layouts.h"
#include "quant/nf4.h"

namespace qlora::testing {

// Linears in the packed forms of other programs, and the quantization_config of each.

/// One linear in a packed form and the numbers it stands for.
struct Packed {
  quant::TensorMap parts;
  torch::Tensor weight;  // [N, K] f32
};

inline quant::AffineTensor affine(const torch::Tensor& weight, int64_t bits, quant::GridRule rule,
                                  int64_t group_size, int64_t least_zero = 0) {
  return quant::quantize_affine(weight, {.bits = bits,
                                         .group_size = group_size,
                                         .rule = rule,
                                         .scale_type = quant::ScaleType::kF16,
                                         .least_zero = least_zero});
}

inline constexpr auto kAsymmetric = quant::GridRule::kAsymmetric;
inline constexpr auto kSymmetric = quant::GridRule::kSymmetric;

template <int kBits, quant::GptqFormat kFormat, bool kActOrder>
Packed gptq(const torch::Tensor& weight) {
  quant::AffineTensor t =
      affine(weight, kBits, kAsymmetric, 32, kFormat == quant::GptqFormat::kV1 ? 1 : 0);
  if (kActOrder) {  // the same codes, read with groups that are no runs
    t.group_of = torch::randperm(weight.size(1)).floor_divide(32).to(torch::kInt32);
  }
  return {quant::to_gptq(t, kFormat), quant::dequantize_affine(t)};
}

inline Packed awq(const torch::Tensor& weight) {
  const auto t = affine(weight, 4, kAsymmetric, 32);
  return {quant::to_awq_gemm(t), quant::dequantize_affine(t)};
}

template <int kBits, quant::GridRule kRule>
Packed pack_quantized(const torch::Tensor& weight) {
  const auto t = affine(weight, kBits, kRule, 32);
  return {quant::to_compressed_tensors(t, quant::CompressedFormat::kPackQuantized),
          quant::dequantize_affine(t)};
}

inline Packed int_quantized(const torch::Tensor& weight) {
  const auto t = affine(weight, 8, kSymmetric, -1);
  return {quant::to_compressed_tensors(t, quant::CompressedFormat::kIntQuantized),
          quant::dequantize_affine(t)};
}

template <bool kStatic>
Packed float_quantized(const torch::Tensor& weight) {
  auto t =
      quant::quantize_fp8(weight, kStatic ? quant::Fp8Scaling::kTensor : quant::Fp8Scaling::kRow,
                          quant::ScaleType::kF16);
  if (kStatic) t.input_scale = torch::full({1}, 0.03125f);
  return {quant::to_float_quantized(t), quant::dequantize_fp8(t)};
}

template <quant::FourBitType kType, bool kDouble>
Packed bnb_four_bit(const torch::Tensor& weight) {
  const auto t =
      quant::quantize_nf4(weight, {.quant_type = kType, .block_size = 64, .double_quant = kDouble});
  return {t.to_tensors("weight"), quant::dequantize_nf4(t, torch::kFloat32)};
}

inline Packed llm_int8(const torch::Tensor& weight) {
  const auto absmax = weight.abs().amax(1);
  const auto codes = (weight * (127.0 / absmax.view({-1, 1}))).round().to(torch::kInt8);
  const auto scales = absmax.view({-1, 1}).div(127.0);
  return {{{"weight", codes}, {"SCB", absmax}}, codes.to(torch::kFloat32) * scales};
}

inline nlohmann::json gptq_config(int bits, const char* format = "gptq", bool desc_act = false) {
  return {{"quant_method", "gptq"}, {"bits", bits}, {"group_size", 32},
          {"desc_act", desc_act},   {"sym", false}, {"checkpoint_format", format}};
}

inline nlohmann::json compressed_config(const char* format, int bits, const char* type,
                                        const char* strategy,
                                        const nlohmann::json& inputs = nullptr) {
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"ignore", {"lm_head"}},
          {"config_groups",
           {{"group_0",
             {{"targets", {"Linear"}},
              {"weights",
               {{"num_bits", bits}, {"type", type}, {"strategy", strategy}, {"group_size", 32}}},
              {"input_activations", inputs}}}}}};
}

inline nlohmann::json inputs(const char* type, const char* strategy, bool dynamic) {
  return {{"num_bits", 8},
          {"type", type},
          {"strategy", strategy},
          {"dynamic", dynamic},
          {"symmetric", true}};
}

inline nlohmann::json bnb_config(const char* type) {
  return {{"quant_method", "bitsandbytes"}, {"load_in_4bit", true}, {"bnb_4bit_quant_type", type}};
}

}  // namespace qlora::testing
