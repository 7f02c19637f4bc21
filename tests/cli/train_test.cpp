// `qlora train` as a process: plan, signals, resume, machine-readable results.
#include <fcntl.h>
#include <signal.h>
#include <sys/file.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>

#include "io/safetensors.h"
#include "tests/cli/fixture.h"
#include "tests/support/errors.h"

namespace qlora::testing {
namespace {

namespace fs = std::filesystem;

class TrainProgram : public ProgramTest {
 protected:
  /// Sends a signal once log.jsonl tells of more than `steps` steps.
  ProgramInput stop_after(size_t steps, int signal) const {
    ProgramInput input;
    input.while_running = [this, steps, signal, sent = false](pid_t child) mutable {
      if (sent || !fs::exists(folder_ / "out/log.jsonl")) return;
      const std::string log = read_text(folder_ / "out/log.jsonl");
      size_t seen = 0;
      for (size_t at = 0; (at = log.find("\"kind\":\"step\"", at)) != std::string::npos; ++at)
        ++seen;
      if (seen <= steps) return;
      kill(child, signal);
      sent = true;
    };
    return input;
  }
};

TEST_F(TrainProgram, DryRunPrintsThePlanAndWritesNothing) {
  const ProgramResult text = train({"--dry-run"});
  EXPECT_EQ(text.exit_code, 0) << text.err;
  EXPECT_NE(text.out.find("trainable params: "), std::string::npos) << text.out;
  const ProgramResult json = train({"--dry-run", "--json"});
  const auto plan = nlohmann::json::parse(json.out);
  EXPECT_EQ(plan.at("total_steps"), 6);
  EXPECT_EQ(plan.at("steps_per_epoch"), 6);
  EXPECT_EQ(plan.at("train_examples"), 24);
  EXPECT_EQ(plan.at("eval_examples"), 8);
  EXPECT_EQ(plan.at("adapted_linears"), 14);
  // r (N + K) of q, k, v, o, gate, up, down, twice.
  EXPECT_EQ(plan.at("trainable_parameters"),
            2 * 4 * ((64 + 64) + (64 + 32) * 2 + (64 + 64) + (64 + 128) * 3));
  EXPECT_GT(plan.at("estimated_bytes"), 0);
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(TrainProgram, JsonIsOneObjectAndTheRunIsComplete) {
  const ProgramResult result = train({"--json"});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto facts = nlohmann::json::parse(result.out);
  EXPECT_EQ(facts.at("steps"), 6);
  EXPECT_EQ(facts.at("interrupted"), false);
  EXPECT_EQ(facts.at("last_loss"), losses(path("out")).back());
  for (const char* name : {"adapter_model.safetensors", "adapter_config.json", "log.jsonl",
                           "config.resolved.json", "tokenizer.json"}) {
    EXPECT_TRUE(fs::exists(fs::path(path("out")) / name)) << name;
  }
  EXPECT_NE(result.err.find("trainable params: "), std::string::npos);
}

TEST_F(TrainProgram, SetAndOutputDirHaveTheLastWord) {
  const ProgramResult result =
      train({"--set", "max_steps=2", "--set", "lora.r=2", "--output-dir", path("other dir")});
  ASSERT_EQ(result.exit_code, 0) << result.err;
  const auto resolved =
      nlohmann::json::parse(read_text(fs::path(path("other dir")) / "config.resolved.json"));
  EXPECT_EQ(resolved.at("max_steps"), 2);
  EXPECT_EQ(resolved.at("lora").at("r"), 2);
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(TrainProgram, TheResolvedConfigGivesTheSameRun) {
  ASSERT_EQ(train().exit_code, 0);
  const auto first = losses(path("out"));
  const ProgramResult again =
      qlora({"train", path("out/config.resolved.json"), "--output-dir", path("again")});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(losses(path("again")), first);
}

TEST_F(TrainProgram, OverwriteStartsAnew) {
  ASSERT_EQ(train().exit_code, 0);
  const auto first = losses(path("out"));
  const ProgramResult again = train({"--overwrite"});
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_EQ(losses(path("out")), first);
}

TEST_F(TrainProgram, ResumeGivesTheLossesOfTheRunThatWasNotInterrupted) {
  config_["lora"]["lora_dropout"] = 0.1;  // random numbers have to go on where they were
  write_config();
  ASSERT_EQ(train({"--output-dir", path("whole")}).exit_code, 0);
  const auto whole = losses(path("whole"));
  ASSERT_EQ(whole.size(), 6U);

  // A run that ended after step 4 looks like one that goes on there: drop what came later.
  ASSERT_EQ(train().exit_code, 0);
  fs::remove_all(folder_ / "out/checkpoint-6");
  fs::remove(folder_ / "out/adapter_model.safetensors");
  const ProgramResult resumed = train({"--resume", "auto"});
  ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  EXPECT_EQ(losses(path("out")), whole);
  EXPECT_EQ(read_text(folder_ / "out/adapter_model.safetensors"),
            read_text(folder_ / "whole/adapter_model.safetensors"));

  const ProgramResult from_path =
      train({"--resume", path("whole/checkpoint-2"), "--output-dir", path("whole")});
  ASSERT_EQ(from_path.exit_code, 0) << from_path.err;
  EXPECT_EQ(losses(path("whole")), whole);
}

TEST_F(TrainProgram, SignalsEndTheStepSaveAndCanBeResumed) {
  config_["max_steps"] = 400;
  config_["lr_scheduler_type"] = "constant";
  config_["eval_strategy"] = "no";
  config_["save_strategy"] = "no";
  write_config();
  const ProgramResult interrupted = train({"--json"}, stop_after(0, SIGINT));
  EXPECT_EQ(interrupted.exit_code, 130) << interrupted.err;
  EXPECT_EQ(nlohmann::json::parse(interrupted.out).at("interrupted"), true);
  EXPECT_NE(interrupted.err.find("--resume auto"), std::string::npos);
  const size_t first = losses(path("out")).size();
  EXPECT_GE(first, 1U);
  EXPECT_LT(first, 400U);

  const ProgramResult terminated = train({"--resume", "auto"}, stop_after(first, SIGTERM));
  EXPECT_EQ(terminated.exit_code, 143) << terminated.err;
  const auto two_sessions = losses(path("out"));
  EXPECT_GT(two_sessions.size(), first);

  // The same steps without a stop.
  ASSERT_EQ(train({"--output-dir", path("whole"), "--set",
                   "max_steps=" + std::to_string(two_sessions.size())})
                .exit_code,
            0);
  EXPECT_EQ(losses(path("whole")), two_sessions);
}

TEST_F(TrainProgram, AClosedTerminalEndsTheStepAndSaves) {
  config_["max_steps"] = 400;
  config_["save_strategy"] = "no";
  write_config();
  const auto before = std::signal(SIGHUP, SIG_DFL);  // the tests may run under nohup
  const ProgramResult result = train({}, stop_after(0, SIGHUP));
  std::signal(SIGHUP, before);
  EXPECT_EQ(result.exit_code, 129) << result.err;
  EXPECT_SAYS(result.err, "--resume auto");
}

TEST_F(TrainProgram, AReaderOfTheLogThatHasGoneEndsNoRun) {
  // stderr is a pipe without a reader from the first step on.
  const std::string command =
      program_path() + " train " + path("run.json") +
      " --set max_steps=30 2>&1 >/dev/null | sed -e '/^step 1/q' > /dev/null";
  run_program("/bin/sh", {"-c", command});
  EXPECT_EQ(losses(path("out")).size(), 30U);
  EXPECT_TRUE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(TrainProgram, AReaderOfTheLogThatHasGoneBeforeTheFirstStepEndsNoRun) {
  run_program("/bin/sh", {"-c", program_path() + " train " + path("run.json") + " 2>&1 | true"});
  EXPECT_EQ(losses(path("out")).size(), 6U);
  EXPECT_TRUE(fs::exists(folder_ / "out/adapter_model.safetensors"));
}

TEST_F(TrainProgram, EachStepIsToldOnce) {
  const ProgramResult result = train();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  for (int step = 1; step <= 6; ++step) {
    const std::string line = "step " + std::to_string(step) + "/6 ";
    const size_t first = result.err.find(line);
    ASSERT_NE(first, std::string::npos) << result.err;
    EXPECT_EQ(result.err.find(line, first + 1), std::string::npos) << result.err;
  }
}

TEST_F(TrainProgram, ARunThatFailedBeforeItSavedIsBegunAnewByTheSameCommand) {
  config_["max_steps"] = 400;
  config_["save_strategy"] = "no";
  write_config();
  ASSERT_EQ(train({}, stop_after(0, SIGKILL)).exit_code, 128 + SIGKILL);
  config_["max_steps"] = 2;
  write_config();
  const ProgramResult again = train();
  ASSERT_EQ(again.exit_code, 0) << again.err;
  EXPECT_SAYS(again.err, "ended before it saved anything");
  EXPECT_EQ(losses(path("out")).size(), 2U);
  EXPECT_FALSE(fs::exists(folder_ / "out/.qlora.lock"));
  expect_refused(train(), {"exists", "--overwrite"});  // that one is finished
}

TEST_F(TrainProgram, ASecondRunInTheSameFolderIsRefusedBeforeItChangesAnything) {
  ASSERT_EQ(train({"--set", "max_steps=2"}).exit_code, 0);
  const std::string log = read_text(folder_ / "out/log.jsonl");
  write_text(folder_ / "out/.qlora.lock", "process 4711 on earth\n");
  const int lock = open(path("out/.qlora.lock").c_str(), O_RDWR | O_CLOEXEC);
  ASSERT_EQ(flock(lock, LOCK_EX | LOCK_NB), 0);
  for (const auto& more : std::vector<std::vector<std::string>>{
           {}, {"--overwrite"}, {"--resume", "auto", "--set", "max_steps=4"}}) {
    expect_refused(train(more), {"in use: process 4711 on earth", "choose another output_dir"});
  }
  EXPECT_EQ(read_text(folder_ / "out/log.jsonl"), log);
  close(lock);
  EXPECT_EQ(train({"--overwrite", "--set", "max_steps=2"}).exit_code, 0);
}

TEST_F(TrainProgram, AnEmptyNameIsNoChoice) {
  for (const char* option : {"--output-dir", "--resume", "--device"}) {
    expect_refused(train({option, ""}), {"[usage] ", option, "is empty"});
  }
  EXPECT_FALSE(fs::exists(path("out")));
}

TEST_F(TrainProgram, AChatTemplateIsTrainedWithAndSaved) {
  write_text(folder_ / "chat.jsonl",
             "{\"messages\": [{\"role\": \"user\", \"content\": \"Define: cat\"}, "
             "{\"role\": \"assistant\", \"content\": \"an animal\"}]}\n");
  const std::string source =
      "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
      "{% if add_generation_prompt %}[assistant] {% endif %}";
  write_text(folder_ / "t.jinja", source);
  config_["data"] = {{"dataset_name", path("chat.jsonl")}, {"chat_template_path", path("t.jinja")}};
  config_["per_device_train_batch_size"] = 1;
  config_["max_steps"] = 2;
  config_.erase("eval_strategy");
  config_.erase("eval_steps");
  write_config();
  const ProgramResult result = train();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(read_text(folder_ / "out/chat_template.jinja"), source);
  const auto saved = nlohmann::json::parse(read_text(folder_ / "out/tokenizer_config.json"));
  EXPECT_EQ(saved.at("chat_template"), source);
  const ProgramResult merged =
      qlora({"merge", "--run", path("out"), "--output-dir", path("merged")});
  ASSERT_EQ(merged.exit_code, 0) << merged.err;
  EXPECT_EQ(read_text(folder_ / "merged/chat_template.jinja"), source);
  const ProgramResult gguf =
      qlora({"merge", "--run", path("out"), "--format", "gguf", "--output-dir", path("gguf")});
  ASSERT_EQ(gguf.exit_code, 0) << gguf.err;
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder_ / "gguf")) {
    if (entry.path().extension() != ".gguf") continue;
    EXPECT_NE(read_text(entry.path()).find(source), std::string::npos);
    ++files;
  }
  EXPECT_EQ(files, 1);
  const ProgramResult shown = qlora({"inspect", "--data", path("run.json"), "--json"});
  ASSERT_EQ(shown.exit_code, 0) << shown.err;
  const auto runs = nlohmann::json::parse(shown.out).at("samples")[0].at("text");
  EXPECT_EQ(runs[0].at("text"), "[user] Define: cat\n[assistant] ");
  EXPECT_TRUE(runs[1].at("learnt").get<bool>());
  EXPECT_TRUE(runs[1].at("text").get<std::string>().starts_with("an animal"));
  const ProgramResult answer = qlora({"generate", "--adapter", path("out"), "--template", "chat",
                                      "--prompt", "Define: cat", "--max-new-tokens", "2"});
  EXPECT_EQ(answer.exit_code, 0) << answer.err;
}

TEST_F(TrainProgram, TokenFilesNeedNoTokenizer) {
  std::vector<int32_t> ids;
  for (int32_t i = 0; i < 8 * 16; ++i) ids.push_back(i * 37 % 251);
  const io::TensorView tensor = {.name = "train",
                                 .dtype = io::DType::kI32,
                                 .shape = {8, 16},
                                 .bytes = std::as_bytes(std::span(ids))};
  io::write_safetensors(folder_ / "ids.safetensors", std::span(&tensor, 1));
  fs::remove(folder_ / "model/tokenizer.json");
  fs::remove(folder_ / "model/tokenizer_config.json");
  config_["data"] = {{"tokens", {{"file", path("ids.safetensors")}, {"eval", "train"}}}};
  write_config();
  const ProgramResult result = train();
  ASSERT_EQ(result.exit_code, 0) << result.err;
  EXPECT_EQ(log_records(path("out"), "step").front().at("target_tokens"), 4 * 15);
  EXPECT_FALSE(fs::exists(folder_ / "out/tokenizer.json"));
}

}  // namespace
}  // namespace qlora::testing
