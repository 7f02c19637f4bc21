#pragma once

#include <cstdint>
#include <string>

#include "configs/run_config.h"
#include "core/fields.h"
#include "core/run_log.h"

namespace qlora::cli {

/// What a run would train on: counts, and the first `rows` examples with their text, pieces and
/// loss mask ("learnt": 1 where the token is a target). Reads the tokenizer and the data alone.
Json inspect_data(const configs::RunConfig& config, int64_t rows, RunLog& log);

enum class Colour { kOff, kOn };

/// The same for people: learnt tokens green, or in «» without colour.
std::string data_text(const Json& facts, Colour colour);

}  // namespace qlora::cli
