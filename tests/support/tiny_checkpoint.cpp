#include "tests/support/tiny_checkpoint.h"

#include <cstring>
#include <fstream>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "core/rng.h"
#include "io/float_convert.h"
#include "io/hf_config.h"
#include "io/safetensors.h"
#include "io/tensor_layout.h"
#include "tests/support/temporary_folder.h"

namespace qlora::testing {
namespace {

using Json = nlohmann::ordered_json;

std::string utf8(uint32_t code_point) {  // below U+0800
  if (code_point < 0x80) return std::string(1, static_cast<char>(code_point));
  return {static_cast<char>(0xC0 | (code_point >> 6)), static_cast<char>(0x80 | (code_point & 63))};
}

/// GPT-2's spelling of the bytes: visible characters stand for themselves.
std::vector<std::string> byte_characters() {
  std::vector<std::string> characters(256);
  uint32_t next = 256;
  for (uint32_t byte = 0; byte < 256; ++byte) {
    const bool visible = (byte >= '!' && byte <= '~') || (byte >= 0xA1 && byte != 0xAD);
    characters[byte] = utf8(visible ? byte : next++);
  }
  return characters;
}

Json added_token(int32_t id, const std::string& content) {
  return {{"id", id},        {"content", content},  {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", true}};
}

Json tokenizer_json() {
  Json vocabulary = Json::object();
  const auto characters = byte_characters();
  for (int id = 0; id < 256; ++id) vocabulary[characters[id]] = id;
  Json merges = Json::array();
  int32_t id = kTinyImEnd + 1;
  for (const auto& [left, right] : {std::pair{"t", "h"}, {"th", "e"}, {"Ġ", "the"}, {"i", "n"}}) {
    merges.push_back(std::string(left) + " " + right);
    vocabulary[std::string(left) + right] = id++;
  }
  const Json byte_level = {{"type", "ByteLevel"},
                           {"add_prefix_space", false},
                           {"trim_offsets", true},
                           {"use_regex", true}};
  return {{"version", "1.0"},
          {"truncation", nullptr},
          {"padding", nullptr},
          {"added_tokens",
           {added_token(kTinyEndOfText, "<|endoftext|>"), added_token(kTinyImStart, "<|im_start|>"),
            added_token(kTinyImEnd, "<|im_end|>")}},
          {"normalizer", nullptr},
          {"pre_tokenizer", byte_level},
          {"post_processor", nullptr},
          {"decoder", byte_level},
          {"model",
           {{"type", "BPE"},
            {"dropout", nullptr},
            {"unk_token", nullptr},
            {"continuing_subword_prefix", nullptr},
            {"end_of_word_suffix", nullptr},
            {"fuse_unk", false},
            {"byte_fallback", false},
            {"ignore_merges", false},
            {"vocab", vocabulary},
            {"merges", merges}}}};
}

Json config_json(const TinyCheckpoint& s) {
  Json config = {{"architectures", {"LlamaForCausalLM"}},
                 {"model_type", "llama"},
                 {"vocab_size", s.vocabulary},
                 {"hidden_size", s.width},
                 {"intermediate_size", s.mlp_width},
                 {"num_hidden_layers", s.layers},
                 {"num_attention_heads", s.heads},
                 {"num_key_value_heads", s.kv_heads},
                 {"max_position_embeddings", s.max_positions},
                 {"rms_norm_eps", 1e-5},
                 {"rope_theta", 10000.0},
                 {"hidden_act", "silu"},
                 {"tie_word_embeddings", s.tied_embeddings},
                 {"attention_bias", s.attention_bias},
                 {"mlp_bias", false},
                 {"bos_token_id", kTinyEndOfText},
                 {"eos_token_id", kTinyEndOfText},
                 {"torch_dtype", "bfloat16"}};
  if (!s.config_changes.empty()) config.update(Json::parse(s.config_changes));
  return config;
}

std::vector<std::byte> random_bf16(int64_t count, double scale, Rng& rng, double mean = 0) {
  std::vector<std::byte> bytes(count * 2);
  std::vector<float> values(count);
  for (float& value : values) value = static_cast<float>(mean + rng.normal() * scale);
  io::convert_f32_to_bf16(values.data(), count, bytes.data());
  return bytes;
}

}  // namespace

void write_tiny_checkpoint(const std::filesystem::path& folder, const TinyCheckpoint& settings) {
  std::filesystem::create_directories(folder);
  const std::string config = config_json(settings).dump(1);
  write_text(folder / "config.json", config);
  write_text(folder / "tokenizer.json", tokenizer_json().dump(1));
  const Json tokenizer_config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                                 {"eos_token", "<|endoftext|>"},
                                 {"pad_token", "<|endoftext|>"}};
  write_text(folder / "tokenizer_config.json", tokenizer_config.dump(1));

  Rng rng(settings.seed);
  std::vector<std::vector<std::byte>> storage;
  std::vector<io::TensorView> tensors;
  const io::HfConfig parsed = io::parse_hf_config(config, "config.json");
  for (const io::ExpectedTensor& expected : io::model_tensors(parsed)) {
    int64_t count = 1;
    for (const int64_t size : expected.shape) count *= size;
    const bool is_norm = expected.role == io::TensorRole::kNorm;
    if (is_norm) {
      const double spread = settings.config_changes.empty() ? 0 : 0.2;
      storage.push_back(random_bf16(count, spread, rng, 1 - parsed.arch.norm_offset));
    } else {
      storage.push_back(random_bf16(count, settings.weight_scale, rng));
    }
    tensors.push_back({expected.name, io::DType::kBF16, expected.shape, storage.back()});
  }
  io::write_safetensors(folder / "model.safetensors", tensors, {{"format", "pt"}});
}

std::string tiny_instruction_rows(int64_t count, int64_t first) {
  static const char* const kColours[] = {"red", "green", "blue", "black", "white"};
  static const char* const kThings[] = {"cat", "house", "river", "stone", "tree", "bird", "road"};
  std::string rows;
  for (int64_t i = first; i < first + count; ++i) {
    const std::string thing = kThings[i % 7], colour = kColours[i % 5];
    const Json row = {{"instruction", "Say the colour of the " + thing + "."},
                      {"context", ""},
                      {"response", "The " + thing + " is " + colour + "."}};
    rows += row.dump() + "\n";
  }
  return rows;
}

void plant_nan(const std::filesystem::path& safetensors, const std::string& tensor) {
  const std::string bytes = read_text(safetensors);
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof header_bytes);
  const Json header = Json::parse(bytes.substr(8, header_bytes));
  const uint64_t begin = header.at(tensor).at("data_offsets").at(0);
  std::fstream file(safetensors, std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(8 + header_bytes + begin));
  file.write("\xc0\x7f", 2);
  if (!file.flush()) throw std::runtime_error("cannot write " + safetensors.string());
}

}  // namespace qlora::testing
