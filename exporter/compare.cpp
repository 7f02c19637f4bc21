#include "exporter/compare.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/text.h"
#include "io/checkpoint.h"
#include "io/gguf.h"
#include "io/safetensors.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

constexpr double kGb = 1e9, kGib = 0x1p30;
constexpr const char* kKindNames[] = {"embedding", "output",        "attention", "mlp",
                                      "norms",     "scales, zeros", "other"};
static_assert(std::size(kKindNames) == kTensorKinds);

bool has(const std::string& name, const char* part) {
  return name.find(part) != std::string::npos;
}

bool is_scale(const std::string& name) {
  for (const char* ending :
       {".scales", ".qzeros", ".g_idx", ".weight_scale", ".weight_zero_point", ".weight_shape",
        ".weight_g_idx", ".input_scale", ".k_scale", ".v_scale", ".absmax", ".quant_map",
        ".nested_absmax", ".nested_quant_map", ".SCB"}) {
    if (name.ends_with(ending)) return true;
  }
  return has(name, ".quant_state.");
}

void add_tensor(const std::string& name, uint64_t bytes, ModelSizes& sizes) {
  KindSum& sum = sizes.kinds[static_cast<size_t>(tensor_kind(name))];
  ++sum.tensors;
  sum.bytes += bytes;
  sizes.tensor_bytes += bytes;
}

void add_weights(const fs::path& file, ModelSizes& sizes) {
  if (file.extension() == ".gguf") {
    const io::GgufReader gguf(file);
    for (const io::GgufTensor& t : gguf.tensors()) {
      add_tensor(std::string(t.name), t.bytes.size(), sizes);
    }
  } else if (file.extension() == ".safetensors") {
    const io::SafetensorsReader reader(file);
    for (const io::TensorView& t : reader.tensors()) add_tensor(t.name, t.bytes.size(), sizes);
  }
}

void add_file(const fs::path& file, ModelSizes& sizes) {
  std::error_code error;
  sizes.total_bytes += fs::file_size(file, error);
  QLORA_CHECK(!error, IoError, "[compare] {} cannot be looked at: {}", file.string(),
              error.message());
  ++sizes.files;
  add_weights(file, sizes);
}

void add_folder(const fs::path& folder, ModelSizes& sizes) {
  std::error_code error, none;
  for (fs::recursive_directory_iterator it(folder, error), end; !error && it != end;
       it.increment(error)) {
    if (it->is_regular_file(none)) add_file(it->path(), sizes);
  }
  QLORA_CHECK(!error, IoError, "[compare] {} cannot be read: {}", folder.string(), error.message());
}

std::string size_text(uint64_t bytes) {
  return fmt::format("{} bytes, {:.4f} GB, {:.4f} GiB", count_text(static_cast<int64_t>(bytes)),
                     static_cast<double>(bytes) / kGb, static_cast<double>(bytes) / kGib);
}

nlohmann::ordered_json sizes_json(const ModelSizes& sizes) {
  nlohmann::ordered_json kinds = nlohmann::ordered_json::object();
  for (size_t k = 0; k < kTensorKinds; ++k) {
    kinds[kKindNames[k]] = {{"tensors", sizes.kinds[k].tensors}, {"bytes", sizes.kinds[k].bytes}};
  }
  return {{"path", sizes.path.string()},
          {"files", sizes.files},
          {"bytes", sizes.total_bytes},
          {"gb", static_cast<double>(sizes.total_bytes) / kGb},
          {"gib", static_cast<double>(sizes.total_bytes) / kGib},
          {"tensor_bytes", sizes.tensor_bytes},
          {"kinds", kinds}};
}

double quotient(uint64_t a, uint64_t b) {
  return static_cast<double>(a) / static_cast<double>(b);
}

}  // namespace

TensorKind tensor_kind(const std::string& name) {
  if (is_scale(name)) return TensorKind::kScales;
  if (has(name, "norm")) return TensorKind::kNorm;
  if (has(name, "embed_tokens") || has(name, "token_embd")) return TensorKind::kEmbedding;
  if (has(name, "lm_head") || name.starts_with("output.")) return TensorKind::kOutput;
  if (has(name, "self_attn.") || has(name, ".attn_")) return TensorKind::kAttention;
  if (has(name, ".mlp.") || has(name, ".ffn_")) return TensorKind::kMlp;
  return TensorKind::kOther;
}

const char* kind_text(TensorKind kind) {
  return kKindNames[static_cast<size_t>(kind)];
}

ModelSizes model_sizes(const fs::path& path) {
  io::check_model_path(path, "compare");
  ModelSizes sizes;
  sizes.path = path;
  std::error_code error;
  if (fs::is_directory(path, error)) {
    add_folder(path, sizes);
  } else {
    add_file(path, sizes);
  }
  QLORA_CHECK(sizes.tensor_bytes > 0, IoError,
              "[compare] {} holds no weights: {} files, none of them safetensors or GGUF with "
              "tensors",
              path.string(), sizes.files);
  return sizes;
}

double SizeComparison::ratio() const {
  return quotient(original.total_bytes, quantized.total_bytes);
}

double SizeComparison::saved_percent() const {
  return 100 * (1 - quotient(quantized.total_bytes, original.total_bytes));
}

SizeComparison compare_model_sizes(const fs::path& original, const fs::path& quantized) {
  return {model_sizes(original), model_sizes(quantized)};
}

std::string comparison_text(const SizeComparison& c) {
  const size_t width = std::max(c.original.path.string().size(), c.quantized.path.string().size());
  std::string text;
  for (const ModelSizes* sizes : {&c.original, &c.quantized}) {
    text += fmt::format("{:<{}}  {} in {} files\n", sizes->path.string(), width,
                        size_text(sizes->total_bytes), sizes->files);
  }
  text += fmt::format("ratio {:.3f}, saved {:.2f}%\n\n", c.ratio(), c.saved_percent());
  text += fmt::format("{:<14} {:>18} {:>18} {:>8} {:>9}\n", "tensors, bytes", "first", "second",
                      "ratio", "saved");
  const auto row = [&](const char* name, uint64_t a, uint64_t b) {
    if (a == 0 && b == 0) return;
    text += fmt::format("{:<14} {:>18} {:>18} {:>8} {:>9}\n", name,
                        count_text(static_cast<int64_t>(a)), count_text(static_cast<int64_t>(b)),
                        b == 0 ? "-" : fmt::format("{:.3f}", quotient(a, b)),
                        a == 0 ? "-" : fmt::format("{:.2f}%", 100 * (1 - quotient(b, a))));
  };
  for (size_t k = 0; k < kTensorKinds; ++k) {
    row(kKindNames[k], c.original.kinds[k].bytes, c.quantized.kinds[k].bytes);
  }
  row("all tensors", c.original.tensor_bytes, c.quantized.tensor_bytes);
  row("other bytes", c.original.total_bytes - c.original.tensor_bytes,
      c.quantized.total_bytes - c.quantized.tensor_bytes);
  return text;
}

nlohmann::ordered_json to_json(const SizeComparison& c) {
  return {{"original", sizes_json(c.original)},
          {"quantized", sizes_json(c.quantized)},
          {"compression_ratio", c.ratio()},
          {"size_reduction_percent", c.saved_percent()}};
}

}  // namespace qlora::exporter
