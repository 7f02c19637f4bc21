#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "exporter/legality.h"
#include "io/hf_config.h"

namespace qlora::exporter {

/// What happens to one linear of the model.
struct ModuleGrid {
  std::string name;  // "model.layers.0.self_attn.q_proj", "lm_head"
  int64_t rows = 0;  // N
  int64_t cols = 0;  // K
  int64_t bits = kUnquantizedBits;
  int64_t group_size = -1;  // -1: whole rows

  bool is_quantized() const { return bits != kUnquantizedBits; }
  int64_t groups() const { return group_size < 1 ? 1 : (cols + group_size - 1) / group_size; }
};

/// All that can be said before a weight is read.
struct Preflight {
  ResolvedGrid grid;                 // gguf_type is decided
  int64_t group_size = -1;           // of modules without a pattern; -1: whole rows
  std::vector<ModuleGrid> modules;   // every linear, in the order of the model
  std::vector<std::string> notices;  // what auto meant, which kernels will serve it
  std::vector<std::string> warnings;
  uint64_t output_bytes = 0;  // estimate of the weights that are written

  const ModuleGrid& at(const std::string& module) const;  // throws ValueError for an unknown name
  bool has_overrides() const;  // a quantized module differs from the others in bits or group size
};

/// Checks the model's shapes against the format and the kernels of the engines that load it.
///   throws    ConfigError as resolve_grid, and for a pattern that matches no module (with the
///             nearest name), is no regular expression, or asks for bits that the format has not;
///             ShapeError naming the matrix and the group sizes that fit all matrices
Preflight preflight(const io::HfConfig& config, const GridOptions& options);

/// Largest of 128, 64 and 32 that divides the columns of every quantized module; 0 if none does.
int64_t largest_group(const std::vector<ModuleGrid>& modules);

/// throws IoError where fewer than `needed_bytes` are free in the folder that is to hold `path`
void check_space(const std::filesystem::path& path, uint64_t needed_bytes);

}  // namespace qlora::exporter
