// Exports that a signal interrupts, and what the next attempt makes of their state.
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/error.h"
#include "core/json_file.h"
#include "io/safetensors.h"
#include "tests/exporter/export_fixture.h"
#include "tests/support/errors.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using namespace qlora::testing;  // the helpers of the tests
using Q = QuantizationType;
using F = ExportFormat;

class ExportResume : public ExportModel, public ::testing::WithParamInterface<Family> {
 protected:
  void SetUp() override {
    ExportModel::SetUp();
    options_.grid.type = GetParam().type;
    options_.grid.format = GetParam().format;
    options_.grid.bits = GetParam().bits;
    data_.evaluation.clear();
  }

  /// A signal as the user's Ctrl-C, once so many blocks are on the disk.
  class StopAfter final : public RunLog {
   public:
    explicit StopAfter(int64_t linears) : left_(linears) {}
    void notice(const std::string& text) override { notices.push_back(text); }
    void warn(const std::string&) override {}
    void live(const std::string&) override {}
    void event(const std::string& kind, const nlohmann::json&) override {
      if (kind == "linear" && --left_ == 0) std::raise(SIGINT);
    }
    std::vector<std::string> notices;

   private:
    int64_t left_;
  };

  ExportResult interrupted_after(int64_t linears) {
    const StopSignals signals;
    StopAfter log(linears);
    return export_model(source_, data_, options_, log);
  }

  /// The weights of an export that nobody interrupted.
  std::string whole() {
    ExportOptions other = options_;
    other.output_dir = (folder_ / "whole").string();
    NullLog quiet;
    const StopSignals no_signal;
    other.overwrite = true;
    export_model(source_, data_, other, quiet);
    return read_text(folder_ / "whole/model.safetensors");
  }
};

TEST_P(ExportResume, GoesOnToTheSameBytes) {
  const std::string expected = whole();
  for (const int64_t blocks : {1, 2}) {
    const ExportResult stopped = interrupted_after(7 * blocks);
    EXPECT_TRUE(stopped.interrupted);
    EXPECT_FALSE(fs::exists(out()));
    EXPECT_TRUE(fs::exists(work()));
    const ExportResult result = run();
    EXPECT_TRUE(RecordingLog::says(log_.notices, "resuming: " + std::to_string(blocks)));
    EXPECT_EQ(read_text(out() / "model.safetensors"), expected) << blocks;
    EXPECT_EQ(result.report.layers.size(), 7U * settings_.layers);
    EXPECT_FALSE(fs::exists(work()));
    fs::remove_all(out());
  }
}

TEST_P(ExportResume, AnotherRequestStartsOver) {
  interrupted_after(7);
  options_.calibration.samples = 9;
  const std::string expected = whole();
  run();
  EXPECT_EQ(read_text(out() / "model.safetensors"), expected);
  const bool calibrates = GetParam().type != Q::kRtn;
  if (calibrates) {
    EXPECT_FALSE(RecordingLog::says(log_.notices, "resuming"));
  }
}

TEST_P(ExportResume, DamagedStateIsNeverBelieved) {
  const std::string expected = whole();
  const fs::path blocks = work() / "original/blocks";
  const auto cut = [](const fs::path& file) { fs::resize_file(file, fs::file_size(file) / 2); };
  const std::map<std::string, std::function<void()>> damages = {
      {"journal of other text", [&] { write_text(blocks / "journal.json", "{"); }},
      {"journal of another type", [&] { write_text(blocks / "journal.json", "[1]"); }},
      {"fingerprint of another type",
       [&] { write_text(blocks / "journal.json", R"({"fingerprint": 3})"); }},
      {"no journal", [&] { fs::remove(blocks / "journal.json"); }},
      {"cut block", [&] { cut(blocks / "block-00001.safetensors"); }},
      {"empty block", [&] { write_text(blocks / "block-00000.safetensors", ""); }},
      {"block without reports",
       [&] {
         fs::copy_file(folder_ / "model/model.safetensors", blocks / "block-00000.safetensors",
                       fs::copy_options::overwrite_existing);
       }},
      {"a flipped bit in a norm",
       [&] {
         const fs::path path = blocks / "block-00000.safetensors";
         const io::SafetensorsReader reader(path);
         const auto& norm = reader.at("model.layers.0.input_layernorm.weight");
         std::string bytes = read_text(path);
         const std::string_view values(reinterpret_cast<const char*>(norm.bytes.data()),
                                       norm.bytes.size());
         bytes.at(bytes.find(values)) ^= 1;
         write_text(path, bytes);
       }},
      {"journal of more blocks than the model has",
       [&] {
         auto journal = read_json_file(blocks / "journal.json");
         for (int i = 0; i < 3; ++i) journal["blocks"].push_back(journal["blocks"][0]);
         write_text(blocks / "journal.json", journal.dump());
       }},
      {"lost activations", [&] { fs::remove(blocks / "hidden-0.bin"); }},
      {"cut activations", [&] {
         if (fs::exists(blocks / "hidden-0.bin")) cut(blocks / "hidden-0.bin");
       }}};
  for (const auto& [what, damage] : damages) {
    SCOPED_TRACE(what);
    interrupted_after(14);
    damage();
    log_.notices.clear();
    run();
    EXPECT_EQ(read_text(out() / "model.safetensors"), expected);
    const bool has_activations = what.ends_with("activations") && GetParam().type == Q::kRtn;
    EXPECT_EQ(RecordingLog::says(log_.notices, "resuming"), has_activations);
    fs::remove_all(out());
    fs::remove_all(work());
  }
}

TEST_P(ExportResume, WhatTheSystemRefusesCostsNoFinishedBlock) {
  const std::string expected = whole();
  options_.output_dir = (folder_ / "parent/out").string();
  options_.work_dir = (folder_ / "elsewhere").string();
  fs::create_directory(folder_ / "parent");
  class BlockTheWay final : public RunLog {
   public:
    explicit BlockTheWay(fs::path parent) : parent_(std::move(parent)) {}
    void notice(const std::string& text) override { last_notice = text; }
    void warn(const std::string&) override {}
    void live(const std::string&) override {}
    void event(const std::string&, const nlohmann::json&) override {
      if (fs::is_directory(parent_)) fs::remove(parent_);
      if (!fs::exists(parent_)) write_text(parent_, "a file where the output's parent was");
    }
    std::string last_notice;

   private:
    fs::path parent_;
  };
  BlockTheWay log(folder_ / "parent");
  message_of<IoError>([&] { export_model(source_, data_, options_, log); });
  EXPECT_NE(log.last_notice.find((folder_ / "elsewhere").string()), std::string::npos);
  fs::remove(folder_ / "parent");
  fs::create_directory(folder_ / "parent");
  run();
  EXPECT_TRUE(RecordingLog::says(log_.notices, "resuming: 3 of 3"));
  EXPECT_EQ(read_text(out() / "model.safetensors"), expected);
  EXPECT_FALSE(fs::exists(folder_ / "elsewhere"));
}

TEST_P(ExportResume, ResumeOffStartsOver) {
  interrupted_after(7);
  options_.resume = false;
  run();
  EXPECT_FALSE(RecordingLog::says(log_.notices, "resuming"));
}

INSTANTIATE_TEST_SUITE_P(Every, ExportResume,
                         ::testing::Values(Family{"Gptq", Q::kGptq, F::kGptq, 4, 0, 0},
                                           Family{"Awq", Q::kAwq, F::kAwq, 4, 0, 0},
                                           Family{"Rtn", Q::kRtn, F::kGptq, 4, 0, 0}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace qlora::exporter
