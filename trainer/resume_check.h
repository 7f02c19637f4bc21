#pragma once

#include <cstdint>
#include <filesystem>

#include "core/fields.h"
#include "core/run_log.h"
#include "io/base_record.h"
#include "trainer/run_facts.h"
#include "trainer/train_options.h"

namespace qlora::trainer {

/// What a checkpoint keeps of its run's configuration, for check_same_options.
///   returns   write_fields(options); beside them lora, and quantization and qat where the run has
///             these facts
Json identity_json(const TrainOptions& options, const RunFacts& facts);

/// Compares the options that a checkpoint was made with to those of the run that goes on from it,
/// both as identity_json gives them. What an older checkpoint does not say is not compared.
///   Must match   what the states depend on: seed, batches, kind of optimizer state; what the model
///                is made of: adapters, form of the base, what it is rounded to
///   Warned of    what makes the losses differ from the run that was not interrupted
///   Free         all others: how long, how often, where to
///   throws       ConfigError naming the first key that differs, and both values
void check_same_options(const Json& saved, const Json& now, RunLog& log);

/// throws ConfigError where the run of a checkpoint recorded other weights than those of `base`; an
///        older run recorded none, and then nothing is compared
void check_same_base(const std::filesystem::path& checkpoint, const io::BaseRecord& base);

/// throws ConfigError where a checkpoint's step lies behind the last one of the run
void check_within_run(const std::filesystem::path& checkpoint, int64_t step, int64_t total_steps);

}  // namespace qlora::trainer
