#pragma once

#include "cli/plan.h"
#include "configs/run_config.h"
#include "core/run_log.h"
#include "data/example_builder.h"
#include "trainer/run_directory.h"

namespace qlora::cli {

/// What a run knows before it reads a weight.
struct CheckedRun {
  trainer::RunStart start;
  data::TrainingData data;
  Plan plan;
};

/// Everything that `qlora train` refuses before it loads the model: the run directory, the device,
/// sections qat and export, the adapter that it begins with, tokenizer, templates, data, the
/// linears that get adapters. Changes nothing on disk. Sets the number of threads.
///   throws    what its parts throw
///   cost      opens the checkpoint's headers; reads and tokenises the data
CheckedRun check_run(const configs::RunConfig& config, RunLog& log);

}  // namespace qlora::cli
