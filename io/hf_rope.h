#pragma once

#include "io/hf_config.h"
#include "io/json_object.h"

namespace qlora::io {

/// Rotary parameters of a config.json in its old form (rope_theta and rope_scaling beside each
/// other) or its new one (rope_parameters), as transformers' standardize_rope_params merges them.
///   defaults  of the family: theta, and original_max_position_embeddings where it is not 0
///   throws    FormatError for an unknown type, a missing parameter, or parameters by layer type
RopeParameters parse_rope(const JsonObject& config, int64_t max_position_embeddings,
                          const RopeParameters& defaults = {});

/// Rotary parameters by layer type (Gemma 3).
struct LayeredRope {
  RopeParameters full;     // of blocks that see everything
  RopeParameters sliding;  // of blocks with a window
};

/// Old form: rope_theta and rope_scaling for all, rope_local_base_freq for windows; new form: two
/// objects in rope_parameters.
LayeredRope parse_layered_rope(const JsonObject& config, int64_t max_position_embeddings,
                               double full_theta, double sliding_theta);

/// throws FormatError for values out of range
void validate_rope(const RopeParameters& rope, const std::string& where);

/// The object of rope_parameters; "rope_type" is "default" without scaling.
nlohmann::json rope_to_json(const RopeParameters& rope);

}  // namespace qlora::io
