#include <gtest/gtest.h>

#include <set>

#include "core/fields.h"
#include "data/example_builder.h"
#include "io/safetensors.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

/// Keeps what was said.
class Notes final : public RunLog {
 public:
  void notice(const std::string& text) override { said += text + "\n"; }
  void warn(const std::string& text) override { said += "warning: " + text + "\n"; }
  void live(const std::string&) override {}
  void event(const std::string&, const nlohmann::json&) override {}
  std::string said;
};

template <class T>
std::filesystem::path put_tokens(const TemporaryFolder& folder, io::DType type,
                                 std::vector<int64_t> shape, const std::vector<T>& ids) {
  const io::TensorView tensor{"train", type, std::move(shape), std::as_bytes(std::span(ids))};
  io::write_safetensors(folder / "t.safetensors", std::span(&tensor, 1));
  return folder / "t.safetensors";
}

TEST(ReadTokenTensor, TakesRowsAsTheyAre) {
  const TemporaryFolder folder;
  for (const bool is_long : {false, true}) {
    const auto path =
        is_long ? put_tokens<int64_t>(folder, io::DType::kI64, {2, 3}, {1, 2, 3, 4, 5, 6})
                : put_tokens<int32_t>(folder, io::DType::kI32, {2, 3}, {1, 2, 3, 4, 5, 6});
    const ExampleSet set = read_token_tensor(path, "train", 7);
    ASSERT_EQ(set.size(), 2);
    EXPECT_EQ(set.max_length, 3);
    EXPECT_EQ(set.examples[1].tokens, (std::vector<int32_t>{4, 5, 6}));
    EXPECT_EQ(set.examples[1].learn, (std::vector<uint8_t>{1, 1, 1}));
    EXPECT_EQ(set.target_tokens(), 4);
    EXPECT_ERROR(ValueError, read_token_tensor(path, "train", 6),
                 "the token id 6 at row 1, column 2 is outside");
    EXPECT_ERROR(FormatError, read_token_tensor(path, "trian", 7), "train");
  }
  const auto negative = put_tokens<int32_t>(folder, io::DType::kI32, {1, 2}, {0, -1});
  EXPECT_ERROR(ValueError, read_token_tensor(negative, "train", 7),
               "the token id -1 at row 0, column 1");
}

TEST(ReadTokenTensor, RefusesOtherTypesAndShapes) {
  const TemporaryFolder folder;
  const std::vector<float> floats(6);
  EXPECT_ERROR(FormatError,
               read_token_tensor(put_tokens(folder, io::DType::kF32, {2, 3}, floats), "train", 7),
               "is F32 [2, 3], expected I32 or I64 of shape [rows, L]");
  const std::vector<int32_t> ids(6);
  for (const auto& shape : {std::vector<int64_t>{6}, {6, 1}, {0, 3}, {1, 2, 3}}) {
    std::vector<int32_t> some(shape.front() == 0 ? 0 : 6);
    EXPECT_ERROR(FormatError,
                 read_token_tensor(put_tokens(folder, io::DType::kI32, shape, some), "train", 7),
                 "expected I32 or I64");
  }
}

class LoadTrainingData : public ::testing::Test {
 protected:
  LoadTrainingData() {
    std::string rows;
    for (int i = 0; i < 20; ++i) {
      rows += fmt::format("{{\"instruction\": \"number {}\", \"output\": \"it is {}\"}}\n", i, i);
    }
    options_.dataset_name = folder_.put("train.jsonl", rows).string();
  }
  TrainingData load() { return load_training_data(options_, *tokenizer_, 5, notes_); }

  TemporaryFolder folder_;
  std::unique_ptr<const Tokenizer> tokenizer_ = fixture_tokenizer("smollm");
  DataOptions options_;
  Notes notes_;
};

TEST_F(LoadTrainingData, SplitsOffAValidationSet) {
  options_.validation_split = 0.25;
  const TrainingData data = load();
  EXPECT_EQ(data.train.size(), 15);
  ASSERT_TRUE(data.eval.has_value());
  EXPECT_EQ(data.eval->size(), 5);
  ASSERT_EQ(data.eval_rows.size(), 5);
  EXPECT_EQ(data.eval_rows.form, RowForm::kAlpaca);
  EXPECT_NE(notes_.said.find("20 rows of the form alpaca"), std::string::npos) << notes_.said;
  EXPECT_NE(notes_.said.find("training: 15 examples"), std::string::npos) << notes_.said;
  EXPECT_NE(notes_.said.find("evaluation: 5 examples"), std::string::npos) << notes_.said;
  EXPECT_EQ(notes_.said.find("warning"), std::string::npos) << notes_.said;
}

TEST_F(LoadTrainingData, TakesAFileToEvaluateOn) {
  options_.eval_dataset_name = folder_.put("eval.jsonl", R"({"text": "hello there"})").string();
  options_.max_samples = 3;
  const TrainingData data = load();
  EXPECT_EQ(data.train.size(), 3);
  EXPECT_EQ(data.eval->size(), 1);
  options_.validation_split = 2;
  EXPECT_ERROR(ConfigError, load(), "eval_dataset_name and validation_split are both set");
}

TEST_F(LoadTrainingData, WithoutEvaluation) {
  const TrainingData data = load();
  EXPECT_FALSE(data.eval.has_value());
  EXPECT_EQ(data.eval_rows.size(), 0);
}

TEST_F(LoadTrainingData, WarnsOfRowsThatWereCutOrLeftOut) {
  std::string lengthy;
  for (int i = 0; i < 100; ++i) lengthy += " word";
  folder_.put("train.jsonl", "{\"text\": \"short text\"}\n{\"text\": \"" + lengthy + "\"}\n");
  options_.example.max_length = 50;
  load();
  EXPECT_NE(notes_.said.find(
                "warning: training: 1 of 2 rows were longer than max_length 50 and were cut"),
            std::string::npos)
      << notes_.said;
  options_.example.overlong = Overlong::kDrop;
  load();
  EXPECT_NE(notes_.said.find("and were left out"), std::string::npos) << notes_.said;
  options_.example.append_eos = false;
  folder_.put("train.jsonl", "{\"text\": \"short text\"}\n{\"text\": \"\"}\n");
  load();
  EXPECT_NE(notes_.said.find("1 of 2 rows had no token to learn"), std::string::npos)
      << notes_.said;
}

TEST_F(LoadTrainingData, WarnsOfAnswersThatSayNothing) {
  folder_.put("train.jsonl",
              R"({"instruction": "a", "output": " \n"}
                 {"instruction": "b", "output": ""}
                 {"instruction": "c", "output": "d"})");
  load();
  EXPECT_SAYS(notes_.said, "warning: training: 2 of 3 rows have an answer that is empty");
  notes_.said.clear();
  options_.dataset_name = folder_.put("a.json", R"([{"messages": [{"role": "user", "content": ""},
                                          {"role": "assistant", "content": "x"}]}])");
  load();
  EXPECT_EQ(notes_.said.find("white space"), std::string::npos) << notes_.said;
  folder_.put("a.json", R"([{"messages": [{"role": "user", "content": "x"},
                                          {"role": "assistant", "content": ""}]}])");
  load();
  EXPECT_SAYS(notes_.said, "1 of 1 rows have an answer that is empty");
  notes_.said.clear();
  options_.example.loss_on = LossOn::kAll;
  load();
  EXPECT_EQ(notes_.said.find("white space"), std::string::npos) << notes_.said;
}

TEST_F(LoadTrainingData, ChecksItsOptionsBeforeItReads) {
  options_.dataset_name = "absent.jsonl";
  options_.example.chat.chat_template_kwargs = "5";
  EXPECT_ERROR(ConfigError, load(), "data.chat_template_kwargs is number");
  options_.example.chat.chat_template_kwargs = "";
  options_.example.chat.chat_template_date = "today";
  EXPECT_ERROR(ConfigError, load(), "data.chat_template_date is 'today'");
}

TEST_F(LoadTrainingData, CountsWhatIsLongerThanTheModelsPositions) {
  const ExampleSet set = load().train;
  int64_t longest = 0;
  for (const Example& e : set.examples) longest = std::max<int64_t>(longest, e.tokens.size());
  EXPECT_FALSE(position_warning(set, "training", longest));
  const auto some = position_warning(set, "training", longest - 1);
  ASSERT_TRUE(some);
  EXPECT_SAYS(*some, fmt::format("longer than the {} positions", longest - 1));
  EXPECT_SAYS(*position_warning(set, "training", 1), "training: 20 of 20 examples are longer");
}

TEST_F(LoadTrainingData, EveryIdNeedsAnEmbedding) {
  const ExampleSet set = load().train;
  int32_t largest = 0;
  for (const Example& example : set.examples) {
    for (const int32_t id : example.tokens) largest = std::max(largest, id);
  }
  const auto tokenizer = fixture_tokenizer("smollm");
  EXPECT_NO_THROW(check_vocabulary(set, *tokenizer, largest + 1));
  EXPECT_ERROR(ValueError, check_vocabulary(set, *tokenizer, largest),
               "the tokenizer gives the id " + std::to_string(largest));
}

TEST_F(LoadTrainingData, TakesTokenFiles) {
  options_.tokens.file =
      put_tokens<int32_t>(folder_, io::DType::kI32, {2, 3}, {1, 2, 3, 4, 5, 6}).string();
  EXPECT_ERROR(ConfigError, load(), "both of dataset_name and tokens.file are set");
  options_.dataset_name.clear();
  EXPECT_EQ(load().train.size(), 2);
  EXPECT_FALSE(load().eval.has_value());
  options_.tokens.eval = "train";
  EXPECT_EQ(load().eval->size(), 2);
  options_.validation_split = 1;
  EXPECT_ERROR(ConfigError, load(), "tokens.file brings its own evaluation");
  options_.tokens.file.clear();
  EXPECT_ERROR(ConfigError, load(), "neither of dataset_name and tokens.file are set");
}

TEST(DataOptions, AreReadFromJson) {
  DataOptions options;
  const auto notes = read_fields(
      Json::parse(R"({"dataset_name": "a.jsonl", "prompt_template": "dolly", "loss_on": "all",
      "max_seq_length": 512, "overlong": "drop", "dataset_format": "alpaca", "tokens": {"train": "x"}})"),
      options, "test");
  EXPECT_EQ(options.dataset_name, "a.jsonl");
  EXPECT_EQ(options.example.prompt_template, PromptTemplate::kDolly);
  EXPECT_EQ(options.example.loss_on, LossOn::kAll);
  EXPECT_EQ(options.example.max_length, 512);
  EXPECT_EQ(options.example.overlong, Overlong::kDrop);
  EXPECT_EQ(options.dataset.form, RowForm::kAlpaca);
  EXPECT_EQ(options.tokens.train, "x");
  EXPECT_EQ(notes.notices.size(), 1u);
  BatchOptions batching;
  read_fields(Json::parse(R"({"per_device_train_batch_size": 2, "packing": true})"), batching,
              "test");
  EXPECT_EQ(batching.per_device_train_batch_size, 2);
  EXPECT_TRUE(batching.packing);
}

}  // namespace
}  // namespace qlora::data
