// Everything that a user can get wrong: one clear line, exit code 2, nothing half-written.
#include <filesystem>

#include "core/error.h"
#include "io/gguf.h"
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

class BadInput : public ProgramTest {
 protected:
  void expect_train_refused(const std::vector<std::string>& words,
                            const std::vector<std::string>& more = {}) {
    write_config();
    expect_refused(train(more), words);
    EXPECT_FALSE(fs::exists(path("out"))) << "something was written";
  }
  void expect_perplexity_refused(const std::vector<std::string>& words,
                                 std::vector<std::string> more = {}) {
    more.insert(more.begin(), {"perplexity", "--model-path", path("model")});
    expect_refused(qlora(more), words);
  }
  void edit_model_config(const std::string& key, const nlohmann::json& value) {
    auto config = nlohmann::json::parse(read_text(folder_ / "model/config.json"));
    config[key] = value;
    write_text(folder_ / "model/config.json", config.dump());
  }
};

TEST_F(BadInput, UnknownKeyGetsTheNearestNameAndItsPath) {
  config_["lora"]["rnak"] = 8;
  expect_train_refused({"lora.rnak", "did you mean", "run.json", "/lora/rnak"});
}

TEST_F(BadInput, WrongTypeIsNamedWithItsPath) {
  config_["learning_rate"] = "fast";
  expect_train_refused({"learning_rate", "fast", "run.json"});
}

TEST_F(BadInput, ValueOutOfRange) {
  config_["lora"]["r"] = 0;
  expect_train_refused({"lora.r", "0"});
}

TEST_F(BadInput, ATokenThatTheModelHasNoEmbeddingFor) {
  write_text(folder_ / "model/added_tokens.json", R"({"<new>": 70000})");
  write_text(folder_ / "train.jsonl", R"({"instruction": "Say", "response": "a <new> word"})");
  expect_train_refused({"[data]", "train.jsonl", "id 70000", "'<new>'", "embeddings"});
}

TEST_F(BadInput, UnknownKeyInSet) {
  expect_train_refused({"lora.rr", "did you mean"}, {"--set", "lora.rr=8"});
  expect_perplexity_refused({"quantization.blok_size", "did you mean"},
                            {"--text", path("train.jsonl"), "--set", "quantization.blok_size=64"});
}

TEST_F(BadInput, ConfigThatIsNoJson) {
  write_text(folder_ / "run.json", "{\"output_dir\": }");
  expect_refused(train(), {"run.json", "line 1"});
}

TEST_F(BadInput, MissingConfigFile) {
  expect_refused(qlora({"train", path("nowhere.json")}), {"nowhere.json"});
}

TEST_F(BadInput, MissingModel) {
  config_["model_name_or_path"] = path("no-model");
  expect_train_refused({"no-model", "does not exist", "nothing is downloaded"});
  config_["model_name_or_path"] = "meta-llama/Llama-2-7b";
  expect_train_refused({"meta-llama/Llama-2-7b", "Hugging Face folder"});
  config_["model_name_or_path"] = std::string(300, 'x');
  expect_train_refused({"File name too long"});
}

TEST_F(BadInput, WeightsThatTheConfigHasNoPlaceFor) {
  edit_model_config("num_hidden_layers", 1);
  expect_train_refused({"no place for 9 of", "model.layers.1."});
}

TEST_F(BadInput, MissingDataFile) {
  config_["data"]["dataset_name"] = path("no-rows.jsonl");
  expect_train_refused({"no-rows.jsonl", "does not exist"});
}

TEST_F(BadInput, MissingEvaluationFile) {
  config_["data"]["eval_dataset_name"] = path("no-eval.jsonl");
  expect_train_refused({"no-eval.jsonl"});
}

TEST_F(BadInput, DataRowWithoutItsFieldsIsNamedByFileAndLine) {
  write_text(folder_ / "train.jsonl",
             tiny_instruction_rows(2) + "{\"instruction\": \"x\", \"context\": \"\"}\n");
  expect_train_refused({"train.jsonl:3", "response"});
}

TEST_F(BadInput, DataRowThatIsNoJsonIsNamedByFileAndLine) {
  write_text(folder_ / "train.jsonl", tiny_instruction_rows(1) + "{broken\n");
  expect_train_refused({"train.jsonl", "2"});
}

TEST_F(BadInput, EmptyDataSet) {
  write_text(folder_ / "train.jsonl", "");
  expect_train_refused({"train.jsonl"});
}

TEST_F(BadInput, ExamplesLongerThanMaxLengthWhereThatIsRefused) {
  config_["data"]["overlong"] = "error";
  config_["data"]["max_length"] = 16;
  expect_train_refused({"max_length", "16"});
}

TEST_F(BadInput, NoExampleHasATokenToLearn) {
  config_["data"]["max_length"] = 8;  // cuts every response away
  expect_train_refused({"train.jsonl"});
}

TEST_F(BadInput, TruncatedSafetensors) {
  const fs::path file = folder_ / "model/model.safetensors";
  const std::string whole = read_text(file);
  for (const double share : {0.0, 0.001, 0.01, 0.5, 0.999}) {
    write_text(file, whole.substr(0, static_cast<size_t>(whole.size() * share)));
    expect_train_refused({"model.safetensors"});
  }
}

TEST_F(BadInput, SafetensorsWithALyingHeader) {
  const fs::path file = folder_ / "model/model.safetensors";
  const std::string whole = read_text(file);
  write_text(file, std::string(8, '\xff') + whole.substr(8));
  expect_train_refused({"model.safetensors"});
}

TEST_F(BadInput, PickledWeightsAreRefused) {
  fs::rename(folder_ / "model/model.safetensors", folder_ / "model/pytorch_model.bin");
  expect_train_refused({"pytorch_model.bin"});
}

TEST_F(BadInput, ShapeAgainstConfig) {
  edit_model_config("intermediate_size", 96);
  expect_train_refused({"mlp", "96", "128"});
}

TEST_F(BadInput, UnknownArchitecture) {
  edit_model_config("architectures", {"MambaForCausalLM"});
  edit_model_config("model_type", "mamba");
  expect_train_refused({"Mamba", "LlamaForCausalLM"});
}

TEST_F(BadInput, TruncatedGguf) {
  const fs::path file = folder_ / "model.gguf";
  for (const std::string& bytes :
       {std::string("GG"), std::string("GGUF\x03\0\0\0", 8),
        std::string("GGUF\x03\0\0\0\xff\xff\xff\xff\xff\xff\xff\x7f", 16)}) {
    write_text(file, bytes);
    config_["model_name_or_path"] = file.string();
    expect_train_refused({"model.gguf"});
    expect_refused(qlora({"inspect", file.string()}), {"model.gguf"});
  }
}

TEST_F(BadInput, TokenizerMissing) {
  fs::remove(folder_ / "model/tokenizer.json");
  expect_train_refused({"tokenizer"});
}

TEST_F(BadInput, TokenizerOfUnknownKind) {
  auto tokenizer = nlohmann::ordered_json::parse(read_text(folder_ / "model/tokenizer.json"));
  tokenizer["model"]["type"] = "WordPiece";
  write_text(folder_ / "model/tokenizer.json", tokenizer.dump());
  expect_train_refused({"WordPiece", "tokenizer.json"});
}

TEST_F(BadInput, TargetModulesThatMatchNothing) {
  config_["lora"]["target_modules"] = {"q_porj"};
  expect_train_refused({"q_porj", "q_proj"});
}

TEST_F(BadInput, OutputDirectoryExists) {
  fs::create_directories(folder_ / "out");
  write_text(folder_ / "out/log.jsonl", "precious\n");
  write_text(folder_ / "out/adapter_model.safetensors", "of an earlier run");
  write_config();
  expect_refused(train(), {"out", "--resume", "--overwrite"});
  EXPECT_EQ(read_text(folder_ / "out/log.jsonl"), "precious\n");
}

TEST_F(BadInput, ResumeFromWhatIsNotThere) {
  expect_train_refused({"no-checkpoint"}, {"--resume", path("no-checkpoint")});
}

TEST_F(BadInput, ResumeAndOverwriteTogether) {
  expect_train_refused({"overwrite", "resume"}, {"--resume", "auto", "--overwrite"});
}

TEST_F(BadInput, OutputThatCannotBeWritten) {
  config_["output_dir"] = "/proc/qlora-out";
  write_config();
  expect_refused(train(), {"/proc/qlora-out"});
}

TEST_F(BadInput, TokenIdsOutsideTheVocabulary) {
  expect_perplexity_refused({"--tokens", "FILE:TENSOR"}, {"--tokens", path("train.jsonl")});
  expect_perplexity_refused({"no.safetensors"}, {"--tokens", path("no.safetensors") + ":x"});
}

TEST_F(BadInput, PerplexityInputsThatDoNotFit) {
  expect_perplexity_refused({"exactly one of"});
  expect_perplexity_refused({"exactly one of"}, {"--text", "a", "--dataset-name", "b"});
  expect_perplexity_refused({"--blocks"}, {"--text", path("train.jsonl"), "--blocks", "2"});
  expect_perplexity_refused({"--rows"}, {"--text", path("train.jsonl"), "--rows"});
  expect_perplexity_refused({"--limit"}, {"--text", path("train.jsonl"), "--limit", "-1"});
  expect_perplexity_refused({"stride", "65"},
                            {"--text", path("train.jsonl"), "--seq-len", "64", "--stride", "65"});
  expect_perplexity_refused({"seq-len"}, {"--text", path("train.jsonl"), "--seq-len", "1"});
  expect_perplexity_refused({"missing.txt"}, {"--text", path("missing.txt")});
  expect_perplexity_refused({"--tokens"}, {"--tokens", "a:b", "--per-text"});
  for (const std::vector<std::string>& given : {std::vector<std::string>{"--limit", "5"},
                                                {"--max-length", "5"},
                                                {"--template", "foo"},
                                                {"--loss-on", "all"}}) {
    expect_perplexity_refused(
        {given[0] + " is not read here", "one stream in windows", "goes with"},
        {"--text", path("train.jsonl"), given[0], given[1]});
  }
  for (const char* name : {"--seq-len", "--stride"}) {
    expect_perplexity_refused({std::string(name) + " is not read here", "each text on its own"},
                              {"--text", path("train.jsonl"), "--per-text", name, "64"});
    expect_perplexity_refused({name, "rows of ids"}, {"--tokens", "a:b", name, "64"});
    expect_perplexity_refused({name, "as training does"},
                              {"--dataset-name", path("train.jsonl"), name, "64"});
  }
  write_text(folder_ / "rows.jsonl", "{\"text\": \"first row\"}\n");
  expect_perplexity_refused({"--loss-on", "one stream"},
                            {"--dataset-name", path("rows.jsonl"), "--loss-on", "all"});
  expect_perplexity_refused({"--max-length", "one stream"},
                            {"--dataset-name", path("rows.jsonl"), "--max-length", "9"});
  expect_perplexity_refused({"compute_dtype", "fp99"},
                            {"--text", path("train.jsonl"), "--compute-dtype", "fp99"});
  expect_perplexity_refused({"threads"}, {"--text", path("train.jsonl"), "--threads", "-1"});
}

TEST_F(BadInput, PerplexityWithoutAModel) {
  expect_refused(qlora({"perplexity", "--text", path("train.jsonl")}), {"--model-path"});
}

TEST_F(BadInput, AdapterThatIsNotThere) {
  expect_perplexity_refused({"no-adapter"},
                            {"--text", path("train.jsonl"), "--adapter", path("no-adapter")});
}

TEST_F(BadInput, TextWithTooFewTokens) {
  write_text(folder_ / "short.txt", "a");
  expect_perplexity_refused({"1 tokens"}, {"--text", path("short.txt")});
  write_text(folder_ / "short.txt", "a\n\nb\n");
  expect_perplexity_refused({"none of the 3 texts"}, {"--text", path("short.txt"), "--per-text"});
}

TEST_F(BadInput, GenerateOptionsThatDoNotFit) {
  const auto refuse = [&](const std::vector<std::string>& more,
                          const std::vector<std::string>& words) {
    std::vector<std::string> line = {"generate", "--model-path", path("model")};
    line.insert(line.end(), more.begin(), more.end());
    expect_refused(qlora(line), words);
  };
  refuse({"--prompt", "x", "--prompt-file", "y"}, {"--prompt-file"});
  refuse({"--prompt", "x", "--top-p", "1.5"}, {"top_p", "1.5"});
  refuse({"--prompt", "x", "--temperature", "-1"}, {"temperature"});
  refuse({"--prompt", "x", "--max-new-tokens", "0"}, {"max_new_tokens"});
  refuse({"--prompt", "x", "--template", "vicuna"}, {"vicuna", "dolly"});
  refuse({"--prompt", "x", "--template", "auto"}, {"auto"});
  refuse({"--prompt", "x", "--context", "y"}, {"--context", "--template"});
  refuse({"--prompt", ""}, {"prompt"});
  refuse({"--prompt-file", path("missing.txt")}, {"missing.txt"});
}

TEST_F(BadInput, InspectOfWhatItDoesNotKnow) {
  expect_refused(qlora({"inspect"}), {"PATH", "--data"});
  expect_refused(qlora({"inspect", path("nowhere")}), {"nowhere"});
  expect_refused(qlora({"inspect", path("train.jsonl")}), {"train.jsonl"});
  fs::create_directories(folder_ / "empty");
  expect_refused(qlora({"inspect", path("empty")}), {"empty", "config.json"});
  expect_refused(qlora({"inspect", "--data", path("run.json"), "--colour", "pink"}), {"pink"});
  expect_refused(qlora({"inspect", "--data", path("run.json"), "--rows", "-1"}), {"--rows"});
}

}  // namespace
}  // namespace qlora::testing
