#pragma once

#include <filesystem>

#include "core/fields.h"
#include "io/hf_config.h"

namespace qlora::cli {

enum class TensorList { kHide, kShow };

/// What is in a file or folder, as one object for facts_text() and --json. They throw what the
/// readers of io throw: a damaged file is an error, not a fact.
Json inspect_safetensors(const std::filesystem::path& path, TensorList tensors);
/// A model of an architecture that is not supported is described as well, and says so.
Json inspect_gguf(const std::filesystem::path& path, TensorList tensors);
Json inspect_model_directory(const std::filesystem::path& path, TensorList tensors);

}  // namespace qlora::cli
