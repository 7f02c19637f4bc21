#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "core/fields.h"

namespace qlora::lora {

/// Number type of A and B in the forward and in adapter files. The masters stay FP32.
enum class AdapterDtype { kFloat16, kBFloat16, kFloat32 };

/// Which linears get an adapter, and how large it is (Hu et al., LoRA, arXiv:2106.09685).
struct LoraOptions {
  bool enabled = true;        // false: evaluate or generate with the frozen base alone
  int64_t r = 16;             // rank R of A [R, K] and B [N, R]
  double lora_alpha = 32;     // the adapter is scaled by alpha / r, or alpha / sqrt(r)
  double lora_dropout = 0.0;  // probability, on the adapter's input, training only
  std::vector<std::string> target_modules = {"all-linear"};  // name endings, or one regex
  std::map<std::string, int64_t> rank_pattern;               // module name ending or regex -> r
  std::map<std::string, double> alpha_pattern;               // the same -> lora_alpha
  bool use_rslora = false;  // scale by alpha / sqrt(r), Kalajdzievski, arXiv:2312.03732
  AdapterDtype adapter_dtype = AdapterDtype::kFloat16;
  std::string init_adapter;  // PEFT folder to start from; empty: A random, B zero
};

}  // namespace qlora::lora

template <>
struct qlora::EnumNames<qlora::lora::AdapterDtype> {
  static constexpr std::pair<qlora::lora::AdapterDtype, const char*> kNames[] = {
      {qlora::lora::AdapterDtype::kFloat16, "fp16"},
      {qlora::lora::AdapterDtype::kBFloat16, "bf16"},
      {qlora::lora::AdapterDtype::kFloat32, "fp32"}};
};

namespace qlora::lora {

template <class V>
void fields(V& v, LoraOptions& o) {
  v("enabled", o.enabled, any_value(), "false leaves the frozen base without adapters");
  v("r", o.r, in_range(1, 1024), "rank R of A [R, K] and B [N, R]");
  v("lora_alpha", o.lora_alpha, positive(), "the adapter is scaled by lora_alpha / r");
  v("lora_dropout", o.lora_dropout, in_range(0.0, 0.99), "on the adapter's input, training only");
  v("target_modules", o.target_modules, non_empty(),
    "\"all-linear\", a list of module name endings, or one regex for the full name");
  v("rank_pattern", o.rank_pattern, any_value(), "name ending or regex -> r, where it differs");
  v("alpha_pattern", o.alpha_pattern, any_value(), "name ending or regex -> lora_alpha");
  v("use_rslora", o.use_rslora, any_value(), "scale by lora_alpha / sqrt(r)");
  v("adapter_dtype", o.adapter_dtype, any_value(),
    "number type of A and B in the forward and in adapter files; masters stay FP32");
  v("init_adapter", o.init_adapter, any_value(), "PEFT folder to start from; empty: B = 0");
  v.alias("rank", "r");
  v.alias("alpha", "lora_alpha");
  v.alias("lora_r", "r");
  v.alias("dropout", "lora_dropout");
  v.alias("lora_target_modules", "target_modules");
}

}  // namespace qlora::lora
