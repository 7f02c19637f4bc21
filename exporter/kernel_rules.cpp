#include "exporter/kernel_rules.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <functional>
#include <set>

#include "core/error.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;

bool is_gptq(const ResolvedGrid& grid) {
  return grid.format == F::kGptq || grid.format == F::kGptqV2;
}

/// throws where a quantized matrix has not the multiples that its packing needs
void require_multiples(const Preflight& p, int64_t rows, int64_t cols, const char* who) {
  for (const ModuleGrid& m : p.modules) {
    if (!m.is_quantized()) continue;
    QLORA_CHECK(m.rows % rows == 0 && m.cols % cols == 0, ShapeError,
                "[export] {} is [{}, {}], but {} needs rows that are a multiple of {} and columns "
                "that are a multiple of {}; skip_modules leaves it in 16 bits",
                m.name, m.rows, m.cols, who, rows, cols);
  }
}

/// The shapes of quantized modules that break a rule, each once: "[576, 1536] (down_proj)".
std::vector<std::string> shapes_where(const Preflight& p,
                                      const std::function<bool(const ModuleGrid&)>& breaks) {
  std::set<std::string> shapes;
  for (const ModuleGrid& m : p.modules) {
    if (!m.is_quantized() || !breaks(m)) continue;
    shapes.insert(
        fmt::format("[{}, {}] ({})", m.rows, m.cols, m.name.substr(m.name.rfind('.') + 1)));
  }
  return {shapes.begin(), shapes.end()};
}

/// vLLM's Marlin: N a multiple of 64, K of 128, groups of -1, 32, 64 or 128, 4 or 8 bits.
bool fits_marlin(const ModuleGrid& m) {
  const std::set<int64_t> kGroups = {-1, 32, 64, 128};
  return m.rows % 64 == 0 && m.cols % 128 == 0 && kGroups.contains(m.group_size) &&
         (m.bits == 4 || m.bits == 8);
}

void check_marlin(Preflight& p) {
  const ResolvedGrid& grid = p.grid;
  if (is_gptq(grid) && !grid.symmetric) {
    p.notices.push_back(
        "asymmetric GPTQ does not run on vLLM's Marlin kernels, which are the quick ones; "
        "symmetric GPTQ, or asymmetric codes in the format awq, do");
    return;
  }
  const auto misfits = shapes_where(p, [](const ModuleGrid& m) { return !fits_marlin(m); });
  if (misfits.empty()) return;
  const std::string rule = fmt::format(
      "vLLM's Marlin kernels need 4 or 8 bits, rows of a multiple of 64 and columns of a multiple "
      "of 128 (by tensor-parallel part); {} do not fit",
      fmt::join(misfits, ", "));
  if (grid.format != F::kCompressedTensors) {
    p.notices.push_back(rule + ": vLLM takes its slower kernels for them");
    return;
  }
  // For these words vLLM has no slower kernel to fall back to.
  QLORA_CHECK(grid.loader != Loader::kVllm, ShapeError,
              "[export] {}, and compressed-tensors has no other kernel there; choose the format "
              "gptq or awq",
              rule);
  p.warnings.push_back(rule + ": vLLM may refuse the model; the formats gptq and awq load there");
}

/// vLLM fuses q, k, v and gate, up into one matrix each: their grids have to agree.
void check_fused(Preflight& p) {
  const std::vector<std::vector<const char*>> kFused = {{"q_proj", "k_proj", "v_proj"},
                                                        {"gate_proj", "up_proj"}};
  for (const ModuleGrid& m : p.modules) {
    const size_t dot = m.name.rfind('.');
    if (dot == std::string::npos) continue;
    const std::string prefix = m.name.substr(0, dot + 1), last = m.name.substr(dot + 1);
    for (const auto& parts : kFused) {
      if (last != parts.front()) continue;
      for (const char* part : parts) {
        const ModuleGrid& other = p.at(prefix + part);
        if (other.bits == m.bits && (!m.is_quantized() || other.group_size == m.group_size)) {
          continue;
        }
        const std::string text = fmt::format(
            "{} and {} have different bits or groups, but vLLM fuses them into one matrix", m.name,
            other.name);
        QLORA_CHECK(p.grid.loader != Loader::kVllm, ConfigError,
                    "[export] {}; give the parts the same pattern", text);
        p.warnings.push_back(text + " and refuses the model; other loaders do not");
        return;
      }
    }
  }
}

void check_eight_bit(Preflight& p) {
  const auto misfits =
      shapes_where(p, [](const ModuleGrid& m) { return m.rows % 16 != 0 || m.cols % 16 != 0; });
  if (misfits.empty()) return;
  const std::string text = fmt::format(
      "vLLM's 8-bit matrix products need multiples of 16; {} are none", fmt::join(misfits, ", "));
  QLORA_CHECK(p.grid.loader != Loader::kVllm, ShapeError,
              "[export] {}; skip_modules leaves them in 16 bits", text);
  p.warnings.push_back(text + ": vLLM may refuse the model");
}

void check_gptq(Preflight& p) {
  require_multiples(p, 32, 32, "GPTQ's packing");
  if (p.grid.bits < 4) {
    p.notices.push_back(
        "2- and 3-bit GPTQ is read by GPTQModel, vLLM's older kernels and "
        "transformers; expect it to be slow");
  }
  if (p.has_overrides()) {
    p.notices.push_back(
        "bits or groups differ between modules: GPTQModel and vLLM read that (`dynamic`), "
        "transformers and AutoGPTQ do not");
  }
  if (p.grid.group_size == GroupSize::kPerRow && p.grid.loader != Loader::kVllm) {
    p.warnings.push_back("GPTQModel 7.7 and transformers fail on group_size -1 on the CPU");
  }
}

}  // namespace

void check_kernels(Preflight& p) {
  if (!p.grid.is_quantized()) return;
  if (is_gptq(p.grid)) check_gptq(p);
  if (p.grid.format == F::kAwq) require_multiples(p, 8, 1, "AWQ's packing");
  const bool is_weight_only = p.grid.group_rule == GroupRule::kChosen;
  if (is_weight_only && p.grid.loader != Loader::kGptqmodel &&
      p.grid.loader != Loader::kTransformers && p.grid.format != F::kGptqV2) {
    check_marlin(p);
  }
  if (p.grid.quantizes_activations()) check_eight_bit(p);
  if (p.grid.format != F::kGguf) check_fused(p);
}

io::GgmlType ggml_type(GgufType type) {
  switch (type) {
    case GgufType::kQ8_0:
      return io::GgmlType::kQ8_0;
    case GgufType::kQ4_0:
      return io::GgmlType::kQ4_0;
    case GgufType::kQ4_K:
      return io::GgmlType::kQ4_K;
    default:
      return io::GgmlType::kF16;
  }
}

}  // namespace qlora::exporter
