#pragma once

#include <nlohmann/json_fwd.hpp>

#include "io/hf_config.h"
#include "io/json_object.h"

namespace qlora::io {

// What Gemma 2 and Gemma 3 share.

HfConfig gemma_defaults();
/// Norm offset, post norms, embedding scale, query scale and caps; the caps are those of a
/// config.json without the keys, 0: none.
void read_gemma(const JsonObject& keys, HfConfig& config, double attention_cap, double logit_cap);
void write_gemma(const HfConfig& config, nlohmann::json& keys);
double read_softcap(const JsonObject& keys, const char* key, double if_absent);

}  // namespace qlora::io
