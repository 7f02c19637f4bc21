#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/run_config.h"
#include "core/run_log.h"
#include "data/example_builder.h"
#include "data/tokenizer.h"
#include "eval/protocol.h"

namespace qlora::cli {

/// Ids of a command-line argument FILE:TENSOR.
///   flag      names it in messages
///   throws    ConfigError for an argument of another form; what data::read_token_tensor throws
data::ExampleSet read_token_argument(const char* flag, const std::string& argument,
                                     int64_t vocab_size);

/// Ids of a text, with what the tokenizer's own rule adds.
///   where     names the text in messages
///   throws    ValueError where the text begins with bos and the tokenizer adds it too
std::vector<int32_t> encode_text(const std::string& text, const data::Tokenizer& tokenizer,
                                 const std::string& where);

/// Texts as one stream, joined by empty lines as transformers' page joins the rows of WikiText, and
/// scored in windows.
///   where     names them in messages
///   throws    what encode_text and eval::window_protocol throw
eval::Protocol joined_protocol(const std::vector<std::string>& texts, int64_t seq_len,
                               int64_t stride, const data::Tokenizer& tokenizer,
                               const std::string& where);

/// The training and evaluation data that a configuration names, as texts or as ids. Ids need no
/// tokenizer, but have to lie in the model's vocabulary.
///   throws    what the readers throw
data::TrainingData load_run_data(const configs::RunConfig& config, RunLog& log);

}  // namespace qlora::cli
