#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/fields.h"

namespace qlora::testing {

enum class Dtype { kAuto, kBf16, kFp32 };

/// One member of every supported type, nested as the program's options are.
struct InnerOptions {
  int32_t r = 16;
  double lora_alpha = 32.0;
  std::vector<std::string> target_modules = {"all-linear"};
  std::map<std::string, int64_t> rank_pattern;
  std::map<std::string, double> alpha_pattern;
  bool operator==(const InnerOptions&) const = default;
};

struct FlatOptions {
  double learning_rate = 2e-4;
  std::optional<int64_t> max_steps;
  bool operator==(const FlatOptions&) const = default;
};

struct TestOptions {
  std::string output_dir = "runs/x";
  bool packing = true;
  uint64_t seed = 42;
  int64_t offset = -1;
  Dtype dtype = Dtype::kAuto;
  std::optional<Dtype> other_dtype;
  std::string scheduler = "linear";
  std::optional<std::string> adapter;
  FlatOptions flat;
  InnerOptions lora;
  bool operator==(const TestOptions&) const = default;
};

template <class V>
void fields(V& v, InnerOptions& o) {
  v("r", o.r, in_range(1, 1024), "rank R of A [R, K] and B [N, R]");
  v.alias("rank", "r");
  v("lora_alpha", o.lora_alpha, positive(), "the adapter is scaled by alpha / rank");
  v("target_modules", o.target_modules, non_empty(), "layers | that get adapters");
  v("rank_pattern", o.rank_pattern, in_range(1, 1024), "other ranks by name");
  v("alpha_pattern", o.alpha_pattern, positive(), "other alphas by name");
}

template <class V>
void fields(V& v, FlatOptions& o) {
  v("learning_rate", o.learning_rate, non_negative(), "peak step size");
  v.alias("lr", "learning_rate");
  v("max_steps", o.max_steps, positive(), "stops after so many steps");
}

template <class V>
void fields(V& v, TestOptions& o) {
  v("output_dir", o.output_dir, non_empty(), "the run directory");
  v("packing", o.packing, any_value(), "several examples per row");
  v("seed", o.seed, any_value(), "of everything random");
  v("offset", o.offset, any_value(), "any whole number");
  v("dtype", o.dtype, any_value(), "of the arithmetic");
  v("other_dtype", o.other_dtype, any_value(), "of other arithmetic");
  v("scheduler", o.scheduler, one_of({"linear", "cosine"}), "of the step size");
  v("adapter", o.adapter, any_value(), "where to start from");
  v.inline_section(o.flat);
  v.section("lora", o.lora, "The adapters.");
  v.alias("lora_r", "lora.r");
}

}  // namespace qlora::testing

template <>
struct qlora::EnumNames<qlora::testing::Dtype> {
  static constexpr std::pair<testing::Dtype, const char*> kNames[] = {
      {testing::Dtype::kAuto, "auto"},
      {testing::Dtype::kBf16, "bf16"},
      {testing::Dtype::kBf16, "bfloat16"},
      {testing::Dtype::kFp32, "fp32"}};
};
