#pragma once

#include <string>
#include <string_view>

#include "io/family.h"

namespace qlora::io {

/// How llama.cpp knows a family. What its graph of the family takes for granted stands in
/// check_gguf_family.
struct GgufFamily {
  const char* name;  // general.architecture, and the prefix of the keys
  const Family* family;
};

/// The family of a file.  throws FormatError with the list of those that are read
const GgufFamily& gguf_family_named(std::string_view architecture, std::string_view where);

/// The family that a model is written as, and that llama.cpp computes as the model does.
///   throws    FormatError where llama.cpp has no such family, or takes something for granted that
///             the config says otherwise
const GgufFamily& gguf_family_of(const HfConfig& config);

/// What llama.cpp does otherwise all the same, for people; empty where it does nothing otherwise.
std::string gguf_difference(const HfConfig& config);

/// query_pre_attn_scalar as llama.cpp's graphs of Gemma have it: the head width, or C / H in the
/// largest model of each generation, which it knows by its number of blocks.
int64_t gguf_query_scalar(const HfConfig& config);

}  // namespace qlora::io
