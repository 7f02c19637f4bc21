#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "core/fields.h"
#include "lora/lora_options.h"

namespace qlora::trainer {

class RunLock;

/// What the trainer is told beside its options, so that a run's files can say where they come from.
struct RunFacts {
  lora::LoraOptions lora;                  // for adapter_config.json
  std::string base_model;                  // the same: base_model_name_or_path
  std::filesystem::path tokenizer_source;  // its files are copied to the run; empty: none are
  std::string chat_template_path;          // trained with instead of the tokenizer's; empty: none
  Json config;                             // written as config.resolved.json; null: not written
  Json qat;                                // what the run rounds to; null: nothing
  std::string data_name;                   // of the training set, for README.md
  uint64_t planned_bytes = 0;              // of memory at the peak, for the same; 0: not known
  const RunLock* lock = nullptr;           // the caller's, of output_dir; null: train takes it
};

}  // namespace qlora::trainer
