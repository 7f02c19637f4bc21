#include <algorithm>
#include <cstring>

#include "core/error.h"
#include "data/example_builder.h"
#include "io/foreign_text.h"
#include "io/safetensors.h"

namespace qlora::data {
namespace {

/// Element i of a little-endian tensor of 32- or 64-bit integers.
int64_t read_id(const io::TensorView& tensor, int64_t i) {
  if (tensor.dtype == io::DType::kI32) {
    int32_t id;
    std::memcpy(&id, tensor.bytes.data() + 4 * i, 4);
    return id;
  }
  int64_t id;
  std::memcpy(&id, tensor.bytes.data() + 8 * i, 8);
  return id;
}

const char* form_name(RowForm form) {
  for (const auto& [value, name] : EnumNames<RowForm>::kNames) {
    if (value == form) return name;
  }
  return "?";
}

void report(const ExampleSet& set, const char* use, RunLog& log) {
  const ExampleCounts& c = set.counts;
  log.notice(fmt::format("{}: {} examples from {}, {} tokens, {} learnt", use, set.size(), set.name,
                         set.tokens(), set.target_tokens()));
  if (c.truncated > 0) {
    log.warn(fmt::format("{}: {} of {} rows were longer than max_length {} and were cut", use,
                         c.truncated, c.rows, set.max_length));
  }
  if (c.dropped_overlong > 0) {
    log.warn(fmt::format("{}: {} of {} rows were longer than max_length {} and were left out", use,
                         c.dropped_overlong, c.rows, set.max_length));
  }
  if (c.dropped_no_target > 0) {
    log.warn(fmt::format("{}: {} of {} rows had no token to learn and were left out", use,
                         c.dropped_no_target, c.rows));
  }
  if (c.empty_answers > 0) {
    log.warn(fmt::format(
        "{}: {} of {} rows have an answer that is empty or white space, which teaches the model to "
        "say nothing; take them out unless that is meant",
        use, c.empty_answers, c.rows));
  }
}

TrainingData load_tokens(const DataOptions& options, int64_t vocab_size) {
  QLORA_CHECK(options.eval_dataset_name.empty() && options.validation_split == 0, ConfigError,
              "[data] tokens.file brings its own evaluation (tokens.eval); eval_dataset_name and "
              "validation_split do not go with it");
  TrainingData data;
  data.train = read_token_tensor(options.tokens.file, options.tokens.train, vocab_size);
  if (!options.tokens.eval.empty()) {
    data.eval = read_token_tensor(options.tokens.file, options.tokens.eval, vocab_size);
  }
  return data;
}

TrainingData load_texts(const DataOptions& options, const Tokenizer& tokenizer, uint64_t seed,
                        RunLog& log) {
  const bool has_eval_file = !options.eval_dataset_name.empty();
  QLORA_CHECK(!has_eval_file || options.validation_split == 0, ConfigError,
              "[data] eval_dataset_name and validation_split are both set; give one of them");
  Dataset rows = load_dataset(options.dataset_name, options.dataset);
  log.notice(
      fmt::format("{} rows of the form {} in {}", rows.size(), form_name(rows.form), rows.name));
  if (options.max_samples > 0 && rows.size() > options.max_samples) {
    rows.records.resize(static_cast<size_t>(options.max_samples));
  }
  TrainingData data;
  if (has_eval_file) {
    data.eval_rows = load_dataset(options.eval_dataset_name, options.dataset);
  } else if (options.validation_split > 0) {
    std::tie(rows, data.eval_rows) = split_dataset(std::move(rows), options.validation_split, seed);
  }
  data.train = build_examples(rows, options.example, tokenizer);
  if (data.eval_rows.size() > 0) {
    data.eval = build_examples(data.eval_rows, options.example, tokenizer);
  }
  return data;
}

}  // namespace

ExampleSet read_token_tensor(const std::filesystem::path& file, const std::string& tensor_name,
                             int64_t vocab_size) {
  const io::SafetensorsReader reader(file);
  const io::TensorView& tensor = reader.at(tensor_name);
  const bool is_integer = tensor.dtype == io::DType::kI32 || tensor.dtype == io::DType::kI64;
  const bool fits =
      is_integer && tensor.shape.size() == 2 && tensor.shape[0] >= 1 && tensor.shape[1] >= 2;
  QLORA_CHECK(fits, FormatError,
              "[data] {}: the tensor {} is {} {}, expected I32 or I64 of shape [rows, L] with L at "
              "least 2",
              file.string(), io::quote(tensor_name), io::dtype_name(tensor.dtype),
              io::shape_text(tensor.shape));
  const int64_t rows = tensor.shape[0], length = tensor.shape[1];
  ExampleSet set{.name = file.string() + ":" + tensor_name,
                 .max_length = length,
                 .examples = {},
                 .counts = {.rows = rows}};
  set.examples.reserve(static_cast<size_t>(rows));
  for (int64_t r = 0; r < rows; ++r) {
    Example& example = set.examples.emplace_back();
    example.tokens.resize(static_cast<size_t>(length));
    example.learn.assign(static_cast<size_t>(length), 1);
    for (int64_t c = 0; c < length; ++c) {
      const int64_t id = read_id(tensor, r * length + c);
      QLORA_CHECK(id >= 0 && id < vocab_size, ValueError,
                  "[data] {}: the token id {} at row {}, column {} is outside the vocabulary, "
                  "allowed 0 to {}",
                  set.name, id, r, c, vocab_size - 1);
      example.tokens[c] = static_cast<int32_t>(id);
    }
  }
  return set;
}

TrainingData load_training_data(const DataOptions& options, const Tokenizer& tokenizer,
                                uint64_t seed, RunLog& log) {
  const bool has_tokens = !options.tokens.file.empty();
  QLORA_CHECK(has_tokens != !options.dataset_name.empty(), ConfigError,
              "[data] {} of dataset_name and tokens.file are set; give one of them",
              has_tokens ? "both" : "neither");
  check_options(options.example.chat);
  TrainingData data = has_tokens ? load_tokens(options, tokenizer.vocab_size())
                                 : load_texts(options, tokenizer, seed, log);
  report(data.train, "training", log);
  if (data.eval) report(*data.eval, "evaluation", log);
  return data;
}

std::optional<std::string> position_warning(const ExampleSet& set, const char* use,
                                            int64_t max_positions) {
  int64_t count = 0, longest = 0;
  for (const Example& example : set.examples) {
    const auto length = static_cast<int64_t>(example.tokens.size());
    count += length > max_positions;
    longest = std::max(longest, length);
  }
  if (count == 0) return std::nullopt;
  return fmt::format(
      "{}: {} of {} examples are longer than the {} positions that the model was made for "
      "(max_position_embeddings; the longest has {} tokens); lower data.max_length, or extend the "
      "positions with rope_scaling",
      use, count, set.size(), max_positions, longest);
}

void check_vocabulary(const ExampleSet& set, const Tokenizer& tokenizer, int64_t vocabulary) {
  for (const Example& example : set.examples) {
    for (const int32_t id : example.tokens) {
      QLORA_CHECK(id < vocabulary, ValueError,
                  "[data] {}: the tokenizer gives the id {} for {}, but the model has only {} "
                  "embeddings; take the tokenizer of this model, or a model that was resized for "
                  "the added tokens",
                  set.name, id, io::quote(tokenizer.id_to_piece(id)), vocabulary);
    }
  }
}

}  // namespace qlora::data
