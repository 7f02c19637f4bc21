#include "io/checkpoint.h"

#include <algorithm>

#include "core/error.h"
#include "core/nearest_name.h"
#include "core/parallel.h"
#include "io/atomic_file.h"
#include "io/float_convert.h"
#include "io/foreign_text.h"
#include "io/gguf_config.h"
#include "io/gguf_dequant.h"
#include "io/sha256.h"
#include "io/tensor_layout.h"
#include "io/unplaced_tensors.h"

namespace qlora::io {
namespace fs = std::filesystem;
namespace {

constexpr int64_t kElementsPerThread =
    1 << 18;  // below half a millisecond, threads cost more than they bring

/// The GGUF file that a path stands for: itself, or the only one in a folder without config.json.
/// Empty for a Hugging Face directory.
fs::path find_gguf(const fs::path& path) {
  std::error_code error;
  if (!fs::is_directory(path, error)) {
    QLORA_CHECK(path.extension() != ".safetensors", FormatError,
                "[io] {}: weights without their config.json; give the folder that holds both",
                path.string());
    return path;
  }
  if (fs::exists(path / "config.json", error)) return {};
  std::vector<fs::path> found;
  for (fs::directory_iterator it(path, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf") found.push_back(it->path());
  }
  QLORA_CHECK(found.size() == 1, IoError,
              "[io] {}: holds no config.json and {} GGUF files; give a Hugging Face folder or one "
              "GGUF file",
              path.string(), found.size());
  return found.front();
}

void check_shape(const std::string& where, const std::string& name,
                 const std::vector<int64_t>& actual, const std::vector<int64_t>& expected) {
  QLORA_CHECK(actual == expected, ShapeError,
              "[io] {}: tensor '{}' has shape {}, the config asks for {}", where, name,
              shape_text(actual), shape_text(expected));
}

}  // namespace

void check_model_path(const fs::path& path, std::string_view area) {
  QLORA_CHECK(is_present(path), IoError,
              "[{}] {} does not exist: no file or folder of that name is here, and nothing is "
              "downloaded; give the path of a Hugging Face folder or of a GGUF file",
              area, path.string());
}

fs::path weights_path(const fs::path& folder) {
  std::error_code error;
  for (const char* usual : {"model.safetensors.index.json", "model.safetensors"}) {
    if (fs::exists(folder / usual, error)) return folder;
  }
  std::vector<fs::path> found;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") found.push_back(it->path());
  }
  return found.size() == 1 ? found.front() : folder;
}

Checkpoint::Checkpoint(const fs::path& path, GgufRounding rounding)
    : path_(path), rounding_(rounding) {
  check_model_path(path, "io");
  const fs::path gguf = find_gguf(path);
  if (gguf.empty()) {
    open_directory();
  } else {
    path_ = gguf;
    open_gguf();
  }
}

void Checkpoint::open_directory() {
  config_ = read_hf_config(path_ / "config.json");
  quantization_ = find_quantization_config(path_, config_.quantization_config);
  safetensors_ = std::make_unique<SafetensorsReader>(quantization_ ? weights_path(path_) : path_);
  for (ExpectedTensor& expected : model_tensors(config_)) add_directory_tensor(std::move(expected));
  PlacedTensors placed{.names = {}, .modules = {}, .is_quantized = quantization_.has_value()};
  for (const auto& [name, entry] : entries_) {
    if (entry.hf != nullptr) placed.names.insert(entry.hf->name);
    if (!entry.quantized) continue;
    placed.modules.insert(entry.quantized->name);
    for (const auto& [part, view] : entry.quantized->parts) placed.names.insert(view->name);
  }
  refuse_unplaced(*safetensors_, config_, placed);
}

std::string Checkpoint::stored_name(const std::string& name) const {
  constexpr std::string_view kModel = "model.";
  std::vector<std::string> names = {name, "language_model." + name};
  if (name.starts_with(kModel)) {
    names.push_back("model.language_model." + name.substr(kModel.size()));
  }
  for (const std::string& candidate : names) {
    const std::string module = candidate.substr(0, candidate.rfind('.'));
    const bool is_there = safetensors_->find(candidate) != nullptr ||
                          safetensors_->find(module + ".qweight") != nullptr ||
                          safetensors_->find(module + ".weight_packed") != nullptr;
    if (is_there) return candidate;
  }
  return name;
}

void Checkpoint::check_tied_weights() const {
  if (!config_.tie_word_embeddings || !safetensors_) return;
  const TensorView* head = safetensors_->find(stored_name("lm_head.weight"));
  const TensorView* embedding = entry("model.embed_tokens.weight").hf;
  if (head == nullptr || embedding == nullptr) return;
  const bool equal = head->dtype == embedding->dtype && head->shape == embedding->shape &&
                     std::equal(head->bytes.begin(), head->bytes.end(), embedding->bytes.begin(),
                                embedding->bytes.end());
  safetensors_->release(*head);
  safetensors_->release(*embedding);
  QLORA_CHECK(equal, FormatError,
              "[io] {}: the config ties the output matrix to the embedding, but '{}' holds other "
              "numbers than '{}'; set tie_word_embeddings to false in config.json",
              path_.string(), head->name, embedding->name);
}

void Checkpoint::add_directory_tensor(ExpectedTensor expected) {
  constexpr std::string_view kWeight = ".weight";
  names_.push_back(expected.name);
  const std::string& name = names_.back();
  Entry& entry = entries_[name];
  entry.shape = std::move(expected.shape);
  const std::string stored = stored_name(name);
  const bool may_be_packed =
      expected.role == TensorRole::kLinear || expected.role == TensorRole::kHead;
  if (quantization_ && may_be_packed) {
    const std::string module = stored.substr(0, stored.size() - kWeight.size());
    const auto form = quantization_->form_of(module);
    // Skip lists leave modules out that the tensors show best.
    if (form && find_plain_weight(*safetensors_, module) == nullptr) {
      entry.quantized = std::make_shared<const QuantizedModule>(
          find_quantized_module(*safetensors_, module, *form, entry.shape[0], entry.shape[1]));
      return;
    }
  }
  const TensorView& tensor = safetensors_->at(stored);
  check_shape(path_.string(), name, tensor.shape, entry.shape);
  const bool plain =
      is_float(tensor.dtype) &&
      (!quantization_ || (tensor.dtype != DType::kF8E4M3 && tensor.dtype != DType::kF8E5M2));
  QLORA_CHECK(plain, FormatError, "[io] {}: tensor '{}' has type {}, weights are of a float type{}",
              path_.string(), name, dtype_name(tensor.dtype),
              quantization_ ? ", and the quantization_config leaves this one out" : "");
  entry.hf = &tensor;
}

void Checkpoint::open_gguf() {
  gguf_ = std::make_unique<GgufReader>(path_);
  config_ = gguf_config(*gguf_);
  for (ExpectedTensor& expected : model_tensors(config_)) {
    QLORA_CHECK(!expected.gguf_name.empty(), FormatError,
                "[io] {}: GGUF files of {} are not read; give the Hugging Face folder",
                path_.string(), config_.architecture);
    const GgufTensor* tensor = gguf_->find_tensor(expected.gguf_name);
    QLORA_CHECK(tensor != nullptr, FormatError, "[io] {}: tensor '{}' is missing", path_.string(),
                expected.gguf_name);
    check_shape(path_.string(), expected.gguf_name, tensor->shape, expected.shape);
    const GgmlTypeInfo& info = ggml_type_info(tensor->type);
    QLORA_CHECK(info.can_dequantize && (expected.shape.size() > 1 || info.block_elements == 1),
                FormatError,
                "[io] {}: tensor '{}' has type {}, which is not read there; F32, F16 and BF16 are, "
                "and for matrices "
                "Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K",
                path_.string(), expected.gguf_name, info.name);
    names_.push_back(expected.name);
    const bool is_norm = expected.role == TensorRole::kNorm;
    entries_[expected.name] = {std::move(expected.shape), nullptr, tensor, expected.rope_permuted,
                               is_norm ? config_.arch.norm_offset : 0};
  }
}

bool Checkpoint::has(std::string_view name) const {
  return entries_.contains(std::string(name));
}

const Checkpoint::Entry& Checkpoint::entry(std::string_view name) const {
  const auto it = entries_.find(std::string(name));
  if (it != entries_.end()) return it->second;
  const auto nearest = nearest_name(name, names_);
  throw ValueError(fmt::format("[io] {}: the model has no tensor {}{}", path_.string(), quote(name),
                               nearest ? fmt::format("; did you mean {}?", quote(*nearest)) : ""));
}

bool Checkpoint::is_quantized(std::string_view name) const {
  return entry(name).quantized != nullptr;
}

const QuantizedModule& Checkpoint::quantized_module(std::string_view module) const {
  const Entry& entry = this->entry(std::string(module) + ".weight");
  QLORA_CHECK(entry.quantized, ValueError, "[io] {}: module {} is not quantized", path_.string(),
              quote(module));
  return *entry.quantized;
}

const std::vector<int64_t>& Checkpoint::shape(std::string_view name) const {
  return entry(name).shape;
}

void Checkpoint::tensor_f32_rows(std::string_view name, int64_t row_begin, int64_t row_count,
                                 float* out) const {
  const Entry& entry = this->entry(name);
  QLORA_CHECK(!entry.quantized, ValueError,
              "[io] {}: tensor {} is packed ({}) and has no floats to read; model::WeightSource "
              "decodes it",
              path_.string(), quote(name), describe(entry.quantized->form));
  const bool vector = entry.shape.size() == 1;
  const int64_t rows = vector ? 1 : entry.shape[0], columns = entry.shape.back();
  QLORA_CHECK(
      row_begin >= 0 && row_count >= 0 && row_begin <= rows && row_count <= rows - row_begin,
      ValueError, "[io] tensor {}: {} rows from row {} on asked for; it has {}", quote(name),
      row_count, row_begin, rows);
  if (entry.hf != nullptr) {
    read_f32(*entry.hf, row_begin * columns, row_count * columns, out);
    return;
  }
  if (!entry.rope_permuted) {
    gguf_->read_f32_rows(*entry.gguf, row_begin, row_count, out);
  } else if (vector) {
    std::vector<float> stored(static_cast<size_t>(columns));
    gguf_->read_f32_rows(*entry.gguf, 0, row_count, stored.data());
    unpermute_rope_rows(stored.data(), row_count * columns, 1, config_.head_dim, out);
  } else {
    for (int64_t row = 0; row < row_count; ++row) {
      gguf_->read_f32_rows(*entry.gguf, gguf_rope_row(row_begin + row, config_.head_dim), 1,
                           out + row * columns);
    }
  }
  for (int64_t i = 0; entry.offset != 0 && i < row_count * columns; ++i) {
    out[i] -= static_cast<float>(entry.offset);
  }
  if (rounding_ == GgufRounding::kBf16) round_to_bf16(out, row_count * columns);
}

void Checkpoint::tensor_f32(std::string_view name, float* out) const {
  const std::vector<int64_t>& shape = this->shape(name);
  const int64_t rows = shape.size() == 1 ? 1 : shape[0], columns = shape.back();
  parallel_for(rows, std::max<int64_t>(1, kElementsPerThread / columns),
               [&](int64_t begin, int64_t end) {
                 tensor_f32_rows(name, begin, end - begin, out + begin * columns);
               });
}

void Checkpoint::release(std::string_view name) const {
  const Entry& entry = this->entry(name);
  if (entry.hf != nullptr) safetensors_->release(*entry.hf);
  if (entry.gguf != nullptr) gguf_->release(*entry.gguf);
  if (entry.quantized) {
    for (const auto& [part, view] : entry.quantized->parts) safetensors_->release(*view);
  }
}

SourceHashes Checkpoint::source_hashes() const {
  Sha256 hash, weights;
  if (gguf_) {
    const std::string file = sha256_tree_file(path_);
    hash.update(rounding_ == GgufRounding::kBf16 ? "gguf bf16\n" : "gguf float\n");
    hash.update(file);
    weights.update(file);
  } else {
    hash.update("safetensors\n");
    hash.update(sha256_file(path_ / "config.json"));
    for (const char* name : {"quantize_config.json", "quant_config.json"}) {
      if (quantization_ && is_present(path_ / name)) hash.update(sha256_file(path_ / name));
    }
    for (const fs::path& file : safetensors_->files()) {
      const std::string part = "\n" + sha256_tree_file(file);
      hash.update(part);
      weights.update(part);
    }
  }
  return {.source = hash.hex(), .weights = weights.hex()};
}

}  // namespace qlora::io
