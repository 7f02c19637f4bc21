#pragma once

#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "tests/cli/program.h"

namespace qlora::testing {

/// A folder with a tiny model (model/), rows (train.jsonl, eval.jsonl) and a configuration
/// (run.json, output in out/) that a test may change before it runs the program.
class ProgramTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny_checkpoint(folder_ / "model");
    write_text(folder_ / "train.jsonl", tiny_instruction_rows(24));
    write_text(folder_ / "eval.jsonl", tiny_instruction_rows(8, 24));
    config_ = {{"model_name_or_path", path("model")},
               {"output_dir", path("out")},
               {"compute_dtype", "fp32"},
               {"threads", 1},
               {"lora", {{"r", 4}, {"lora_alpha", 8}, {"adapter_dtype", "fp32"}}},
               {"data",
                {{"dataset_name", path("train.jsonl")},
                 {"eval_dataset_name", path("eval.jsonl")},
                 {"prompt_template", "dolly"},
                 {"max_length", 128}}},
               {"per_device_train_batch_size", 4},
               {"max_steps", 6},
               {"learning_rate", 5e-3},
               {"logging_steps", 1},
               {"eval_strategy", "steps"},
               {"eval_steps", 3},
               {"save_strategy", "steps"},
               {"save_steps", 2}};
    write_config();
  }

  std::string path(const std::string& name) const { return (folder_ / name).string(); }
  void write_config() const { write_text(folder_ / "run.json", config_.dump(1)); }

  /// The model's tokenizer puts <|im_start|> before every text.
  void add_bos() const {
    const std::filesystem::path model = folder_ / "model";
    auto tokenizer = nlohmann::ordered_json::parse(read_text(model / "tokenizer.json"));
    tokenizer["post_processor"] = nlohmann::ordered_json::parse(R"({"type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
                   {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<|im_start|>": {"ids": [257]}}})");
    write_text(model / "tokenizer.json", tokenizer.dump());
    auto roles = nlohmann::ordered_json::parse(read_text(model / "tokenizer_config.json"));
    roles["bos_token"] = "<|im_start|>";
    write_text(model / "tokenizer_config.json", roles.dump());
  }

  /// `qlora train run.json …`
  ProgramResult train(std::vector<std::string> more = {}, const ProgramInput& input = {}) const {
    more.insert(more.begin(), {"train", path("run.json")});
    return qlora(more, input);
  }

  TemporaryFolder folder_;
  nlohmann::ordered_json config_;
};

/// Records of one kind in log.jsonl.
inline std::vector<nlohmann::json> log_records(const std::filesystem::path& run,
                                               const std::string& kind) {
  std::vector<nlohmann::json> records;
  std::istringstream lines(read_text(run / "log.jsonl"));
  for (std::string line; std::getline(lines, line);) {
    auto record = nlohmann::json::parse(line);
    if (record.at("kind") == kind) records.push_back(std::move(record));
  }
  return records;
}

/// Losses of all steps, by step.
inline std::vector<double> losses(const std::filesystem::path& run) {
  std::vector<double> values;
  for (const auto& record : log_records(run, "step")) values.push_back(record.at("loss"));
  return values;
}

}  // namespace qlora::testing
