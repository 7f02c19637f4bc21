#include "exporter/preflight.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>

#include "core/error.h"
#include "core/progress.h"
#include "exporter/gguf_export.h"
#include "exporter/kernel_rules.h"
#include "exporter/module_patterns.h"
#include "io/gguf_family.h"
#include "io/temporary.h"
#include "io/tensor_layout.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;

constexpr std::array<int64_t, 3> kGroupSizes = {128, 64, 32};

bool is_linear(const io::ExpectedTensor& tensor) {
  return tensor.role == io::TensorRole::kLinear || tensor.role == io::TensorRole::kHead;
}

std::string module_of(const std::string& tensor) {
  return tensor.substr(0, tensor.size() - std::string_view(".weight").size());
}

std::vector<std::string> names_of(const std::vector<ModuleGrid>& modules) {
  std::vector<std::string> names;
  for (const ModuleGrid& module : modules) names.push_back(module.name);
  return names;
}

template <class T>
std::vector<std::string> keys_of(const std::map<std::string, T>& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

/// All linears; a group size of 0 is still to be decided.
std::vector<ModuleGrid> linears(const io::HfConfig& config) {
  std::vector<ModuleGrid> modules;
  for (const io::ExpectedTensor& tensor : io::model_tensors(config)) {
    if (is_linear(tensor)) {
      modules.push_back({.name = module_of(tensor.name),
                         .rows = tensor.shape[0],
                         .cols = tensor.shape[1],
                         .group_size = 0});
    }
  }
  return modules;
}

void check_lm_head(const io::HfConfig& config, const GridOptions& o, const ResolvedGrid& grid,
                   Preflight& result) {
  if (!o.quantize_lm_head || grid.format == F::kGguf) return;  // gguf: the embedding table's type
  QLORA_CHECK(!config.tie_word_embeddings, ConfigError,
              "[export] quantize_lm_head is true, but the output matrix of this model is its "
              "embedding table; leave it out");
  QLORA_CHECK(grid.format == F::kGptq || grid.format == F::kGptqV2, ConfigError,
              "[export] quantize_lm_head is true, but no loader of the format {} reads that; leave "
              "it out or choose gptq",
              name_of(grid.format));
  result.warnings.push_back(
      "quantize_lm_head: vLLM and GPTQModel read a quantized lm_head, transformers fails on it");
}

/// What of a mixture of experts can be written.
void check_experts(const io::HfConfig& config, const ResolvedGrid& grid, Preflight& result) {
  const auto has = [](const io::BlockKind& block) { return block.has_experts; };
  if (std::none_of(config.arch.blocks.begin(), config.arch.blocks.end(), has)) return;
  const bool is_written =
      grid.format != F::kGguf && grid.format != F::kNf4 && !grid.needs_calibration();
  QLORA_CHECK(
      is_written, ConfigError,
      "[export] {} is a mixture of experts, and {} is not made of one; allowed: "
      "quantization_type none in the format hf, and rtn or fp8 in the formats gptq, awq and "
      "compressed-tensors",
      config.architecture, describe(grid));
  if (!grid.is_quantized()) return;
  result.warnings.push_back(
      "the experts are written one by one, as vLLM reads them; transformers 5 holds those of a "
      "block in one tensor and does not read quantized ones");
}

void check_override(const ResolvedGrid& grid, int64_t bits, const std::string& pattern) {
  QLORA_CHECK(
      grid.group_rule == GroupRule::kChosen, ConfigError,
      "[export] bits_pattern holds '{}', but {} has one kind of matrix; leave it out or use "
      "skip_modules",
      pattern, describe(grid));
  for (const LegalRow& row : legal_rows()) {
    if (row.type != grid.type || row.format != grid.format) continue;
    QLORA_CHECK(std::find(row.bits.begin(), row.bits.end(), bits) != row.bits.end(), ConfigError,
                "[export] bits_pattern gives '{}' {} bits, allowed in the format {}: {}", pattern,
                bits, name_of(grid.format), fmt::join(row.bits, ", "));
  }
}

void apply_patterns(const GridOptions& o, const ResolvedGrid& grid,
                    std::vector<ModuleGrid>& modules) {
  const std::vector<std::string> names = names_of(modules);
  check_patterns(keys_of(o.bits_pattern), names, "bits_pattern");
  check_patterns(keys_of(o.group_size_pattern), names, "group_size_pattern");
  check_patterns(o.skip_modules, names, "skip_modules");
  for (const auto& [pattern, bits] : o.bits_pattern) check_override(grid, bits, pattern);
  for (const auto& [pattern, size] : o.group_size_pattern) {
    QLORA_CHECK(size == -1 || size >= 1, ConfigError,
                "[export] group_size_pattern gives '{}' the group size {}, allowed: -1, or a "
                "divisor of its columns",
                pattern, size);
  }
  QLORA_CHECK(o.group_size_pattern.empty() ||
                  (grid.group_rule == GroupRule::kChosen && grid.format != F::kAwq),
              ConfigError,
              "[export] group_size_pattern is set, but {} has one group size for all matrices; "
              "leave it out",
              describe(grid));
  for (ModuleGrid& module : modules) {
    const bool is_head = module.name == "lm_head";
    if (!is_head || o.quantize_lm_head) module.bits = grid.bits;
    for (const auto& [pattern, bits] : o.bits_pattern) {
      if (matches_module(module.name, pattern, "bits_pattern")) module.bits = bits;
    }
    for (const auto& [pattern, size] : o.group_size_pattern) {
      if (matches_module(module.name, pattern, "group_size_pattern")) module.group_size = size;
    }
    for (const std::string& pattern : o.skip_modules) {
      if (matches_module(module.name, pattern, "skip_modules")) module.bits = kUnquantizedBits;
    }
  }
}

std::string fitting_text(const std::vector<ModuleGrid>& modules) {
  std::vector<int64_t> fitting;
  for (const int64_t size : kGroupSizes) {
    if (std::all_of(modules.begin(), modules.end(),
                    [&](const ModuleGrid& m) { return !m.is_quantized() || m.cols % size == 0; })) {
      fitting.push_back(size);
    }
  }
  if (fitting.empty()) {
    return "none of 128, 64 and 32 divides every matrix: skip_modules leaves one in 16 bits";
  }
  return fmt::format("every matrix fits {}", fmt::join(fitting, ", "));
}

void decide_groups(Preflight& result) {
  const ResolvedGrid& grid = result.grid;
  std::vector<ModuleGrid> open;  // those without a pattern
  for (const ModuleGrid& m : result.modules) {
    if (m.is_quantized() && m.group_size == 0) open.push_back(m);
  }
  if (grid.group_rule == GroupRule::kFixed) {
    result.group_size = grid.fixed_group;
  } else if (grid.group_rule == GroupRule::kRow || grid.group_size == GroupSize::kPerRow) {
    result.group_size = -1;
  } else if (grid.group_size != GroupSize::kAuto) {
    result.group_size = static_cast<int64_t>(grid.group_size);
  } else {
    result.group_size = open.empty() ? 128 : largest_group(open);
    QLORA_CHECK(result.group_size > 0, ShapeError, "[export] group_size is auto, but {}",
                fitting_text(open));
    result.notices.push_back(fmt::format(
        "group_size auto is {}: the largest of 128, 64 and 32 that divides every matrix",
        result.group_size));
  }
  for (ModuleGrid& m : result.modules) {
    if (m.group_size == 0) m.group_size = result.group_size;
    if (!m.is_quantized() || grid.group_rule != GroupRule::kChosen || m.group_size < 1) continue;
    QLORA_CHECK(m.cols % m.group_size == 0, ShapeError,
                "[export] group_size {} does not divide the {} columns of {}; {}", m.group_size,
                m.cols, m.name, fitting_text(result.modules));
  }
}

/// Q4_K where every row is whole blocks of 256, else Q4_0.
void decide_gguf(const io::HfConfig& config, Preflight& result) {
  ResolvedGrid& grid = result.grid;
  if (grid.format != F::kGguf) return;
  io::gguf_family_of(config);
  if (const std::string difference = io::gguf_difference(config); !difference.empty()) {
    result.warnings.push_back(difference);
  }
  const auto fits = [&](int64_t block) {
    return std::all_of(result.modules.begin(), result.modules.end(),
                       [&](const ModuleGrid& m) { return m.cols % block == 0; });
  };
  if (grid.gguf_type == GgufType::kAuto) {
    grid.gguf_type = fits(256) ? GgufType::kQ4_K : GgufType::kQ4_0;
    grid.symmetric = grid.gguf_type == GgufType::kQ4_0;
    result.notices.push_back(fmt::format(
        "gguf_type auto is {}: {}", name_of(grid.gguf_type),
        fits(256) ? "every row is a multiple of 256" : "q4_k needs rows of a multiple of 256"));
  }
  std::set<std::string> replaced;
  for (const GgufPlanEntry& entry : plan_gguf(config, {.type = ggml_type(grid.gguf_type)})) {
    if (entry.out.shape.size() != 2 || entry.out.type == ggml_type(grid.gguf_type)) continue;
    if (entry.role != io::TensorRole::kLinear) continue;
    replaced.insert(fmt::format("{} columns as {}", entry.out.shape[1],
                                io::ggml_type_info(entry.out.type).name));
  }
  if (replaced.empty()) return;
  result.warnings.push_back(
      fmt::format("rows that are no whole blocks of {} are written in a larger type: {}",
                  name_of(grid.gguf_type), fmt::join(replaced, ", ")));
}

/// Bytes of one quantized matrix as its format packs it.
uint64_t packed_bytes(const ModuleGrid& m, const ResolvedGrid& grid) {
  const auto elements = static_cast<uint64_t>(m.rows) * static_cast<uint64_t>(m.cols);
  const auto groups = static_cast<uint64_t>(m.rows) * static_cast<uint64_t>(m.groups());
  const uint64_t codes = (elements * static_cast<uint64_t>(m.bits) + 7) / 8;
  if (grid.format == F::kGguf) return codes + groups * 2 + (grid.bits == 4 ? elements / 64 : 0);
  const bool has_zeros = grid.format != F::kCompressedTensors && grid.format != F::kNf4;
  const bool has_order = grid.format == F::kGptq || grid.format == F::kGptqV2;
  const uint64_t zeros = has_zeros ? (groups * static_cast<uint64_t>(m.bits) + 7) / 8 : 0;
  const uint64_t order = has_order ? 4 * static_cast<uint64_t>(m.cols) : 0;
  return codes + groups * 2 + zeros + order;
}

uint64_t estimate_bytes(const io::HfConfig& config, const Preflight& result) {
  uint64_t bytes = 0;
  std::map<std::string, const ModuleGrid*> by_name;
  for (const ModuleGrid& m : result.modules) by_name[m.name] = &m;
  for (const io::ExpectedTensor& tensor : io::model_tensors(config)) {
    uint64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= static_cast<uint64_t>(size);
    const auto found = is_linear(tensor) ? by_name.find(module_of(tensor.name)) : by_name.end();
    const bool is_packed = found != by_name.end() && found->second->is_quantized();
    bytes += is_packed ? packed_bytes(*found->second, result.grid) : 2 * elements;
  }
  return bytes;
}

}  // namespace

const ModuleGrid& Preflight::at(const std::string& module) const {
  for (const ModuleGrid& m : modules) {
    if (m.name == module) return m;
  }
  throw ValueError(fmt::format("[export] {} is no linear of the model", module));
}

bool Preflight::has_overrides() const {
  return std::any_of(modules.begin(), modules.end(), [&](const ModuleGrid& m) {
    return m.is_quantized() && (m.bits != grid.bits || m.group_size != group_size);
  });
}

int64_t largest_group(const std::vector<ModuleGrid>& modules) {
  for (const int64_t size : kGroupSizes) {
    if (std::all_of(modules.begin(), modules.end(),
                    [&](const ModuleGrid& m) { return !m.is_quantized() || m.cols % size == 0; })) {
      return size;
    }
  }
  return 0;
}

Preflight preflight(const io::HfConfig& config, const GridOptions& options) {
  Preflight result;
  result.grid = resolve_grid(options);
  result.modules = linears(config);
  check_experts(config, result.grid, result);
  check_lm_head(config, options, result.grid, result);
  apply_patterns(options, result.grid, result.modules);
  decide_gguf(config, result);
  decide_groups(result);
  check_kernels(result);
  result.output_bytes = estimate_bytes(config, result);
  return result;
}

void check_space(const std::filesystem::path& path, uint64_t needed_bytes) {
  namespace fs = std::filesystem;
  fs::path folder = fs::absolute(path).parent_path();
  while (!fs::exists(folder) && folder.has_relative_path()) folder = folder.parent_path();
  std::error_code error;
  const fs::space_info space = fs::space(folder, error);
  if (error) return;  // the writers find out
  QLORA_CHECK(space.available >= needed_bytes, IoError,
              "[export] {} has {} free, about {} are needed; free some or choose another "
              "output_dir",
              folder.string(), bytes_text(space.available), bytes_text(needed_bytes));
}

}  // namespace qlora::exporter
