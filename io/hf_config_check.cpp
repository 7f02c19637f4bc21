#include "io/hf_config_check.h"

#include <cmath>
#include <string>

#include "core/error.h"
#include "io/family.h"
#include "io/foreign_text.h"
#include "io/hf_rope.h"

namespace qlora::io {
namespace {

void check(bool condition, std::string_view where, const char* key, int64_t value,
           const std::string& allowed) {
  QLORA_CHECK(condition, FormatError, "[io] {}: {} is {}, {} is allowed", where, key, value,
              allowed);
}

void check_range(std::string_view where, const char* key, int64_t value, int64_t most) {
  check(value >= 1 && value <= most, where, key, value, fmt::format("1 to {}", most));
}

void check_rope(const HfConfig& config, const RopeParameters& rope, const Family& family,
                std::string_view where) {
  validate_rope(rope, std::string(where));
  QLORA_CHECK(rope.partial_rotary_factor == 1.0 || family.has_partial_rotary, FormatError,
              "[io] {}: partial_rotary_factor is {}, but the architecture {} rotates whole heads",
              where, rope.partial_rotary_factor, config.architecture);
  const int64_t dim = rope.rotary_dim(config.head_dim);
  QLORA_CHECK(dim >= 2 && dim % 2 == 0, FormatError,
              "[io] {}: partial_rotary_factor is {}, which makes {} of {} dimensions of a head "
              "rotate; an even number is allowed",
              where, rope.partial_rotary_factor, dim, config.head_dim);
  check(rope.type != RopeType::kDynamic || dim > 2, where, "head_dim", config.head_dim,
        "with dynamic rope scaling 4 or more");
  if (rope.type != RopeType::kLongrope) return;
  for (const auto& [key, list] :
       {std::pair("short_factor", &rope.short_factor), {"long_factor", &rope.long_factor}}) {
    QLORA_CHECK(list->size() == static_cast<size_t>(dim / 2), FormatError,
                "[io] {}: rope {} holds {} numbers, {} are needed: one for each pair of dimensions",
                where, key, list->size(), dim / 2);
  }
  // The attention factor divides by its logarithm.
  check(rope.attention_factor || rope.original_max_position_embeddings > 1, where,
        "original_max_position_embeddings", rope.original_max_position_embeddings,
        "2 or more with longrope");
}

void check_experts(const Architecture& arch, std::string_view where) {
  bool has = false;
  for (const BlockKind& block : arch.blocks) has |= block.has_experts;
  if (!has) return;
  const Experts& experts = arch.experts;
  check_range(where, "number of experts", experts.count, 1 << 14);
  check_range(where, "num_experts_per_tok", experts.used, experts.count);
  check_range(where, "intermediate size of an expert", experts.intermediate_size, 1 << 24);
}

void check_ids(const HfConfig& config, std::string_view where) {
  const std::string ids = fmt::format("below vocab_size ({})", config.vocab_size);
  const auto check_id = [&](const char* key, int64_t id) {
    check(id >= 0 && id < config.vocab_size, where, key, id, ids);
  };
  if (config.bos_token_id) check_id("bos_token_id", *config.bos_token_id);
  if (config.pad_token_id) check_id("pad_token_id", *config.pad_token_id);
  for (const int64_t id : config.eos_token_ids) check_id("eos_token_id", id);
}

}  // namespace

void check_sizes_of_blocks(const HfConfig& config, std::string_view where) {
  check_range(where, "hidden_size", config.hidden_size, 1 << 20);
  check_range(where, "num_hidden_layers", config.num_hidden_layers, 1 << 12);
  check_range(where, "num_attention_heads", config.num_attention_heads, 1 << 16);
}

void check_head_division(const HfConfig& config, bool has_head_dim, std::string_view where) {
  check(has_head_dim || config.hidden_size % config.num_attention_heads == 0, where, "hidden_size",
        config.hidden_size,
        fmt::format("without head_dim a multiple of num_attention_heads ({})",
                    config.num_attention_heads));
}

void check_positions(const HfConfig& config, std::string_view where) {
  check_range(where, "max_position_embeddings", config.max_position_embeddings, INT32_MAX);
}

void validate(const HfConfig& config, std::string_view where) {
  check_range(where, "vocab_size", config.vocab_size, INT32_MAX);
  check_sizes_of_blocks(config, where);
  check_range(where, "intermediate_size", config.intermediate_size, 1 << 24);
  check_range(where, "num_key_value_heads", config.num_key_value_heads, config.num_attention_heads);
  check(config.num_attention_heads % config.num_key_value_heads == 0, where, "num_key_value_heads",
        config.num_key_value_heads,
        fmt::format("a divisor of num_attention_heads ({})", config.num_attention_heads));
  check(config.head_dim >= 2 && config.head_dim <= 1 << 16 && config.head_dim % 2 == 0, where,
        "head_dim", config.head_dim, "an even number from 2 to 65536");
  check_positions(config, where);
  QLORA_CHECK(config.rms_norm_eps > 0 && config.rms_norm_eps <= 1, FormatError,
              "[io] {}: rms_norm_eps is {}, above 0 up to 1 is allowed", where,
              config.rms_norm_eps);
  QLORA_CHECK(config.initializer_range >= 0 && config.initializer_range <= 1, FormatError,
              "[io] {}: initializer_range is {}, 0 to 1 is allowed", where,
              config.initializer_range);
  const Family& family = family_named(config.model_type);
  check_rope(config, config.rope, family, where);
  if (config.local_rope) check_rope(config, *config.local_rope, family, where);
  check_experts(config.arch, where);
  check_ids(config, where);
}

}  // namespace qlora::io
