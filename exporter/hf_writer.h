#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "data/tokenizer.h"
#include "io/hf_config.h"

namespace qlora::exporter {

/// What stands beside the weights of a Hugging Face folder. Weights: exporter/shard_writer.h.
struct ModelFiles {
  io::HfConfig config;
  nlohmann::ordered_json quantization_config;  // null: none
  std::string torch_dtype = "bfloat16";        // of the tensors that are not quantized
  std::filesystem::path source;  // of tokenizer, chat template, generation config and licence: an
                                 // HF folder or a GGUF file
  std::vector<data::NamedTemplate> chat_templates;  // of the adapter; empty: those of the source
};

/// Writes config.json (torch_dtype and dtype, old and new rope keys), quantize_config.json for
/// GPTQ, the tokenizer's files (tokenizer_class that transformers 4 and 5 know; the chat template
/// both in tokenizer_config.json and in chat_template.jinja), generation_config.json and the
/// licence.
///   folder    exists; usually that of an io::AtomicDirectory
///   returns   the names of the files written
///   throws    IoError, FormatError as the readers of the source
std::vector<std::string> write_model_files(const std::filesystem::path& folder,
                                           const ModelFiles& files);

/// Files of a model's folder that a licence asks to be kept: LICENSE, NOTICE, USE_POLICY …
std::vector<std::filesystem::path> licence_files(const std::filesystem::path& source);

/// SPDX-like name of the licence, as model hubs spell it ("apache-2.0"), from the front matter of
/// the source's README.md or the text of its licence; empty where it is not known.
std::string licence_name(const std::filesystem::path& source);

}  // namespace qlora::exporter
