#include "exporter/gguf_export.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <numbers>
#include <string_view>

#include "core/error.h"
#include "core/parallel.h"
#include "exporter/gguf_tokenizer.h"
#include "io/family.h"
#include "io/float_convert.h"
#include "io/gguf_dequant.h"
#include "io/gguf_family.h"
#include "io/tensor_layout.h"
#include "quant/gguf_blocks_math.h"

namespace qlora::exporter {
namespace {

using io::GgmlType;

constexpr int64_t kChunkElements = int64_t{4} << 20;
constexpr float kMostF16 = 65504.0f;
constexpr uint32_t kQuantizationVersion = 2;
constexpr const char* kFrequencies = "rope_freqs.weight";
constexpr const char* kLongFactors = "rope_factors_long.weight";
constexpr const char* kShortFactors = "rope_factors_short.weight";

/// general.file_type, as llama.cpp numbers them. On disk: do not renumber.
uint32_t file_type(GgmlType type) {
  switch (type) {
    case GgmlType::kQ4_0:
      return 2;
    case GgmlType::kQ8_0:
      return 7;
    case GgmlType::kQ4_K:
      return 14;
    default:
      return 1;
  }
}

GgmlType fitting_type(GgmlType wanted, int64_t columns) {
  for (const GgmlType type : {wanted, GgmlType::kQ8_0}) {
    if (columns % io::ggml_type_info(type).block_elements == 0) return type;
  }
  return GgmlType::kF16;
}

/// The factor by which llama.cpp divides each frequency: 1 for short waves, `factor` for long ones.
std::vector<float> llama3_factors(const io::HfConfig& config) {
  const io::RopeParameters& rope = config.rope;
  std::vector<float> factors;
  const int64_t pairs = config.head_dim / 2;
  for (int64_t i = 0; i < pairs; ++i) {
    const double wavelength =
        2 * std::numbers::pi *
        std::pow(rope.theta, static_cast<double>(i) / static_cast<double>(pairs));
    const double turns = static_cast<double>(rope.original_max_position_embeddings) / wavelength;
    const double share = std::clamp(
        (turns - rope.low_freq_factor) / (rope.high_freq_factor - rope.low_freq_factor), 0.0, 1.0);
    factors.push_back(static_cast<float>(1 / ((1 - share) / rope.factor + share)));
  }
  return factors;
}

/// Adds keys under the family's name.
class FamilyKeys {
 public:
  FamilyKeys(const char* family, io::GgufMetadata& metadata)
      : family_(family), metadata_(metadata) {}
  template <class T>
  void add(const char* key, T value) {
    metadata_.add(fmt::format("{}.{}", family_, key), value);
  }
  void count(const char* key, int64_t value) { add(key, static_cast<uint32_t>(value)); }
  void number(const char* key, double value) { add(key, static_cast<float>(value)); }

 private:
  const char* family_;
  io::GgufMetadata& metadata_;
};

void add_rope(const io::HfConfig& config, FamilyKeys& keys) {
  const io::RopeParameters& rope = config.rope;
  keys.count("rope.dimension_count", rope.rotary_dim(config.head_dim));
  keys.number("rope.freq_base", rope.theta);
  if (rope.type == io::RopeType::kDefault || rope.type == io::RopeType::kLlama3) return;
  QLORA_CHECK(rope.type != io::RopeType::kDynamic, FormatError,
              "[export] the rotary scaling is dynamic, which GGUF has no keys for; choose another "
              "format");
  if (rope.type == io::RopeType::kLongrope) {
    keys.count("rope.scaling.original_context_length", rope.original_max_position_embeddings);
    const double length = static_cast<double>(rope.original_max_position_embeddings);
    const double usual =
        rope.factor <= 1 ? 1 : std::sqrt(1 + std::log(rope.factor) / std::log(length));
    keys.number("rope.scaling.attn_factor", rope.attention_factor.value_or(usual));
    return;
  }
  const bool is_linear = rope.type == io::RopeType::kLinear;
  keys.add("rope.scaling.type", is_linear ? "linear" : "yarn");
  keys.number("rope.scaling.factor", rope.factor);
  if (is_linear) return;
  QLORA_CHECK(!rope.mscale && !rope.mscale_all_dim && !rope.attention_factor && rope.truncate,
              FormatError,
              "[export] the yarn scaling sets mscale, attention_factor or truncate, which GGUF has "
              "no keys for; choose another format");
  keys.count("rope.scaling.original_context_length", rope.original_max_position_embeddings);
  keys.number("rope.scaling.yarn_beta_fast", rope.beta_fast);
  keys.number("rope.scaling.yarn_beta_slow", rope.beta_slow);
}

/// Vectors of the rotary scaling that stand beside the weights.
std::vector<std::pair<const char*, std::vector<float>>> rope_tensors(const io::HfConfig& config) {
  const io::RopeParameters& rope = config.rope;
  const auto floats = [](const std::vector<double>& values) {
    return std::vector<float>(values.begin(), values.end());
  };
  if (rope.type == io::RopeType::kLlama3) return {{kFrequencies, llama3_factors(config)}};
  if (rope.type != io::RopeType::kLongrope) return {};
  return {{kLongFactors, floats(rope.long_factor)}, {kShortFactors, floats(rope.short_factor)}};
}

void check_range(const float* w, int64_t count) {
  std::atomic<int64_t> bad{-1};
  parallel_for(count, 1 << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (!(std::fabs(w[i]) <= kMostF16)) bad = i;
    }
  });
  QLORA_CHECK(bad < 0, ValueError,
              "[export] a weight is {}, allowed: finite, within FP16 (65504 either way)", w[bad]);
}

template <class Block, class Encode>
void encode_blocks(const float* w, int64_t count, int64_t per_block, std::byte* out,
                   const Encode& encode) {
  parallel_for(count / per_block, 64, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      Block block;
      encode(w + b * per_block, &block);
      std::memcpy(out + b * static_cast<int64_t>(sizeof(Block)), &block, sizeof(Block));
    }
  });
}

/// Rows of one tensor at a time: whole heads where llama.cpp's row order differs.
void write_tensor(const GgufPlanEntry& entry, const io::HfConfig& config, const RowSource& source,
                  io::GgufWriter& writer) {
  const int64_t head_dim = config.head_dim;
  const bool is_norm = entry.role == io::TensorRole::kNorm;
  const auto offset = static_cast<float>(is_norm ? config.arch.norm_offset : 0);
  const auto& shape = entry.out.shape;
  const bool is_vector = shape.size() == 1;
  const int64_t rows = is_vector ? 1 : shape[0], columns = shape.back();
  const io::GgmlTypeInfo& info = io::ggml_type_info(entry.out.type);
  int64_t step = std::max<int64_t>(1, kChunkElements / columns);
  if (entry.rope_permuted) step = std::max<int64_t>(1, step / head_dim) * head_dim;
  std::vector<float> values, permuted;
  std::vector<std::byte> bytes;
  for (int64_t begin = 0; begin < rows; begin += step) {
    const int64_t count = std::min(step, rows - begin), elements = count * columns;
    values.resize(static_cast<size_t>(elements));
    source(entry.name, begin, count, values.data());
    for (size_t i = 0; offset != 0 && i < values.size(); ++i) values[i] += offset;
    if (entry.rope_permuted) {  // a bias is one row of single numbers
      const int64_t units = is_vector ? columns : count, width = is_vector ? 1 : columns;
      permuted.resize(values.size());
      for (int64_t unit = 0; unit < units; ++unit) {
        std::copy_n(values.data() + unit * width, width,
                    permuted.data() + io::gguf_rope_row(unit, head_dim) * width);
      }
      values.swap(permuted);
    }
    bytes.resize(static_cast<size_t>(elements / info.block_elements * info.block_bytes));
    encode_ggml(entry.out.type, values.data(), elements, bytes.data());
    writer.append(entry.out.name, bytes);
  }
}

}  // namespace

void encode_ggml(GgmlType type, const float* w, int64_t count, std::byte* out) {
  check_range(w, count);
  switch (type) {
    case GgmlType::kF32:
      std::memcpy(out, w, static_cast<size_t>(count) * sizeof(float));
      return;
    case GgmlType::kF16:
      io::convert_f32_to_f16(w, count, out);
      return;
    case GgmlType::kQ8_0:
      encode_blocks<quant::Q8_0Block>(w, count, 32, out, quant::encode_q8_0);
      return;
    case GgmlType::kQ4_0:
      encode_blocks<quant::Q4_0Block>(w, count, 32, out, quant::encode_q4_0);
      return;
    case GgmlType::kQ4_K:
      encode_blocks<quant::Q4_KBlock>(w, count, 256, out, quant::encode_q4_k);
      return;
    default:
      throw ValueError(
          fmt::format("[export] the GGUF type {} is not written; F32, F16, Q8_0, Q4_0 and Q4_K are",
                      io::ggml_type_info(type).name));
  }
}

std::vector<GgufPlanEntry> plan_gguf(const io::HfConfig& config, const GgufExportOptions& options) {
  std::vector<GgufPlanEntry> plan;
  for (const io::ExpectedTensor& tensor : io::model_tensors(config)) {
    const bool is_embedding =
        tensor.gguf_name == "token_embd.weight" || tensor.gguf_name == "output.weight";
    const GgmlType type = tensor.shape.size() == 1
                              ? GgmlType::kF32
                              : fitting_type(is_embedding ? options.embedding_type : options.type,
                                             tensor.shape.back());
    plan.push_back(
        {tensor.name, {tensor.gguf_name, type, tensor.shape}, tensor.rope_permuted, tensor.role});
  }
  return plan;
}

io::GgufMetadata gguf_model_metadata(const io::HfConfig& config, const GgufExportOptions& options) {
  const char* family = io::gguf_family_of(config).name;
  io::GgufMetadata metadata;
  metadata.add("general.architecture", family);
  metadata.add("general.type", "model");
  if (!options.name.empty()) metadata.add("general.name", options.name);
  metadata.add("general.file_type", file_type(options.type));
  metadata.add("general.quantization_version", kQuantizationVersion);
  FamilyKeys keys(family, metadata);
  keys.count("block_count", config.num_hidden_layers);
  keys.count("context_length", config.max_position_embeddings);
  keys.count("embedding_length", config.hidden_size);
  keys.count("feed_forward_length", config.intermediate_size);
  keys.count("attention.head_count", config.num_attention_heads);
  keys.count("attention.head_count_kv", config.num_key_value_heads);
  keys.count("attention.key_length", config.head_dim);
  keys.count("attention.value_length", config.head_dim);
  keys.number("attention.layer_norm_rms_epsilon", config.rms_norm_eps);
  keys.count("vocab_size", config.vocab_size);
  if (const int64_t window = io::window_of(config); window > 0 && config.model_type != "mistral") {
    keys.count("attention.sliding_window", window);
  }
  if (config.arch.attention_softcap > 0) {
    keys.number("attn_logit_softcapping", config.arch.attention_softcap);
  }
  if (config.arch.logit_softcap > 0) {
    keys.number("final_logit_softcapping", config.arch.logit_softcap);
  }
  add_rope(config, keys);
  return metadata;
}

void write_gguf(const std::filesystem::path& file, const io::HfConfig& config,
                const std::filesystem::path& tokenizer_source, const GgufExportOptions& options,
                const RowSource& rows, RunLog& log) {
  io::GgufMetadata metadata = gguf_model_metadata(config, options);
  add_gguf_tokenizer(tokenizer_source, config.vocab_size, metadata, options.chat_templates);
  check_gguf_tokenizer(tokenizer_source, metadata, file.parent_path());
  const std::vector<GgufPlanEntry> plan = plan_gguf(config, options);
  std::vector<io::GgufWriter::Entry> layout;
  for (const GgufPlanEntry& entry : plan) layout.push_back(entry.out);
  const auto factors = rope_tensors(config);
  for (const auto& [name, values] : factors) {
    layout.push_back({name, GgmlType::kF32, {static_cast<int64_t>(values.size())}});
  }

  io::GgufWriter writer(file, metadata, layout);
  for (const auto& [name, values] : factors) {
    writer.append(name, std::as_bytes(std::span(values)));
  }
  for (size_t i = 0; i < plan.size(); ++i) {
    write_tensor(plan[i], config, rows, writer);
    log.live(fmt::format("gguf: tensor {} of {}", i + 1, plan.size()));
  }
  writer.commit();
}

}  // namespace qlora::exporter
