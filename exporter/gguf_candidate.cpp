#include "exporter/gguf_candidate.h"

#include <ATen/ops/empty_like.h>

#include <algorithm>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string>

#include "core/error.h"
#include "exporter/gguf_export.h"
#include "exporter/interrupted.h"
#include "exporter/kernel_rules.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using torch::Tensor;

/// Rows of the merged model by name; the last matrix is kept for the rows that follow.
class MergedRows {
 public:
  MergedRows(const model::BlockLoader& loader, const MergedWeights& weights)
      : loader_(loader), weights_(weights) {
    for (const auto& tensor : io::model_tensors(loader.config())) {
      if (tensor.role == io::TensorRole::kLinear) linears_.insert(tensor.name);
    }
  }

  void operator()(const std::string& name, int64_t begin, int64_t count, float* out) {
    const std::string module = name.substr(0, name.rfind('.'));
    if (!name.starts_with("model.layers.") || !linears_.contains(name)) {
      loader_.checkpoint().tensor_f32_rows(name, begin, count, out);
      return;
    }
    if (module != module_) {
      check_stop_request();
      matrix_ = weights_.weight(module);
      module_ = module;
    }
    const Tensor rows = matrix_.narrow(0, begin, count).contiguous();
    std::copy_n(rows.const_data_ptr<float>(), rows.numel(), out);
  }

 private:
  const model::BlockLoader& loader_;
  const MergedWeights& weights_;
  std::set<std::string> linears_;
  std::string module_;
  Tensor matrix_;
};

GgufExportOptions gguf_options(const CandidateInput& input) {
  const GgufType type = input.preflight.grid.gguf_type;
  GgufExportOptions options{
      .type = ggml_type(type), .name = input.name, .chat_templates = input.chat_templates};
  if (type == GgufType::kQ8_0) options.embedding_type = io::GgmlType::kQ8_0;
  return options;
}

int64_t bits_of(io::GgmlType type) {
  if (type == io::GgmlType::kQ8_0) return 8;
  const bool is_4bit = type == io::GgmlType::kQ4_0 || type == io::GgmlType::kQ4_K;
  return is_4bit ? 4 : kUnquantizedBits;
}

}  // namespace

fs::path write_gguf_candidate(const CandidateInput& input, const MergedWeights& weights,
                              const fs::path& folder, RunLog& log) {
  const fs::path name =
      fmt::format("{}-{}.gguf", input.name, name_of(input.preflight.grid.gguf_type));
  auto rows = std::make_shared<MergedRows>(input.loader, weights);
  write_gguf(
      folder / name, input.loader.config(), input.source, gguf_options(input),
      [rows](const std::string& tensor, int64_t begin, int64_t count, float* out) {
        (*rows)(tensor, begin, count, out);
      },
      log);
  return name;
}

std::vector<LinearReport> read_back_gguf(const CandidateInput& input, const MergedWeights& weights,
                                         const fs::path& file, RunLog& log) {
  const io::Checkpoint written(file, io::GgufRounding::kNone);
  std::vector<LinearReport> reports;
  for (const GgufPlanEntry& entry : plan_gguf(input.loader.config(), gguf_options(input))) {
    if (entry.role != io::TensorRole::kLinear) continue;
    check_stop_request();
    const std::string module = entry.name.substr(0, entry.name.rfind('.'));
    const Tensor original = weights.weight(module);
    Tensor read = at::empty_like(original);
    written.tensor_f32(entry.name, read.mutable_data_ptr<float>());
    written.release(entry.name);
    LinearReport report{.module = module, .rows = original.size(0), .cols = original.size(1)};
    report.bits = bits_of(entry.out.type);
    if (report.bits != kUnquantizedBits) {
      report.group_size = io::ggml_type_info(entry.out.type).block_elements;
    }
    set_rounding_error(original, read, report);
    QLORA_CHECK(report.sqnr_db >= 0, FormatError,
                "[export] {} was read back from {} with other numbers than were written ({:.1f} "
                "dB); this is a bug, please report it",
                module, file.string(), report.sqnr_db);
    log.event("linear", to_json(report));
    reports.push_back(std::move(report));
  }
  return reports;
}

}  // namespace qlora::exporter
