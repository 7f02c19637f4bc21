#pragma once

#include "io/hf_config.h"
#include "io/json_object.h"

namespace qlora::io {

/// Rotary parameters of a config.json in its old form (rope_theta and rope_scaling beside each
/// other) or its new one (rope_parameters), as transformers' standardize_rope_params merges them.
///   throws    FormatError for an unknown type, a missing parameter, or parameters by layer type
RopeParameters parse_rope(const JsonObject& config, int64_t max_position_embeddings);

/// throws FormatError for values out of range
void validate_rope(const RopeParameters& rope, const std::string& where);

/// The object of rope_parameters; "rope_type" is "default" without scaling.
nlohmann::json rope_to_json(const RopeParameters& rope);

}  // namespace qlora::io
