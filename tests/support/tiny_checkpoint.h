#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

namespace qlora::testing {

struct TinyCheckpoint {
  int64_t layers = 2;
  int64_t width = 64;
  int64_t mlp_width = 128;
  int64_t heads = 4;
  int64_t kv_heads = 2;
  int64_t max_positions = 512;
  double weight_scale = 0.08;  // standard deviation of every matrix
  uint64_t seed = 1;
  int64_t vocabulary = 264;  // at least the tokenizer's
  bool tied_embeddings = true;
  bool attention_bias = false;
  std::string config_changes = {};  // JSON laid over config.json: another family, its keys
};

/// Ids of the tokenizer that the folder holds: bytes 0 … 255 in GPT-2's order of characters, then
/// these, then a few merges.
inline constexpr int32_t kTinyEndOfText = 256;
inline constexpr int32_t kTinyImStart = 257;
inline constexpr int32_t kTinyImEnd = 258;
inline constexpr int64_t kTinyVocabulary = 264;

/// Writes a Hugging Face folder with random BF16 weights of the Llama architecture or the one that
/// config_changes name, and a byte-level BPE tokenizer: the same bytes for the same settings. Norms
/// leave what they norm as it is; those of other families than Llama nearly so.
void write_tiny_checkpoint(const std::filesystem::path& folder,
                           const TinyCheckpoint& settings = {});

/// Rows {"instruction": …, "response": …} that a small model learns quickly, as JSON lines.
std::string tiny_instruction_rows(int64_t count, int64_t first = 0);

/// Makes the first number of a BF16 tensor NaN.
void plant_nan(const std::filesystem::path& safetensors, const std::string& tensor);

}  // namespace qlora::testing
