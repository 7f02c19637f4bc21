#include "cli/export_data.h"

#include <algorithm>
#include <filesystem>

#include "core/error.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "eval/protocol.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

constexpr int64_t kHeldOutRows = 128;

data::ExampleSet read_tokens(const std::string& argument, int64_t vocabulary) {
  const size_t colon = argument.rfind(':');
  QLORA_CHECK(colon != std::string::npos && colon > 0 && colon + 1 < argument.size(), ConfigError,
              "[usage] {} names no tensor; write FILE:TENSOR", argument);
  return data::read_token_tensor(argument.substr(0, colon), argument.substr(colon + 1), vocabulary);
}

/// Held-out sequences, as many as the bound on tokens lets in.
void set_evaluation(const eval::Protocol& protocol, int64_t max_tokens,
                    exporter::ExportData& data) {
  int64_t tokens = 0;
  for (const TokenBatch& segment : protocol.segments) {
    if (tokens >= max_tokens) break;
    data.evaluation.push_back(segment);
    tokens += static_cast<int64_t>(segment.tokens.size());
  }
  data.protocol = protocol.description;
  if (data.evaluation.size() < protocol.segments.size()) {
    data.protocol +=
        fmt::format(", the first {} of {}", data.evaluation.size(), protocol.segments.size());
  }
}

/// Rows as `qlora perplexity` scores them: plain text as one stream in windows, the others one by
/// one where training would learn.
eval::Protocol row_protocol(const data::Dataset& rows, const configs::RunConfig& config,
                            const data::Tokenizer& tokenizer) {
  if (rows.form != data::RowForm::kText) {
    return eval::example_protocol(data::build_examples(rows, config.data.example, tokenizer),
                                  config.data.example);
  }
  std::string joined;
  for (const data::Record& row : rows.records) joined += (joined.empty() ? "" : "\n\n") + row.text;
  const int64_t window = config.exporting.evaluation.block_tokens;
  return eval::window_protocol(tokenizer.encode(joined), window, window);
}

/// The file of a split: in a folder of files the one of its name; a file alone is its only split.
std::string split_file(const exporter::CalibrationOptions& options) {
  namespace fs = std::filesystem;
  const fs::path path = options.dataset_name;
  if (!fs::is_directory(path)) {
    QLORA_CHECK(options.dataset_split == "train", ConfigError,
                "[export] dataset_split is {}, but {} is one file, which has no splits; name a "
                "folder with {}.jsonl, or leave dataset_split out",
                options.dataset_split, path.string(), options.dataset_split);
    return options.dataset_name;
  }
  for (const char* ending : {".jsonl", ".json", ".csv"}) {
    const fs::path file = path / (options.dataset_split + ending);
    if (fs::exists(file)) return file.string();
  }
  throw IoError(
      fmt::format("[export] {} holds no {}.jsonl, .json or .csv; choose another "
                  "--dataset-split, or name a file",
                  path.string(), options.dataset_split));
}

void calibrate_on_file(const configs::RunConfig& config, const data::Tokenizer& tokenizer,
                       bool hold_out, exporter::ExportData& data) {
  const auto& options = config.exporting;
  data::Dataset rows = data::load_dataset(split_file(options.calibration), config.data.dataset);
  if (hold_out && rows.size() >= 2) {
    const int64_t held = std::clamp<int64_t>(rows.size() / 10, 1, kHeldOutRows);
    // A size of 1 would be read as the fraction of all rows.
    auto [rest, part] = data::split_dataset(
        std::move(rows),
        held == 1 ? 1.0 / static_cast<double>(rows.size()) : static_cast<double>(held),
        options.calibration.seed);
    set_evaluation(row_protocol(part, config, tokenizer), options.evaluation.max_tokens, data);
    rows = std::move(rest);
  }
  data::ExampleOptions example = config.data.example;
  example.max_length = options.calibration.max_seq_length + 1;  // what is cut is counted later
  example.overlong = data::Overlong::kTruncate;
  data.calibration = data::build_examples(rows, example, tokenizer);
}

bool has_run_data(const configs::RunConfig& config) {
  return !config.data.dataset_name.empty() || !config.data.tokens.file.empty();
}

}  // namespace

exporter::ExportData load_export_data(const configs::RunConfig& config, const ExportTokens& tokens,
                                      RunLog& log) {
  exporter::ExportData data;
  const auto& options = config.exporting;
  const int64_t most = options.evaluation.max_tokens;
  const int64_t vocabulary = io::Checkpoint(config.model_name_or_path).config().vocab_size;
  const bool needs_texts = tokens.calibration.empty() || tokens.evaluation.empty();
  if (!tokens.calibration.empty()) {
    data.calibration = read_tokens(tokens.calibration, vocabulary);
  }
  if (!tokens.evaluation.empty()) {
    set_evaluation(eval::block_protocol(read_tokens(tokens.evaluation, vocabulary), 0), most, data);
  }
  if (!needs_texts) return data;

  const bool names_texts =
      !options.calibration.dataset_name.empty() || !options.evaluation.dataset_name.empty();
  const auto tokenizer = names_texts || config.data.tokens.file.empty()
                             ? data::load_tokenizer(config.model_name_or_path)
                             : std::unique_ptr<const data::Tokenizer>();
  if (data.evaluation.empty() && !options.evaluation.dataset_name.empty()) {
    set_evaluation(
        row_protocol(data::load_dataset(options.evaluation.dataset_name, config.data.dataset),
                     config, *tokenizer),
        most, data);
  }
  if (!data.calibration && !options.calibration.dataset_name.empty()) {
    calibrate_on_file(config, *tokenizer, data.evaluation.empty(), data);
  }
  const bool wants_more = !data.calibration || data.evaluation.empty();
  if (!wants_more || !has_run_data(config)) return data;
  if (!config.data.tokens.file.empty()) {
    const data::TokenFileOptions& file = config.data.tokens;
    if (!data.calibration)
      data.calibration = data::read_token_tensor(file.file, file.train, vocabulary);
    if (data.evaluation.empty() && !file.eval.empty()) {
      set_evaluation(
          eval::block_protocol(data::read_token_tensor(file.file, file.eval, vocabulary), 0), most,
          data);
    }
    return data;
  }
  data::TrainingData run =
      data::load_training_data(config.data, *tokenizer, config.training.seed, log);
  if (!data.calibration) data.calibration = std::move(run.train);
  if (data.evaluation.empty() && run.eval) {
    set_evaluation(eval::example_protocol(*run.eval, config.data.example), most, data);
  }
  return data;
}

}  // namespace qlora::cli
