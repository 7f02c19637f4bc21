#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/run_log.h"
#include "data/data_options.h"
#include "data/dataset.h"
#include "data/prompt_template.h"
#include "data/tokenizer.h"

namespace qlora::data {

/// A text as ids, and which of them are learnt. learn[0] has no effect: nothing predicts token 0.
struct Example {
  std::vector<int32_t> tokens;
  std::vector<uint8_t> learn;  // 1: the token is a target

  int64_t target_tokens() const;  // learnt tokens that have a token before them
};

/// What became of the rows.
struct ExampleCounts {
  int64_t rows = 0;
  int64_t overlong = 0;           // longer than max_length
  int64_t truncated = 0;          // of these, cut
  int64_t dropped_overlong = 0;   // of these, left out
  int64_t dropped_no_target = 0;  // nothing left to learn
  int64_t empty_answers = 0;      // rows with a response that is empty, or white space
};

/// Tokenised examples, in the order of the file.
struct ExampleSet {
  std::string name;        // for messages
  int64_t max_length = 0;  // no example is longer
  std::vector<Example> examples;
  ExampleCounts counts;

  int64_t size() const { return static_cast<int64_t>(examples.size()); }
  int64_t tokens() const;
  int64_t target_tokens() const;
};

/// Renders one row and tokenises it. Not cut to max_length.
///   loss_on response   pieces are tokenised one by one and joined: the prompt's ids are those that
///                      `generate` will see, whatever the response begins with
///   loss_on all        the whole text is tokenised at once, as the peers do
///   eos                appended unless the last response ends with it, and learnt, also where
///                      pad == eos; not behind a conversation whose last turn is not the
///                      assistant's, unless all is learnt. A chat template's last response may end
///                      with any special token
///   bos                as the tokenizer says; a chat template spells it itself
///   throws             ValueError if the text begins with bos and the tokenizer adds one too;
///                      ConfigError if eos is asked for and the tokenizer has none
Example build_example(const Record& record, const RowRenderer& renderer,
                      const ExampleOptions& options, const Tokenizer& tokenizer);

/// Refuses a text that spells the bos token where the tokenizer adds it too: no model has seen two.
///   tokens    of the text, with what the tokenizer adds
///   where     names the text in the message: "rows.jsonl:7", "--prompt"
///   throws    ValueError
void check_single_bos(std::span<const int32_t> tokens, const Tokenizer& tokenizer,
                      std::string_view where);

/// Tokenises a data set, in parallel; the result does not depend on the thread count.
///   throws    ValueError if an example is longer than max_length and `overlong` is error, or if no
///             example has a token to learn
ExampleSet build_examples(const Dataset& set, const ExampleOptions& options,
                          const Tokenizer& tokenizer);

/// Ids made elsewhere: one example a row, every token learnt.
///   throws    FormatError unless the tensor is [rows, L] of I32 or I64 with L >= 2;
///             ValueError for an id outside [0, vocab_size), with row and column
ExampleSet read_token_tensor(const std::filesystem::path& file, const std::string& tensor,
                             int64_t vocab_size);

/// What a run trains and evaluates on.
struct TrainingData {
  ExampleSet train;
  std::optional<ExampleSet> eval;
  Dataset eval_rows;  // the rows behind `eval` (empty for token files): for sample answers
};

/// Everything section `data` asks for. Says through the log what was read, cut and dropped.
///   throws    ConfigError if neither or both of dataset_name and tokens.file are set, or two ways
///             to an evaluation set; and what the functions above throw
TrainingData load_training_data(const DataOptions& options, const Tokenizer& tokenizer,
                                uint64_t seed, RunLog& log);

/// How many examples are longer than the positions that a model was made for, as one line for the
/// user; nothing where all fit.
///   use       what the set is for, "training"
std::optional<std::string> position_warning(const ExampleSet& set, const char* use,
                                            int64_t max_positions);

/// Proves that a model has an embedding for every id.
///   throws    ValueError with the first id at or above `vocabulary`, and its token
void check_vocabulary(const ExampleSet& set, const Tokenizer& tokenizer, int64_t vocabulary);

}  // namespace qlora::data
