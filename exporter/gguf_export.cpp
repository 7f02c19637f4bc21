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
#include "io/float_convert.h"
#include "io/gguf_dequant.h"
#include "io/llama_layout.h"
#include "quant/gguf_blocks_math.h"

namespace qlora::exporter {
namespace {

using io::GgmlType;

constexpr int64_t kChunkElements = int64_t{4} << 20;
constexpr float kMostF16 = 65504.0f;
constexpr uint32_t kQuantizationVersion = 2;
constexpr const char* kFrequencies = "rope_freqs.weight";

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

void add_rope(const io::HfConfig& config, io::GgufMetadata& metadata) {
  const io::RopeParameters& rope = config.rope;
  metadata.add("llama.rope.dimension_count", static_cast<uint32_t>(config.head_dim));
  metadata.add("llama.rope.freq_base", static_cast<float>(rope.theta));
  if (rope.type == io::RopeType::kDefault || rope.type == io::RopeType::kLlama3) return;
  QLORA_CHECK(rope.type != io::RopeType::kDynamic, FormatError,
              "[export] the rotary scaling is dynamic, which GGUF has no keys for; choose another "
              "format");
  const bool is_linear = rope.type == io::RopeType::kLinear;
  metadata.add("llama.rope.scaling.type", is_linear ? "linear" : "yarn");
  metadata.add("llama.rope.scaling.factor", static_cast<float>(rope.factor));
  if (is_linear) return;
  QLORA_CHECK(!rope.mscale && !rope.mscale_all_dim && !rope.attention_factor && rope.truncate,
              FormatError,
              "[export] the yarn scaling sets mscale, attention_factor or truncate, which GGUF has "
              "no keys for; choose another format");
  metadata.add("llama.rope.scaling.original_context_length",
               static_cast<uint32_t>(rope.original_max_position_embeddings));
  metadata.add("llama.rope.scaling.yarn_beta_fast", static_cast<float>(rope.beta_fast));
  metadata.add("llama.rope.scaling.yarn_beta_slow", static_cast<float>(rope.beta_slow));
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
void write_tensor(const GgufPlanEntry& entry, int64_t head_dim, const RowSource& source,
                  io::GgufWriter& writer) {
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
  for (const io::ExpectedTensor& tensor : io::llama_tensors(config)) {
    const bool is_embedding =
        tensor.gguf_name == "token_embd.weight" || tensor.gguf_name == "output.weight";
    const GgmlType type = tensor.shape.size() == 1
                              ? GgmlType::kF32
                              : fitting_type(is_embedding ? options.embedding_type : options.type,
                                             tensor.shape.back());
    plan.push_back({tensor.name, {tensor.gguf_name, type, tensor.shape}, tensor.rope_permuted});
  }
  return plan;
}

io::GgufMetadata gguf_model_metadata(const io::HfConfig& config, const GgufExportOptions& options) {
  const auto u32 = [](int64_t value) { return static_cast<uint32_t>(value); };
  io::GgufMetadata metadata;
  metadata.add("general.architecture", "llama");
  metadata.add("general.type", "model");
  if (!options.name.empty()) metadata.add("general.name", options.name);
  metadata.add("general.file_type", file_type(options.type));
  metadata.add("general.quantization_version", kQuantizationVersion);
  metadata.add("llama.block_count", u32(config.num_hidden_layers));
  metadata.add("llama.context_length", u32(config.max_position_embeddings));
  metadata.add("llama.embedding_length", u32(config.hidden_size));
  metadata.add("llama.feed_forward_length", u32(config.intermediate_size));
  metadata.add("llama.attention.head_count", u32(config.num_attention_heads));
  metadata.add("llama.attention.head_count_kv", u32(config.num_key_value_heads));
  metadata.add("llama.attention.key_length", u32(config.head_dim));
  metadata.add("llama.attention.value_length", u32(config.head_dim));
  metadata.add("llama.attention.layer_norm_rms_epsilon", static_cast<float>(config.rms_norm_eps));
  metadata.add("llama.vocab_size", u32(config.vocab_size));
  add_rope(config, metadata);
  return metadata;
}

void write_gguf(const std::filesystem::path& file, const io::HfConfig& config,
                const std::filesystem::path& tokenizer_source, const GgufExportOptions& options,
                const RowSource& rows, RunLog& log) {
  io::GgufMetadata metadata = gguf_model_metadata(config, options);
  add_gguf_tokenizer(tokenizer_source, config.vocab_size, metadata);
  check_gguf_tokenizer(tokenizer_source, metadata, file.parent_path());
  const std::vector<GgufPlanEntry> plan = plan_gguf(config, options);
  std::vector<io::GgufWriter::Entry> layout;
  for (const GgufPlanEntry& entry : plan) layout.push_back(entry.out);
  const bool has_factors = config.rope.type == io::RopeType::kLlama3;
  if (has_factors) layout.push_back({kFrequencies, GgmlType::kF32, {config.head_dim / 2}});

  io::GgufWriter writer(file, metadata, std::move(layout));
  if (has_factors) {
    const std::vector<float> factors = llama3_factors(config);
    writer.append(kFrequencies, std::as_bytes(std::span(factors)));
  }
  for (size_t i = 0; i < plan.size(); ++i) {
    write_tensor(plan[i], config.head_dim, rows, writer);
    log.live(fmt::format("gguf: tensor {} of {}", i + 1, plan.size()));
  }
  writer.commit();
}

}  // namespace qlora::exporter
