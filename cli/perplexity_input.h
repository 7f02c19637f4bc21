#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "configs/run_config.h"
#include "core/run_log.h"
#include "eval/protocol.h"

namespace qlora::cli {

/// The options of `qlora perplexity` that say what is measured.
struct PerplexityInput {
  std::string text;
  std::string dataset_name;
  std::string tokens;  // FILE:TENSOR
  int64_t blocks = 0;
  std::optional<int64_t> seq_len;  // unset: 512
  std::optional<int64_t> stride;   // unset: seq_len
  bool per_text = false;
  bool rows = false;
  std::optional<int64_t> max_length;
  std::optional<int64_t> limit;
  std::string prompt_template;
  std::string loss_on;
};

/// Reads and tokenises what is to be measured. Reads no weights.
///   throws    ConfigError for options that do not fit each other, or that the measure does not
///   read; and what the readers throw
eval::Protocol make_protocol(const PerplexityInput& input, const configs::RunConfig& config,
                             RunLog& log);

}  // namespace qlora::cli
