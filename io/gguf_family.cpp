#include "io/gguf_family.h"

#include <fmt/ranges.h>

#include <array>
#include <cmath>
#include <vector>

#include "core/error.h"
#include "io/foreign_text.h"
#include "io/tensor_layout.h"

namespace qlora::io {
namespace {

/// Mistral is written as llama: llama.cpp computes both with one graph.
const std::array<GgufFamily, 7>& families() {
  static const std::array<GgufFamily, 7> kFamilies = {{{"llama", &kLlamaFamily},
                                                       {"qwen2", &kQwen2Family},
                                                       {"qwen3", &kQwen3Family},
                                                       {"gemma2", &kGemma2Family},
                                                       {"gemma3", &kGemma3Family},
                                                       {"phi3", &kPhi3Family},
                                                       {"smollm3", &kSmolLm3Family}}};
  return kFamilies;
}

std::string model_type_of(const HfConfig& config) {
  return config.model_type == kMistralFamily.model_type ? kLlamaFamily.model_type
                                                        : config.model_type;
}

void require(bool holds, const HfConfig& config, const char* what) {
  QLORA_CHECK(holds, FormatError,
              "[io] {} cannot be written as GGUF: llama.cpp takes for granted that {}; choose "
              "another format",
              config.architecture, what);
}

/// A window in all blocks but every `pattern`th; the rotation of those in the others.
bool alternates(const HfConfig& config, int64_t pattern) {
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const bool is_full = (i + 1) % pattern == 0;
    if (is_full == (config.block(i).sliding_window > 0)) return false;
  }
  return true;
}

bool skips_every_fourth_rotation(const HfConfig& config) {
  for (int64_t i = 0; i < config.num_hidden_layers; ++i) {
    if (((i + 1) % 4 == 0) != (config.block(i).rope == RopeUse::kNone)) return false;
  }
  return true;
}

bool has_usual_query_scale(const HfConfig& config) {
  const double usual = 1 / std::sqrt(static_cast<double>(gguf_query_scalar(config)));
  return std::abs(config.query_scale() - usual) <= 1e-6 * usual;
}

void check_gguf_family(const HfConfig& config) {
  const Architecture& arch = config.arch;
  const std::string type = model_type_of(config);
  const bool is_gemma2 = type == kGemma2Family.model_type;
  const bool is_gemma3 = type == kGemma3Family.model_type;
  if (type == kQwen2Family.model_type || type == kQwen3Family.model_type ||
      type == kSmolLm3Family.model_type) {
    require(window_of(config) == 0, config, "no block has a window");
  }
  if (type != kLlamaFamily.model_type) {
    require(!arch.output_bias && !arch.mlp_bias, config, "o_proj and the MLP have no bias");
    require(arch.qkv_bias == (type == kQwen2Family.model_type), config,
            "q, k and v have a bias in Qwen 2 alone");
  }
  if (type == kSmolLm3Family.model_type) {
    require(skips_every_fourth_rotation(config), config,
            "every fourth block turns nothing and all others do");
  }
  if (is_gemma2) {
    require(alternates(config, 2), config, "the first of every two blocks has a window");
    require(arch.attention_softcap > 0 && arch.logit_softcap > 0, config,
            "scores and logits are capped");
  }
  if (is_gemma3) {
    require(alternates(config, 6), config, "five of six blocks have a window");
    require(arch.attention_softcap == 0 && arch.logit_softcap == 0, config, "nothing is capped");
    const RopeParameters& local = *config.local_rope;
    require(local.type == RopeType::kDefault && local.theta == 1e4, config,
            "blocks with a window rotate with the base 10000");
  }
  if (is_gemma2 || is_gemma3) {
    require(has_usual_query_scale(config), config,
            "query_pre_attn_scalar is the width of a head (of the largest model hidden_size / "
            "heads)");
  }
}

}  // namespace

int64_t gguf_query_scalar(const HfConfig& config) {
  const bool is_gemma2 = config.model_type == kGemma2Family.model_type;
  const int64_t blocks_of_largest = is_gemma2 ? 46 : 62;
  return config.num_hidden_layers == blocks_of_largest
             ? config.hidden_size / config.num_attention_heads
             : config.head_dim;
}

const GgufFamily& gguf_family_named(std::string_view architecture, std::string_view where) {
  std::vector<std::string> known;
  for (const GgufFamily& family : families()) {
    if (architecture == family.name) return family;
    known.emplace_back(family.name);
  }
  throw FormatError(fmt::format("[io] {}: general.architecture is {}; known are {}", where,
                                quote(architecture), fmt::join(known, ", ")));
}

const GgufFamily& gguf_family_of(const HfConfig& config) {
  for (const GgufFamily& family : families()) {
    if (model_type_of(config) != family.family->model_type) continue;
    check_gguf_family(config);
    return family;
  }
  throw FormatError(
      fmt::format("[io] {} is not written as GGUF; choose another format", config.architecture));
}

std::string gguf_difference(const HfConfig& config) {
  const bool ignores_window = model_type_of(config) == kLlamaFamily.model_type ||
                              config.model_type == kPhi3Family.model_type;
  const int64_t window = window_of(config);
  if (!ignores_window || window == 0 || window >= config.max_position_embeddings) return "";
  return fmt::format(
      "llama.cpp computes {} without its sliding window: beyond {} tokens it sees more than the "
      "model does",
      config.architecture, window);
}

}  // namespace qlora::io
