#pragma once

#include "configs/run_config.h"

namespace qlora::configs {

/// The least that a run has to say.
inline RunConfig small_config() {
  RunConfig config;
  config.model_name_or_path = "m";
  config.data.dataset_name = "d.jsonl";
  return config;
}

}  // namespace qlora::configs
