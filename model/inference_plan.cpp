#include "model/inference_plan.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/progress.h"
#include "model/activation_plan.h"
#include "model/disk_plan.h"
#include "model/memory_plan.h"

namespace qlora::model {
namespace {

constexpr int64_t kGroup = 128;          // columns that share a scale
constexpr int64_t kPrefillTokens = 512;  // engines feed a prompt in pieces
constexpr WeightScheme kSchemes[] = {WeightScheme::kFp32, WeightScheme::kFp16, WeightScheme::kInt8,
                                     WeightScheme::kInt4, WeightScheme::kNf4,  WeightScheme::kInt3,
                                     WeightScheme::kInt2};

int64_t held_bytes(const io::HfConfig& config, WeightScheme scheme) {
  if (scheme == WeightScheme::kFp32) return 4 * base_parameters(config);
  if (scheme != WeightScheme::kNf4) {
    return exported_bytes(config, scheme_bits(scheme), kGroup);
  }
  PlanShape shape{.config = config};
  shape.lora.enabled = false;
  return frozen_matrix_bytes(shape, planned_linears(shape)) + embedding_bytes(shape);
}

int64_t overhead_bytes(const InferenceShape& shape, WeightScheme scheme) {
  PlanShape plan;
  plan.device = shape.device;
  if (!shape.config) return program_bytes(plan.device);
  plan.config = *shape.config;
  plan.lora.enabled = false;
  plan.compute_bytes = scheme == WeightScheme::kFp32 ? 4 : 2;
  plan.load_in_4bit = scheme_bits(scheme) < 16;
  const int64_t tokens = std::min(shape.context_tokens, kPrefillTokens);
  const MicroBatch prompt{.rows = 1, .tokens = tokens, .longest_row = tokens};
  const int64_t logits = 4 * plan.config.vocab_size * shape.batch;
  return program_bytes(plan.device) + block_activations(plan, prompt, {}).forward + logits +
         decode_tile_bytes(plan, planned_linears(plan));
}

const SchemeMemory& find(const std::vector<SchemeMemory>& schemes, WeightScheme scheme) {
  return *std::find_if(schemes.begin(), schemes.end(),
                       [&](const SchemeMemory& memory) { return memory.scheme == scheme; });
}

std::string gigabytes(int64_t bytes) {
  return bytes_text(static_cast<uint64_t>(bytes));
}

Recommendation four_bits(const SchemeMemory& memory, ServingGoal goal) {
  if (goal == ServingGoal::kAccuracy) {
    return {.scheme = WeightScheme::kInt4,
            .name = "W4A16, GPTQ with desc_act",
            .reason = fmt::format("8 bits do not fit; 4-bit weights take {}, and GPTQ in the order "
                                  "of the activations loses least of them",
                                  gigabytes(memory.total())),
            .command = "--quantization-type gptq --bits 4 --set export.desc_act=true"};
  }
  return {.scheme = WeightScheme::kInt4,
          .name = "W4A16, AWQ",
          .reason = fmt::format("4-bit weights take {}; AWQ is quick to make and has the fastest "
                                "kernels (GPTQ with desc_act loses a little less)",
                                gigabytes(memory.total())),
          .command = "--quantization-type awq --bits 4"};
}

void check_sizes(const InferenceShape& shape, int64_t parameters) {
  constexpr int64_t kMost = int64_t{1} << 30;
  QLORA_CHECK(parameters >= 1 && shape.context_tokens >= 1 && shape.context_tokens <= kMost &&
                  shape.batch >= 1 && shape.batch <= kMost,
              ValueError,
              "[plan] {} parameters, a context of {} tokens and a batch of {} are asked for; "
              "allowed at least 1 each, context and batch at most {}",
              parameters, shape.context_tokens, shape.batch, kMost);
  const int64_t bits = shape.kv_bits;
  QLORA_CHECK(bits == 4 || bits == 8 || bits == 16 || bits == 32, ValueError,
              "[plan] keys and values have {} bits, allowed: 4, 8, 16, 32", bits);
  if (!shape.config) return;
  const io::HfConfig& c = *shape.config;
  const double numbers = 2.0 * static_cast<double>(c.num_hidden_layers) *
                         static_cast<double>(c.num_key_value_heads * c.head_dim) *
                         static_cast<double>(shape.context_tokens) *
                         static_cast<double>(shape.batch);
  QLORA_CHECK(numbers < 0x1p56, ValueError,
              "[plan] a cache for a context of {} tokens and a batch of {} has {:.3g} numbers, "
              "allowed less than 2^56; take a smaller context or batch",
              shape.context_tokens, shape.batch, numbers);
}

}  // namespace

const char* scheme_name(WeightScheme scheme) {
  switch (scheme) {
    case WeightScheme::kFp32:
      return "FP32";
    case WeightScheme::kFp16:
      return "FP16";
    case WeightScheme::kInt8:
      return "INT8";
    case WeightScheme::kInt4:
      return "INT4";
    case WeightScheme::kNf4:
      return "NF4";
    case WeightScheme::kInt3:
      return "INT3";
    case WeightScheme::kInt2:
      break;
  }
  return "INT2";
}

int64_t scheme_bits(WeightScheme scheme) {
  switch (scheme) {
    case WeightScheme::kFp32:
      return 32;
    case WeightScheme::kFp16:
      return 16;
    case WeightScheme::kInt8:
      return 8;
    case WeightScheme::kInt4:
    case WeightScheme::kNf4:
      return 4;
    case WeightScheme::kInt3:
      return 3;
    case WeightScheme::kInt2:
      break;
  }
  return 2;
}

int64_t weight_formula_bytes(int64_t parameters, int64_t bits) {
  return parameters / 8 * bits + parameters % 8 * bits / 8;
}

int64_t kv_cache_bytes(const io::HfConfig& config, int64_t context, int64_t batch, int64_t bits) {
  const int64_t numbers =
      2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * context * batch;
  return numbers * bits / 8;
}

std::vector<SchemeMemory> plan_inference(const InferenceShape& shape) {
  const int64_t parameters = shape.config ? base_parameters(*shape.config) : shape.parameters;
  check_sizes(shape, parameters);
  std::vector<SchemeMemory> schemes;
  for (const WeightScheme scheme : kSchemes) {
    SchemeMemory memory{.scheme = scheme,
                        .formula = weight_formula_bytes(parameters, scheme_bits(scheme)),
                        .overhead = overhead_bytes(shape, scheme)};
    memory.weights = shape.config ? held_bytes(*shape.config, scheme) : memory.formula;
    if (shape.config) {
      memory.kv_cache =
          kv_cache_bytes(*shape.config, shape.context_tokens, shape.batch, shape.kv_bits);
    }
    schemes.push_back(memory);
  }
  return schemes;
}

Recommendation recommend_scheme(const std::vector<SchemeMemory>& schemes, int64_t device_bytes,
                                ServingGoal goal) {
  const auto fits = [&](WeightScheme scheme) {
    return find(schemes, scheme).total() <= device_bytes;
  };
  const SchemeMemory& half = find(schemes, WeightScheme::kFp16);
  if (device_bytes >= 2 * half.weights && fits(WeightScheme::kFp16)) {
    return {.scheme = WeightScheme::kFp16,
            .name = "16 bits",
            .reason = fmt::format("the device's {} are at least twice the model's {}: nothing has "
                                  "to be given up",
                                  gigabytes(device_bytes), gigabytes(half.weights)),
            .command = "--quantization-type none"};
  }
  const bool wants_eight = goal == ServingGoal::kAccuracy || goal == ServingGoal::kBalanced;
  if (wants_eight && fits(WeightScheme::kInt8)) {
    return {.scheme = WeightScheme::kInt8,
            .name = "W8A8",
            .reason = fmt::format("less than twice the 16-bit model ({}) is there; 8 bits take {} "
                                  "and lose next to nothing",
                                  gigabytes(half.weights),
                                  gigabytes(find(schemes, WeightScheme::kInt8).total())),
            .command = "--quantization-type smoothquant"};
  }
  if (fits(WeightScheme::kInt4)) return four_bits(find(schemes, WeightScheme::kInt4), goal);
  for (const WeightScheme scheme : {WeightScheme::kInt3, WeightScheme::kInt2}) {
    if (!fits(scheme)) continue;
    return {.scheme = scheme,
            .name = fmt::format("W{}A16, GPTQ with desc_act", scheme_bits(scheme)),
            .reason = fmt::format("4 bits take {}, which is too much; {} bits cost much accuracy: "
                                  "a smaller model, context or batch is worth a try first",
                                  gigabytes(find(schemes, WeightScheme::kInt4).total()),
                                  scheme_bits(scheme)),
            .command = fmt::format("--quantization-type gptq --bits {} --set export.desc_act=true",
                                   scheme_bits(scheme))};
  }
  const SchemeMemory& least = find(schemes, WeightScheme::kInt2);
  return {.name = "none",
          .reason = fmt::format("even 2 bits take {}, of which keys and values {}; take a smaller "
                                "context, batch or model, or a larger device",
                                gigabytes(least.total()), gigabytes(least.kv_cache))};
}

}  // namespace qlora::model
