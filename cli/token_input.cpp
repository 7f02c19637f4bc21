#include "cli/token_input.h"

#include "core/error.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

void warn_of_positions(const data::TrainingData& data, const io::HfConfig& model, RunLog& log) {
  const auto warn = [&](const data::ExampleSet& set, const char* use) {
    const auto text = data::position_warning(set, use, model.max_position_embeddings);
    if (text) log.warn(*text);
  };
  warn(data.train, "training");
  if (data.eval) warn(*data.eval, "evaluation");
}

}  // namespace

data::ExampleSet read_token_argument(const char* flag, const std::string& argument,
                                     int64_t vocab_size) {
  const size_t colon = argument.rfind(':');
  QLORA_CHECK(colon != std::string::npos && colon > 0 && colon + 1 < argument.size(), ConfigError,
              "[usage] {} {} names no tensor; write FILE:TENSOR", flag, argument);
  return data::read_token_tensor(argument.substr(0, colon), argument.substr(colon + 1), vocab_size);
}

std::vector<int32_t> encode_text(const std::string& text, const data::Tokenizer& tokenizer,
                                 const std::string& where) {
  std::vector<int32_t> ids = tokenizer.encode(text);
  data::check_single_bos(ids, tokenizer, where);
  return ids;
}

eval::Protocol joined_protocol(const std::vector<std::string>& texts, int64_t seq_len,
                               int64_t stride, const data::Tokenizer& tokenizer,
                               const std::string& where) {
  std::string joined;
  for (const std::string& text : texts) joined += (joined.empty() ? "" : "\n\n") + text;
  return eval::window_protocol(encode_text(joined, tokenizer, where), seq_len, stride);
}

data::TrainingData load_run_data(const configs::RunConfig& config, RunLog& log) {
  const data::TokenFileOptions& tokens = config.data.tokens;
  const auto vocabulary = [&] {  // of the model
    return io::Checkpoint(config.model_name_or_path).config().vocab_size;
  };
  data::TrainingData data;
  if (tokens.file.empty()) {
    const auto tokenizer = data::load_tokenizer(config.model_name_or_path);
    data = data::load_training_data(config.data, *tokenizer, config.training.seed, log);
    data::check_vocabulary(data.train, *tokenizer, vocabulary());
    if (data.eval) data::check_vocabulary(*data.eval, *tokenizer, vocabulary());
  } else {
    data.train = data::read_token_tensor(tokens.file, tokens.train, vocabulary());
    if (!tokens.eval.empty()) {
      data.eval = data::read_token_tensor(tokens.file, tokens.eval, vocabulary());
    }
  }
  warn_of_positions(data, io::Checkpoint(config.model_name_or_path).config(), log);
  return data;
}

}  // namespace qlora::cli
