#include "cli/export_data.h"

#include <algorithm>
#include <filesystem>

#include "cli/token_input.h"
#include "core/error.h"
#include "data/dataset.h"
#include "data/tokenizer.h"
#include "eval/protocol.h"
#include "exporter/legality.h"
#include "io/checkpoint.h"

namespace qlora::cli {
namespace {

constexpr int64_t kHeldOutRows = 128;

/// What an export has to have and nobody has named yet.
struct Wanted {
  bool calibration = false;
  bool evaluation = false;
};

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
  std::vector<std::string> texts;
  for (const data::Record& row : rows.records) texts.push_back(row.text);
  const int64_t window = config.exporting.evaluation.block_tokens;
  return joined_protocol(texts, window, window, tokenizer, rows.name);
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

/// Fills what is still wanted from the rows of export.dataset_name.
void read_calibration_file(const configs::RunConfig& config, const Wanted& wanted,
                           exporter::ExportData& data) {
  const auto& options = config.exporting;
  const auto tokenizer = data::load_tokenizer(config.model_name_or_path);
  data::Dataset rows = data::load_dataset(split_file(options.calibration), config.data.dataset);
  if (wanted.evaluation && rows.size() >= 2) {
    const int64_t held = std::clamp<int64_t>(rows.size() / 10, 1, kHeldOutRows);
    // A size of 1 would be read as the fraction of all rows.
    const double size =
        held == 1 ? 1.0 / static_cast<double>(rows.size()) : static_cast<double>(held);
    auto [rest, part] = data::split_dataset(std::move(rows), size, options.calibration.seed);
    set_evaluation(row_protocol(part, config, *tokenizer), options.evaluation.max_tokens, data);
    rows = std::move(rest);
  }
  if (!wanted.calibration) return;
  data::ExampleOptions example = config.data.example;
  example.max_length = options.calibration.max_seq_length + 1;  // what is cut is counted later
  example.overlong = data::Overlong::kTruncate;
  data.calibration = data::build_examples(rows, example, *tokenizer);
}

/// Fills what is still wanted from the data that the configuration trains on.
void read_run_data(const configs::RunConfig& config, const Wanted& wanted,
                   exporter::ExportData& data, RunLog& log) {
  data::TrainingData run = load_run_data(config, log);
  if (wanted.calibration) data.calibration = std::move(run.train);
  if (!wanted.evaluation || !run.eval) return;
  const bool is_ids = !config.data.tokens.file.empty();
  set_evaluation(is_ids ? eval::block_protocol(*run.eval, 0)
                        : eval::example_protocol(*run.eval, config.data.example),
                 config.exporting.evaluation.max_tokens, data);
}

}  // namespace

exporter::ExportData load_export_data(const configs::RunConfig& config, const ExportTokens& tokens,
                                      RunLog& log) {
  exporter::ExportData data;
  const auto& options = config.exporting;
  const int64_t most = options.evaluation.max_tokens;
  Wanted wanted{.calibration = exporter::resolve_grid(options.grid).needs_calibration(),
                .evaluation = options.evaluation.enabled};
  const auto read_ids = [&](const char* flag, const std::string& argument) {
    const int64_t vocab_size = io::Checkpoint(config.model_name_or_path).config().vocab_size;
    return read_token_argument(flag, argument, vocab_size);
  };
  if (wanted.calibration && !tokens.calibration.empty()) {
    data.calibration = read_ids("--tokens", tokens.calibration);
  }
  if (wanted.evaluation && !tokens.evaluation.empty()) {
    set_evaluation(eval::block_protocol(read_ids("--eval-tokens", tokens.evaluation), 0), most,
                   data);
  } else if (wanted.evaluation && !options.evaluation.dataset_name.empty()) {
    const auto tokenizer = data::load_tokenizer(config.model_name_or_path);
    const auto rows = data::load_dataset(options.evaluation.dataset_name, config.data.dataset);
    set_evaluation(row_protocol(rows, config, *tokenizer), most, data);
  }
  const auto is_wanting = [&] {
    wanted.calibration = wanted.calibration && !data.calibration;
    wanted.evaluation = wanted.evaluation && data.evaluation.empty();
    return wanted.calibration || wanted.evaluation;
  };
  if (is_wanting() && !options.calibration.dataset_name.empty()) {
    read_calibration_file(config, wanted, data);
  }
  const bool has_run_data = !config.data.dataset_name.empty() || !config.data.tokens.file.empty();
  if (is_wanting() && has_run_data) read_run_data(config, wanted, data, log);
  return data;
}

}  // namespace qlora::cli
