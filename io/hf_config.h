#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "io/architecture.h"

namespace qlora::io {

enum class RopeType { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope };

/// Rotary embedding parameters, with the meaning and defaults of transformers 5.23
/// (modeling_rope_utils.py). A field that the type does not use keeps its default.
struct RopeParameters {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;                        // base of the frequencies
  double factor = 1.0;                           // all but default: at least 1
  int64_t original_max_position_embeddings = 0;  // llama3, yarn, longrope: tokens; always set
  double low_freq_factor = 1.0;                  // llama3
  double high_freq_factor = 4.0;                 // llama3: above low_freq_factor
  double beta_fast = 32.0;                       // yarn: rotations above which a dimension stays
  double beta_slow = 1.0;                        // yarn: rotations below which it is interpolated
  std::optional<double> mscale;                  // yarn
  std::optional<double> mscale_all_dim;          // yarn
  std::optional<double> attention_factor;        // yarn, longrope: scale of cos and sin; else from
                                                 // factor
  bool truncate = true;                          // yarn: round the ramp's ends to whole dimensions
  double partial_rotary_factor = 1.0;            // share of the head that rotates
  std::vector<double> short_factor;              // longrope: divides the frequencies, one a pair of
  std::vector<double> long_factor;               // dimensions; long beyond the original positions

  /// Dimensions of a head that rotate, the first ones.
  int64_t rotary_dim(int64_t head_dim) const {
    return static_cast<int64_t>(static_cast<double>(head_dim) * partial_rotary_factor);
  }
};

/// What the program needs of a Hugging Face config.json (or of GGUF metadata), checked and filled
/// in.
struct HfConfig {
  std::string architecture;  // "LlamaForCausalLM"
  std::string model_type;    // "llama"
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;        // C
  int64_t intermediate_size = 0;  // F
  int64_t num_hidden_layers = 0;
  int64_t num_attention_heads = 0;      // H
  int64_t num_key_value_heads = 0;      // divides H
  int64_t head_dim = 0;                 // D, even
  int64_t max_position_embeddings = 0;  // tokens
  double rms_norm_eps = 1e-6;
  RopeParameters rope;
  std::optional<RopeParameters> local_rope;  // of blocks whose kind says RopeUse::kLocal
  bool tie_word_embeddings = false;
  Architecture arch;
  std::string torch_dtype;  // "bfloat16", "float16", "float32" or empty
  double initializer_range = 0.02;
  std::optional<int64_t> bos_token_id;
  std::optional<int64_t> pad_token_id;
  std::vector<int64_t> eos_token_ids;  // config.json may hold one number or a list
  std::string quantization_config;     // raw JSON text, empty where there is none

  const BlockKind& block(int64_t index) const {
    static const BlockKind usual;
    return arch.blocks.empty() ? usual : arch.blocks[static_cast<size_t>(index)];
  }
  double query_scale() const;  // of the attention scores
};

/// Reads config.json from its text. Of a multimodal Gemma 3 the text part is read.
///   where     name of the file for messages
///   throws    FormatError where the text is no JSON object, a key has a wrong type, or a value is
///             out of its range or asks for what is not computed; FormatError listing the known
///             architectures where this one is not known
HfConfig parse_hf_config(std::string_view text, std::string_view where);

/// throws IoError where the file cannot be read; else as parse_hf_config
HfConfig read_hf_config(const std::filesystem::path& config_json);

/// The checks of parse_hf_config on a struct that came from elsewhere.
void validate(const HfConfig& config, std::string_view where);

/// config.json that transformers 4 and 5 read: both the old and the new key forms.
nlohmann::json to_json(const HfConfig& config);

/// "LlamaForCausalLM (llama)", …: for messages and `inspect`.
std::vector<std::string> known_architectures();

}  // namespace qlora::io
