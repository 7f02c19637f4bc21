#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "data/tokenizer.h"
#include "io/gguf_writer.h"

namespace qlora::exporter {

/// The file that holds a model's tokenizer: tokenizer.json, tokenizer.model or the only GGUF file
/// of a folder; a file is taken as it is.
///   throws    IoError where there is none
std::filesystem::path tokenizer_file(const std::filesystem::path& source);

/// Adds tokenizer.ggml.* and tokenizer.chat_template as llama.cpp reads them.
///   source      as in tokenizer_file. A GGUF file's values are copied as they stand; a
///               byte-level tokenizer.json becomes the model "gpt2"; a tokenizer.model, or a
///               tokenizer.json with byte fallback, becomes the model "llama"
///   vocab_size  of the model; ids above the tokenizer's get unused pieces
///   templates   take the place of the source's chat templates; empty: these are written
///   throws      FormatError for a tokenizer that GGUF has no name for, or with more ids than the
///               model; IoError
void add_gguf_tokenizer(const std::filesystem::path& source, int64_t vocab_size,
                        io::GgufMetadata& metadata,
                        const std::vector<data::NamedTemplate>& templates = {});

/// Proves that the tokenizer among `metadata` gives the ids that `source` gives, on texts with
/// words, digits, white space, scripts, emoji and each special token.
///   folder    a file is made there and removed
///   throws    FormatError with the first text that differs
void check_gguf_tokenizer(const std::filesystem::path& source, const io::GgufMetadata& metadata,
                          const std::filesystem::path& folder);

}  // namespace qlora::exporter
