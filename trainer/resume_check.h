#pragma once

#include "core/fields.h"
#include "core/run_log.h"

namespace qlora::trainer {

/// Compares the options that a checkpoint was made with to those of the run that goes on from it.
///   Must match   what the states depend on: seed, batches, kind of optimizer state
///   Warned of    what makes the losses differ from the run that was not interrupted
///   Free         all others: how long, how often, where to
///   throws       ConfigError naming the key and both values
void check_same_options(const Json& saved, const Json& now, RunLog& log);

}  // namespace qlora::trainer
