#include "exporter/candidate.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "exporter/gguf_candidate.h"
#include "exporter/hf_writer.h"
#include "exporter/quantization_config.h"
#include "exporter/shard_writer.h"
#include "io/atomic_file.h"
#include "io/sha256.h"
#include "lora/grid_files.h"
#include "lora/tensor_view.h"
#include "quant/layouts.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

constexpr const char* kEmbedding = "model.embed_tokens.weight";
constexpr const char* kFinalNorm = "model.norm.weight";
constexpr const char* kHead = "lm_head";
constexpr int64_t kRowsAtOnce = 1024;

const char* dtype_name(torch::ScalarType dtype) {
  if (dtype == torch::kHalf) return "float16";
  return dtype == torch::kBFloat16 ? "bfloat16" : "float32";
}

/// Some rows at a time: the test itself takes twice the memory of what it looks at.
bool all_finite(const Tensor& tensor) {
  for (int64_t begin = 0; begin < tensor.size(0); begin += kRowsAtOnce) {
    const int64_t count = std::min(kRowsAtOnce, tensor.size(0) - begin);
    if (!tensor.narrow(0, begin, count).isfinite().all().item<bool>()) return false;
  }
  return true;
}

/// A tensor that is not quantized, in the type of the files.
Tensor plain_tensor(const model::BlockLoader& loader, const std::string& name,
                    torch::ScalarType dtype) {
  const Tensor tensor = loader.source().dense(name, dtype);
  QLORA_CHECK(all_finite(tensor), ValueError,
              "[export] {} holds numbers that are not finite in {}; where the checkpoint is sound, "
              "export in a format of bfloat16 (hf)",
              name, dtype_name(dtype));
  return tensor.view(loader.checkpoint().shape(name));
}

/// Embedding, final norm and, where it is not tied, the output matrix.
std::vector<NamedTensor> outer_tensors(const CandidateInput& input, torch::ScalarType dtype) {
  const io::Checkpoint& checkpoint = input.loader.checkpoint();
  std::vector<NamedTensor> tensors;
  for (const char* name : {kEmbedding, kFinalNorm}) {
    tensors.push_back({name, plain_tensor(input.loader, name, dtype)});
  }
  const std::string head = std::string(kHead) + ".weight";
  if (!checkpoint.has(head)) return tensors;
  const ModuleGrid& grid = input.preflight.at(kHead);
  if (!grid.is_quantized()) {
    tensors.push_back({head, plain_tensor(input.loader, head, dtype)});
    return tensors;
  }
  // No block follows the output matrix: it is rounded to nearest.
  const auto options = affine_options(input.preflight.grid, grid.bits, grid.group_size);
  const auto rounded =
      quant::quantize_affine(plain_tensor(input.loader, head, torch::kFloat32), options);
  for (const auto& [suffix, tensor] : pack_affine(input.preflight.grid.format, rounded)) {
    tensors.push_back({std::string(kHead) + "." + suffix, tensor});
  }
  return tensors;
}

/// All shards, from the finished blocks' files: one tensor is held at a time.
uint64_t write_weights(const CandidateInput& input, const QuantizedBlocks& blocks,
                       const fs::path& folder, torch::ScalarType dtype) {
  const std::vector<NamedTensor> outer = outer_tensors(input, dtype);
  std::vector<io::SafetensorsWriter::Entry> layout;
  for (const NamedTensor& named : outer) {
    const io::TensorView view = lora::tensor_view(named.name, named.tensor);
    layout.push_back({view.name, view.dtype, view.shape});
  }
  for (const fs::path& file : blocks.files) {
    const io::SafetensorsReader reader(file);
    for (const auto& tensor : reader.tensors()) {
      layout.push_back({tensor.name, tensor.dtype, tensor.shape});
    }
  }
  ShardWriter writer(folder, layout, parse_bytes(input.options.max_shard_size));
  for (const NamedTensor& named : outer)
    writer.write(named.name, lora::tensor_view(named.name, named.tensor).bytes);
  for (const fs::path& file : blocks.files) {
    const io::SafetensorsReader reader(file);
    for (const auto& tensor : reader.tensors()) writer.write(tensor.name, tensor.bytes);
  }
  writer.finish();
  return writer.total_bytes();
}

void write_hugging_face(const CandidateInput& input, const QuantizedBlocks& blocks,
                        const fs::path& folder, Candidate& candidate) {
  const torch::ScalarType dtype = plain_dtype(input.preflight.grid, input.loader.config());
  candidate.bytes = write_weights(input, blocks, folder, dtype);
  const auto& grid = input.preflight.grid;
  ModelFiles files{.config = input.loader.config(),
                   .quantization_config = nullptr,
                   .torch_dtype = dtype_name(dtype),
                   .source = input.source,
                   .chat_templates = input.chat_templates};
  if (grid.is_quantized()) {
    files.quantization_config = quantization_config(
        input.preflight, {.gptq = input.options.gptq,
                          .true_sequential = input.options.true_sequential,
                          .has_static_input_scales = grid.static_fp8 || grid.static_int8,
                          .double_quant = input.four_bit.double_quant});
  }
  write_model_files(folder, files);
}

/// How each matrix is rounded.
nlohmann::json facts_of(const Preflight& grid) {
  nlohmann::json facts = {{"grid", describe(grid.grid)}};
  for (const ModuleGrid& module : grid.modules) {
    facts["modules"][module.name] = {module.bits, module.group_size};
  }
  return facts;
}

/// The weights as the product's own reader sees them, against the hashes that the solver left.
void check_readback(const Candidate& candidate, const CandidateInput& input) {
  const model::BlockLoader loader({.model_path = candidate.model_path.string(),
                                   .compute_dtype = model::ComputeDtype::kFloat32,
                                   .load_in_4bit = false},
                                  input.four_bit);
  for (const LinearReport& linear : candidate.linears) {
    const Tensor read = loader.weight(linear.module).dense_copy(torch::kFloat32);
    QLORA_CHECK(weight_hash(read) == linear.weight_sha256, FormatError,
                "[export] {} was read back from {} with other numbers than were written; this is "
                "a bug, please report it",
                linear.module, candidate.model_path.string());
  }
}

}  // namespace

torch::ScalarType plain_dtype(const ResolvedGrid& grid, const io::HfConfig& source) {
  const bool is_16bit_format =
      grid.format == ExportFormat::kHf || grid.format == ExportFormat::kNf4;
  if (!is_16bit_format) return torch::kHalf;
  return source.torch_dtype == "float16" ? torch::kHalf : torch::kBFloat16;
}

std::string fingerprint(const CandidateInput& input, MergeBase base) {
  nlohmann::json facts = {{"source", input.loader.checkpoint().source_hash()},
                          {"base", name_of(base)},
                          {"trained", input.preflight.grid.is_trained},
                          {"dtype", c10::toString(input.loader.compute_dtype())},
                          {"four_bit", write_fields(input.four_bit)}};
  ExportOptions options = input.options;
  options.output_dir.clear();
  options.work_dir.clear();
  options.keep = options.overwrite = options.resume = false;
  options.evaluation = {};
  facts["options"] = write_fields(options);
  if (input.copy.awq_grid != nullptr) facts["awq_scales"] = facts_of(*input.copy.awq_grid);
  if (input.copy.start != nullptr) facts["start"] = input.copy.start->identity();
  if (input.adapter != nullptr) facts["adapter"] = adapter_hash(*input.adapter);
  io::Sha256 hash;
  hash.update(facts.dump());
  for (const Tensor& tensor : lora::grid_state(input.trained)) {
    const Tensor flat = tensor.contiguous();
    hash.update({static_cast<const std::byte*>(flat.const_data_ptr()), flat.nbytes()});
  }
  if (input.calibration != nullptr) {
    for (const TokenBatch& batch : input.calibration->batches) {
      hash.update(std::as_bytes(std::span(batch.tokens)));
      hash.update(std::as_bytes(std::span(batch.segment_starts)));
    }
  }
  return hash.hex();
}

Candidate make_candidate(const CandidateInput& input, MergeBase base, const fs::path& work_dir,
                         RunLog& log) {
  const MergedWeights weights(input.loader, input.adapter, base, input.four_bit);
  const ResolvedGrid& grid = input.preflight.grid;
  const fs::path work = work_dir / name_of(base);
  std::error_code error;
  fs::create_directories(work, error);
  QLORA_CHECK(!error, IoError, "[export] the work directory {} cannot be made: {}", work.string(),
              error.message());
  Candidate candidate{.base = base, .directory = work / "model"};
  io::AtomicDirectory folder(candidate.directory, io::IfExists::kReplace);
  if (grid.format == ExportFormat::kGguf) {
    candidate.model_path = write_gguf_candidate(input, weights, folder.path(), log);
  } else {
    const BlockQuantizer quantizer(input.preflight, input.options, input.four_bit,
                                   plain_dtype(grid, input.loader.config()), input.trained,
                                   input.copy);
    if (!input.options.resume) fs::remove_all(work / "blocks", error);
    QuantizedBlocks blocks = quantize_blocks(input.loader, weights, quantizer, input.calibration,
                                             work / "blocks", fingerprint(input, base), log);
    write_hugging_face(input, blocks, folder.path(), candidate);
    candidate.linears = std::move(blocks.linears);
    candidate.seconds = blocks.seconds;
    candidate.resumed_blocks = blocks.resumed_blocks;
  }
  folder.commit();
  candidate.model_path = candidate.directory / candidate.model_path;
  if (grid.format == ExportFormat::kGguf) {
    candidate.bytes = fs::file_size(candidate.model_path);
    candidate.linears = read_back_gguf(input, weights, candidate.model_path, log);
  } else {
    check_readback(candidate, input);
  }
  return candidate;
}

}  // namespace qlora::exporter
