#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "lora/fake_quant.h"

namespace qlora::lora {

/// What training moved of the grids: scales and zero points that are held, factors of learned
/// scales, what observers have seen. Empty where grids follow from the weights alone.
inline constexpr const char* kGridFile = "qat_grids.safetensors";

/// Writes kGridFile into a folder, where there is something to write. It appears atomically.
///   Tensors   "<module>.scales", ".zeros", ".factor", ".inputs"
void write_grids(const std::filesystem::path& directory,
                 const std::map<std::string, LinearGrid>& grids);

/// Reads the tensors of a folder's kGridFile into grids of the same form.
///   throws    IoError where the file is missing but grids need one; FormatError where a tensor is
///             missing, of another shape or type, not finite, or a scale is not positive
void read_grids(const std::filesystem::path& directory,
                const std::map<std::string, LinearGrid>& grids);

/// Its tensors in a fixed order, sharing memory: what decides how weights and inputs are rounded.
std::vector<torch::Tensor> grid_state(const std::map<std::string, LinearGrid>& grids);

/// True where grids have more to keep than what follows from the weights.
bool has_grid_state(const std::map<std::string, LinearGrid>& grids);

}  // namespace qlora::lora
