#include "cli/inspect_files.h"

#include <map>
#include <optional>
#include <string>

#include "core/error.h"
#include "core/json_file.h"
#include "data/tokenizer.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/gguf_config.h"
#include "io/safetensors.h"
#include "io/tensor_layout.h"

namespace qlora::cli {
namespace {

constexpr size_t kLongestValue = 80;  // characters of a metadata text that are shown
// 4.127 bits a weight: NF4 codes, 8-bit scales, their FP32 scales (quant/nf4_options.h).
constexpr double kNf4BytesPerWeight = (4.0 + 8.0 / 64 + 32.0 / (64 * 256)) / 8;

std::string shortened(std::string_view text) {
  if (text.size() <= kLongestValue) return std::string(text);
  size_t end = kLongestValue;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return fmt::format("{}… ({} bytes)", text.substr(0, end), text.size());
}

/// Tensors counted by type, in the order of first appearance.
class TypeTable {
 public:
  void add(std::string_view type, int64_t parameters, uint64_t bytes) {
    Json* row = nullptr;
    for (Json& known : rows_) {
      if (known["type"] == type) row = &known;
    }
    if (row == nullptr) {
      rows_.push_back({{"type", type}, {"tensors", 0}, {"parameters", 0}, {"size_bytes", 0}});
      row = &rows_.back();
    }
    (*row)["tensors"] = (*row)["tensors"].get<int64_t>() + 1;
    (*row)["parameters"] = (*row)["parameters"].get<int64_t>() + parameters;
    (*row)["size_bytes"] = (*row)["size_bytes"].get<uint64_t>() + bytes;
    parameters_ += parameters;
    bytes_ += bytes;
    ++tensors_;
  }
  void write_to(Json& facts) const {
    facts["tensors"] = tensors_;
    facts["parameters"] = parameters_;
    facts["size_bytes"] = bytes_;
    if (parameters_ > 0) {
      facts["bits_per_parameter"] =
          8.0 * static_cast<double>(bytes_) / static_cast<double>(parameters_);
    }
    facts["types"] = rows_;
  }

 private:
  Json rows_ = Json::array();
  int64_t tensors_ = 0;
  int64_t parameters_ = 0;
  uint64_t bytes_ = 0;
};

void write_safetensors_facts(const io::SafetensorsReader& reader, TensorList tensors, Json& facts) {
  TypeTable types;
  Json list = Json::array();
  for (const io::TensorView& t : reader.tensors()) {
    types.add(io::dtype_name(t.dtype), t.element_count(), t.bytes.size());
    list.push_back({{"name", t.name},
                    {"type", io::dtype_name(t.dtype)},
                    {"shape", t.shape},
                    {"size_bytes", t.bytes.size()}});
  }
  facts["files"] = reader.files().size();
  types.write_to(facts);
  if (!reader.metadata().empty()) {
    for (const auto& [key, value] : reader.metadata()) facts["metadata"][key] = shortened(value);
  }
  if (tensors == TensorList::kShow) facts["tensor_list"] = list;
}

Json config_facts(const io::HfConfig& config) {
  int64_t parameters = 0, projections = 0;
  for (const io::ExpectedTensor& tensor : io::model_tensors(config)) {
    int64_t count = 1;
    for (const int64_t size : tensor.shape) count *= size;
    parameters += count;
    if (tensor.role == io::TensorRole::kLinear) projections += count;
  }
  const double nf4_bytes = static_cast<double>(projections) * kNf4BytesPerWeight +
                           static_cast<double>(parameters - projections) * 2;
  return {{"architecture", config.architecture},
          {"parameters", parameters},
          {"layers", config.num_hidden_layers},
          {"width_C", config.hidden_size},
          {"mlp_width_F", config.intermediate_size},
          {"heads_H", config.num_attention_heads},
          {"key_value_heads", config.num_key_value_heads},
          {"head_width_D", config.head_dim},
          {"vocabulary_V", config.vocab_size},
          {"positions", config.max_position_embeddings},
          {"rope_theta", config.rope.theta},
          {"tied_embeddings", config.tie_word_embeddings},
          {"stored_as", config.torch_dtype.empty() ? Json() : Json(config.torch_dtype)},
          {"held_in_4bit_bytes", static_cast<uint64_t>(nf4_bytes)},
          {"held_in_16bit_bytes", static_cast<uint64_t>(parameters) * 2}};
}

Json tokenizer_facts(const std::filesystem::path& path) {
  try {
    const auto tokenizer = data::load_tokenizer(path);
    const auto piece = [&](const std::optional<int32_t>& id) {
      return id ? Json(fmt::format("{} {}", *id, tokenizer->id_to_piece(*id))) : Json();
    };
    return {{"kind", tokenizer->kind()},
            {"vocabulary", tokenizer->vocab_size()},
            {"bos", piece(tokenizer->special().bos)},
            {"eos", piece(tokenizer->special().eos)},
            {"pad", piece(tokenizer->special().pad)},
            {"chat_template", !tokenizer->chat_template().empty()}};
  } catch (const Error& error) {
    return {{"problem", error.what()}};
  }
}

Json value_fact(const io::GgufReader& gguf, const io::GgufValue& value) {
  switch (value.type) {
    case io::GgufValueType::kArray:
      return fmt::format("{} values", value.count);
    case io::GgufValueType::kString:
      return shortened(*gguf.find_string(value.key));
    case io::GgufValueType::kBool:
      return *gguf.find_boolean(value.key);
    case io::GgufValueType::kF32:
    case io::GgufValueType::kF64:
      return *gguf.find_number(value.key);
    case io::GgufValueType::kU64: {
      uint64_t number = 0;  // may be beyond int64
      for (size_t i = 0; i < value.bytes.size(); ++i) {
        number |= static_cast<uint64_t>(value.bytes[i]) << (8 * i);
      }
      return number;
    }
    default:
      return *gguf.find_integer(value.key);
  }
}

}  // namespace

Json inspect_safetensors(const std::filesystem::path& path, TensorList tensors) {
  const io::SafetensorsReader reader(path);
  Json facts = {{"kind", "safetensors"}, {"path", path.string()}};
  write_safetensors_facts(reader, tensors, facts);
  return facts;
}

Json inspect_gguf(const std::filesystem::path& path, TensorList tensors) {
  const io::GgufReader gguf(path);
  Json facts = {{"kind", "GGUF model"}, {"path", path.string()}, {"version", gguf.version()}};
  TypeTable types;
  Json list = Json::array();
  for (const io::GgufTensor& t : gguf.tensors()) {
    const std::string_view type = io::ggml_type_info(t.type).name;
    types.add(type, t.rows() * t.columns(), t.bytes.size());
    list.push_back(
        {{"name", t.name}, {"type", type}, {"shape", t.shape}, {"size_bytes", t.bytes.size()}});
  }
  types.write_to(facts);
  try {
    facts["model"] = config_facts(io::gguf_config(gguf));
  } catch (const Error& error) {
    facts["not_supported"] = error.what();
  }
  facts["tokenizer"] = tokenizer_facts(path);
  for (const io::GgufValue& value : gguf.values()) {
    facts["metadata"][std::string(value.key)] = value_fact(gguf, value);
  }
  if (tensors == TensorList::kShow) facts["tensor_list"] = list;
  return facts;
}

namespace {

/// What is quantized in a folder, and how small it got.
Json quantization_facts(const io::Checkpoint& checkpoint) {
  int64_t linears = 0, weights = 0, bytes = 0;
  for (const std::string& name : checkpoint.names()) {
    if (!checkpoint.is_quantized(name)) continue;
    const io::QuantizedModule& module =
        checkpoint.quantized_module(name.substr(0, name.size() - std::string(".weight").size()));
    ++linears;
    weights += module.rows * module.cols;
    bytes += module.bytes();
  }
  Json facts = {{"method", checkpoint.quantization()->method()},
                {"form", io::describe(checkpoint.quantization()->common_form())},
                {"linears", linears}};
  if (weights > 0) {
    facts["bits_per_weight"] = 8.0 * static_cast<double>(bytes) / static_cast<double>(weights);
  }
  return facts;
}

}  // namespace

Json inspect_model_directory(const std::filesystem::path& path, TensorList tensors) {
  Json facts = {{"kind", "Hugging Face model"}, {"path", path.string()}};
  try {
    facts["model"] = config_facts(io::read_hf_config(path / "config.json"));
  } catch (const FormatError& error) {
    facts["not_supported"] = error.what();
  }
  facts["tokenizer"] = tokenizer_facts(path);
  const io::SafetensorsReader reader(io::weights_path(path));
  write_safetensors_facts(reader, tensors, facts);
  if (!facts.contains("not_supported")) {
    try {
      const io::Checkpoint checkpoint(path);
      if (checkpoint.quantization()) facts["quantization"] = quantization_facts(checkpoint);
    } catch (const Error& error) {
      facts["not_supported"] = error.what();
    }
  }
  return facts;
}

}  // namespace qlora::cli
