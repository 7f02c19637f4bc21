#pragma once

#include <cstdint>
#include <string>

#include "trainer/run_facts.h"
#include "trainer/train.h"

namespace qlora::trainer {

/// README.md of a run directory: a model card with the run's facts.
///   trainable, base  numbers of parameters
std::string run_readme(const TrainOptions& options, const RunFacts& facts,
                       const TrainResult& result, int64_t trainable, int64_t base);

}  // namespace qlora::trainer
