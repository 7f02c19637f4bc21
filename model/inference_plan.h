#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/hf_config.h"
#include "model/plan_shape.h"

namespace qlora::model {

/// How the weights of a served model are held.
enum class WeightScheme { kFp32, kFp16, kInt8, kInt4, kNf4, kInt3, kInt2 };

const char* scheme_name(WeightScheme scheme);
int64_t scheme_bits(WeightScheme scheme);

/// What is to be served. Without a config only its number of parameters is known.
struct InferenceShape {
  std::optional<io::HfConfig> config;
  int64_t parameters = 0;  // counts where there is no config
  int64_t context_tokens = 2048;
  int64_t batch = 1;     // sequences at a time
  int64_t kv_bits = 16;  // of a number in the cache
  PlanDevice device = PlanDevice::kCuda;
};

/// Memory of one scheme.
struct SchemeMemory {
  WeightScheme scheme;
  int64_t formula = 0;  // parameters x bits / 8: what model cards say
  int64_t weights = 0;  // as held: scales beside the codes, embedding and head in 16 bits
  int64_t kv_cache = 0;
  int64_t overhead = 0;  // activations of 512 tokens, logits, one decoded matrix, the program

  int64_t total() const { return weights + kv_cache + overhead; }
};

/// parameters x bits / 8.
int64_t weight_formula_bytes(int64_t parameters, int64_t bits);

/// 2 x layers x KV heads x head width x context x bytes x batch: keys and values of all tokens.
int64_t kv_cache_bytes(const io::HfConfig& config, int64_t context, int64_t batch, int64_t bits);

/// All schemes, largest first.
///   throws    ValueError for a context, batch or number of parameters out of range, and for
///             kv_bits other than 4, 8, 16, 32
std::vector<SchemeMemory> plan_inference(const InferenceShape& shape);

/// What matters most to the one who serves.
enum class ServingGoal { kBalanced, kAccuracy, kMemory, kSpeed };

/// A way to hold the weights, and how this program makes it.
struct Recommendation {
  std::optional<WeightScheme> scheme;  // unset: nothing fits
  std::string name;                    // "W4A16 (AWQ)"
  std::string reason;
  std::string command;  // options of `qlora export`; empty where nothing is to be done
};

/// Rule    device memory at least twice the 16-bit model: 16 bits. Else, where accuracy counts and
///         it fits: 8 bits, weights and activations. Else 4-bit weights: AWQ, which is quick to
///         make and to run, or GPTQ with desc_act, which loses least. Below that 3 or 2 bits, which
///         cost much accuracy.
Recommendation recommend_scheme(const std::vector<SchemeMemory>& schemes, int64_t device_bytes,
                                ServingGoal goal);

}  // namespace qlora::model
