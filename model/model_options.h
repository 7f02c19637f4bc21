#pragma once

#include <string>

#include "core/fields.h"

namespace qlora::model {

/// Number type of matrix products and of the activations between them.
enum class ComputeDtype { kAuto, kBFloat16, kFloat16, kFloat32 };
enum class DeviceChoice { kAuto, kCpu, kCuda };

/// What is loaded, and in which form it is computed with.
struct ModelOptions {
  std::string model_path;                            // HF directory or GGUF file
  ComputeDtype compute_dtype = ComputeDtype::kAuto;  // auto: BF16 where the CPU or GPU has it
  DeviceChoice device = DeviceChoice::kAuto;         // auto: CUDA where a driver and module are
  bool load_in_4bit = true;  // false: the base stays 16-bit (LoRA without Q)
  std::string cache_dir;     // where the quantized base is kept; empty: no cache
  bool exact_base = false;  // a base in 16 bits keeps the source's numbers, whatever is computed in
};

}  // namespace qlora::model

template <>
struct qlora::EnumNames<qlora::model::ComputeDtype> {
  using E = qlora::model::ComputeDtype;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"},      {E::kBFloat16, "bf16"},     {E::kFloat16, "fp16"},
      {E::kFloat32, "fp32"},   {E::kBFloat16, "bfloat16"}, {E::kFloat16, "float16"},
      {E::kFloat32, "float32"}};
};

template <>
struct qlora::EnumNames<qlora::model::DeviceChoice> {
  using E = qlora::model::DeviceChoice;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"}, {E::kCpu, "cpu"}, {E::kCuda, "cuda"}};
};
