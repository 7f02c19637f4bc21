#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "io/hf_config.h"
#include "io/json_object.h"

namespace qlora::io {

/// How the config.json of one family becomes an architecture. Each family is one small file,
/// family_NAME.cpp; `io/family.cpp` lists them.
struct Family {
  const char* architecture;  // "LlamaForCausalLM"
  const char* model_type;    // "llama"
  /// What a config.json of the family may leave out, as its class in transformers 5.23 fills it in;
  /// sizes of 0 have to be there.
  HfConfig (*defaults)();
  /// The keys that the family has beside those of all. The sizes are read.
  ///   throws  FormatError for values that are not computed
  void (*read)(const JsonObject& keys, HfConfig& config);
  /// The same keys as transformers 4 and 5 read them.
  void (*write)(const HfConfig& config, nlohmann::json& keys);
  bool has_layered_rope = false;    // rotary parameters by layer type, which `read` reads itself
  bool has_partial_rotary = false;  // partial_rotary_factor may be below 1
};

std::span<const Family* const> known_families();
const Family& family_named(const std::string& model_type);  // throws FormatError where unknown

// What several families share.

/// sliding_window, or 0 where it is null, absent with no default, or switched off.
int64_t read_window(const JsonObject& keys, int64_t if_absent);
/// One kind a block: those that `is_sliding` names see the window alone.
std::vector<BlockKind> window_blocks(const std::vector<bool>& is_sliding, int64_t window);
/// layer_types, or what `usual` says of a block where the key is absent.
///   throws    FormatError for other types than full_attention and sliding_attention, or too few
std::vector<bool> read_layer_types(const JsonObject& keys, int64_t blocks,
                                   bool (*usual)(int64_t index, int64_t parameter),
                                   int64_t parameter);
void write_window(const HfConfig& config, nlohmann::json& keys);       // sliding_window
void write_layer_types(const HfConfig& config, nlohmann::json& keys);  // and layer_types
/// The window of the blocks that have one, or 0.
int64_t window_of(const HfConfig& config);

void read_attention_bias(const JsonObject& keys, HfConfig& config);
/// throws FormatError where the key asks for something (is neither absent, null, false nor 0)
void refuse_switched_on(const JsonObject& keys, const char* key);

extern const Family kLlamaFamily, kMistralFamily, kQwen2Family, kQwen3Family, kQwen3MoeFamily,
    kGemma2Family, kGemma3Family, kPhi3Family, kSmolLm3Family, kMixtralFamily;

}  // namespace qlora::io
