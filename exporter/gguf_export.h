#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "data/tokenizer.h"
#include "io/ggml_type.h"
#include "io/gguf_writer.h"
#include "io/hf_config.h"
#include "io/tensor_layout.h"

namespace qlora::exporter {

/// out = rows [row_begin, row_begin + row_count) of a tensor by its Hugging Face name, as float; a
/// vector is one row. Called from one thread.
using RowSource =
    std::function<void(const std::string& name, int64_t row_begin, int64_t row_count, float* out)>;

struct GgufExportOptions {
  io::GgmlType type = io::GgmlType::kF16;            // of the matrices: F16, Q8_0, Q4_0 or Q4_K
  io::GgmlType embedding_type = io::GgmlType::kF16;  // of token_embd and output
  std::string name;                                  // general.name, for people
  std::vector<data::NamedTemplate> chat_templates;   // instead of the tokenizer's; empty: these
};

/// One tensor of the file and where it comes from.
struct GgufPlanEntry {
  std::string name;           // Hugging Face
  io::GgufWriter::Entry out;  // llama.cpp's name and shape, the type that the rows allow
  bool rope_permuted = false;
  io::TensorRole role = io::TensorRole::kLinear;
};

/// Tensors in llama.cpp's order. Matrices whose rows are no whole blocks of the type get Q8_0, or
/// F16 where that does not fit either; vectors are F32.
std::vector<GgufPlanEntry> plan_gguf(const io::HfConfig& config, const GgufExportOptions& options);

/// general.* and the family's keys of a config.
///   throws    FormatError for a family that llama.cpp does not have, or computes otherwise
///             (io/gguf_family.h), and for rotary scaling that GGUF has no keys for
io::GgufMetadata gguf_model_metadata(const io::HfConfig& config, const GgufExportOptions& options);

/// Encodes whole blocks, in parallel.
///   w         count floats
///   throws    ValueError where an element is not finite or beyond FP16 (65504), or the type is
///             none of F32, F16, Q8_0, Q4_0 and Q4_K
void encode_ggml(io::GgmlType type, const float* w, int64_t count, std::byte* out);

/// Writes one GGUF file, some rows at a time: 16 MB of floats and their blocks are held.
///   tokenizer_source  as in add_gguf_tokenizer
///   throws            as the functions above; IoError
void write_gguf(const std::filesystem::path& file, const io::HfConfig& config,
                const std::filesystem::path& tokenizer_source, const GgufExportOptions& options,
                const RowSource& rows, RunLog& log);

}  // namespace qlora::exporter
