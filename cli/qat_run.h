#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "configs/run_config.h"
#include "core/run_log.h"
#include "data/example_builder.h"
#include "model/decoder.h"

namespace qlora::cli {

/// Whether section qat fits the model: shapes, format, a base that can be rounded. Opens the
/// checkpoint's header alone.
///   Requires  qat.is_on()
///   throws    ConfigError, ShapeError in the words of the export that will write it; ConfigError
///             for a base that is quantized already, where no linear is rounded, and for a folder
///             that is not there
void check_qat(const configs::RunConfig& config);

/// Where qat.awq_scales or qat.start_from asks for it: writes the scaled, then the moved copy of
/// the base, with the codes that GPTQ is asked for, and makes it the base of the configuration. A
/// run that is resumed takes the copies that are there, if they were made of the same.
///   returns   false where a signal ended the work
///   throws    what exporter/base_copy.h throws
bool prepare_base(configs::RunConfig& config, const data::ExampleSet& rows, RunLog& log);

/// Gives the model the grids that section qat trains on. They count from set_fake_quant on.
///   has_saved_grids  their numbers will be read from a checkpoint: the export that grid_from names
///                    is not needed any more
///   Requires         qat.is_on()
void set_qat_grids(const configs::RunConfig& config, bool has_saved_grids, model::Decoder& model);

/// For an adapter of a run that is over, with what training moved of the grids: the model holds the
/// rounded weights and is not trained any more.
///   throws    what lora::read_grids throws
void restore_qat_grids(const configs::RunConfig& config, const std::string& adapter,
                       model::Decoder& model);

/// What a run keeps its configuration in.
inline constexpr const char* kResolvedConfig = "config.resolved.json";

/// That file of the run that an adapter comes from; nothing for adapters of other programs.
///   adapter   a run directory, one of its checkpoints, or any other PEFT folder
std::optional<std::filesystem::path> run_config_of(const std::string& adapter);

/// The configuration of the run that an adapter comes from, where that run trained on a grid.
///   adapter   a run directory, one of its checkpoints, or any other PEFT folder: nothing
std::optional<configs::RunConfig> qat_run_of(const std::string& adapter);

}  // namespace qlora::cli
