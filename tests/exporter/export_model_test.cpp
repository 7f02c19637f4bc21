// Whole exports of a tiny model: every family of type, format and bits; adapters; interruptions.
#include <gtest/gtest.h>

#include <cmath>
#include <csignal>
#include <fstream>

#include "core/error.h"
#include "core/signals.h"
#include "eval/perplexity.h"
#include "exporter/block_quantizer.h"
#include "exporter/export.h"
#include "lora/merge.h"
#include "model/block_loader.h"
#include "model/decoder.h"
#include "quant/nf4.h"
#include "tests/exporter/tiny_export.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using namespace qlora::testing;  // the helpers of the tests

/// throws in f; the message
template <class E, class F>
std::string message_of(F f) {
  try {
    f();
  } catch (const E& error) {
    return error.what();
  }
  ADD_FAILURE() << "nothing was thrown";
  return "";
}

class ExportModel : public ::testing::Test {
 protected:
  void SetUp() override {
    write_tiny_checkpoint(folder_ / "model", settings_);
    source_.model_path = (folder_ / "model").string();
    source_.compute_dtype = model::ComputeDtype::kFloat32;
    options_.output_dir = (folder_ / "out").string();
    options_.grid.group_size = GroupSize::k32;
  }

  ExportResult run() {
    const StopSignals no_signal;  // forgets the one of an interruption before
    return export_model(source_, data_, options_, log_);
  }
  fs::path out() const { return options_.output_dir; }
  fs::path work() const { return options_.output_dir + ".work"; }

  model::BlockLoader loader(const fs::path& path) const {
    return {{.model_path = path.string(),
             .compute_dtype = model::ComputeDtype::kFloat32,
             .device = model::DeviceChoice::kCpu,
             .load_in_4bit = false,
             .cache_dir = ""},
            {}};
  }

  /// Perplexity as the rest of the program measures it.
  double perplexity(const fs::path& path) const {
    NullLog quiet;
    auto decoder = model::Decoder::load({.model_path = path.string(),
                                         .compute_dtype = model::ComputeDtype::kFloat32,
                                         .device = model::DeviceChoice::kCpu,
                                         .load_in_4bit = false,
                                         .cache_dir = ""},
                                        {}, quiet);
    return eval::perplexity(decoder, data_.evaluation, quiet).perplexity;
  }

  /// The folder is complete, holds what the solver made, and measures as reported.
  void expect_complete(const ExportResult& result) {
    ASSERT_EQ(result.output_dir, out());
    EXPECT_FALSE(fs::exists(work()));
    for (const char* name : {"README.md", "report.json", "report.html"}) {
      EXPECT_TRUE(fs::exists(out() / name)) << name;
    }
    const model::BlockLoader written = loader(result.model_path);
    for (const auto& linear : log_.linears) {
      const auto weight = written.weight(linear.at("module")).dense_copy(torch::kFloat32);
      EXPECT_EQ(weight_hash(weight), linear.at("weight_sha256")) << linear.at("module");
    }
    const auto* chosen = chosen_stage(result.report);
    ASSERT_NE(chosen, nullptr);
    ASSERT_TRUE(std::isfinite(*chosen->perplexity));
    const double read = perplexity(result.model_path);
    EXPECT_NEAR(*chosen->perplexity / read, 1, 2e-4);
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

  const TinyCheckpoint settings_ = {.layers = 3, .weight_scale = 0.2};
  TemporaryFolder folder_;
  ExportSource source_;
  ExportData data_ = tiny_export_data();
  ExportOptions options_;
  RecordingLog log_;
};

struct Family {
  std::string name;
  QuantizationType type;
  ExportFormat format;
  std::optional<int64_t> bits;
  double most_ratio;  // of perplexity to that of the base
  double most_kl;
  std::optional<bool> symmetric = {};
  bool desc_act = false;
  bool static_fp8 = false;
  GgufType gguf = GgufType::kAuto;
};

void PrintTo(const Family& family, std::ostream* out) {
  *out << family.name;
}

class ExportFamily : public ExportModel, public ::testing::WithParamInterface<Family> {};

TEST_P(ExportFamily, LoadsAsItWasSolvedAndStaysNearTheBase) {
  const Family& family = GetParam();
  GridOptions& grid = options_.grid;
  grid.type = family.type;
  grid.format = family.format;
  grid.bits = family.bits;
  grid.symmetric = family.symmetric;
  grid.static_fp8 = family.static_fp8;
  grid.gguf_type = family.gguf;
  options_.gptq.desc_act = family.desc_act;
  const bool has_groups =
      family.type != QuantizationType::kSmoothquant && family.type != QuantizationType::kFp8 &&
      family.type != QuantizationType::kNone && family.format != ExportFormat::kNf4 &&
      family.format != ExportFormat::kGguf;
  if (!has_groups) grid.group_size = GroupSize::kAuto;
  const ExportResult result = run();
  expect_complete(result);
  const bool is_gguf = family.format == ExportFormat::kGguf;
  EXPECT_EQ(log_.linears.size(), is_gguf ? 0 : 7 * settings_.layers);
  const StageResult& base = *find_stage(result.report, StageKind::kBase16);
  const StageResult& chosen = *chosen_stage(result.report);
  EXPECT_LT(std::abs(std::log(*chosen.perplexity / *base.perplexity)), std::log(family.most_ratio));
  EXPECT_LT(*chosen.kl_divergence, family.most_kl);
  EXPECT_GT(*chosen.kl_divergence, -1e-6);
  if (family.bits.value_or(8) < 8) {
    EXPECT_LT(*chosen.bytes, *base.bytes);
  }
}

using Q = QuantizationType;
using F = ExportFormat;
INSTANTIATE_TEST_SUITE_P(
    Every, ExportFamily,
    ::testing::Values(
        Family{"AwqAwq4", Q::kAwq, F::kAwq, 4, 1.5, 0.6},
        Family{"AwqGptq8", Q::kAwq, F::kGptq, 8, 1.01, 0.01},
        Family{"AwqCompressed4", Q::kAwq, F::kCompressedTensors, 4, 1.5, 0.6},
        Family{"GptqGptqSymmetric4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, true},
        Family{"GptqGptqAsymmetric4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, false},
        Family{"GptqGptqDescAct4", Q::kGptq, F::kGptq, 4, 1.5, 0.6, false, true},
        Family{"GptqGptq2", Q::kGptq, F::kGptq, 2, 9, 3, false},
        Family{"GptqGptq3", Q::kGptq, F::kGptq, 3, 2, 1, false},
        Family{"GptqGptq8", Q::kGptq, F::kGptq, 8, 1.01, 0.01},
        Family{"GptqV2Asymmetric4", Q::kGptq, F::kGptqV2, 4, 1.5, 0.6, false},
        Family{"GptqAwq4", Q::kGptq, F::kAwq, 4, 1.5, 0.6},
        Family{"GptqCompressed4", Q::kGptq, F::kCompressedTensors, 4, 1.5, 0.6},
        Family{"GptqCompressed8", Q::kGptq, F::kCompressedTensors, 8, 1.01, 0.01},
        Family{"Smoothquant", Q::kSmoothquant, F::kCompressedTensors, 8, 1.05, 0.02},
        Family{"Fp8Dynamic", Q::kFp8, F::kCompressedTensors, 8, 1.1, 0.12},
        Family{"Fp8Static", Q::kFp8, F::kCompressedTensors, 8, 1.1, 0.12, {}, false, true},
        Family{"Rtn4", Q::kRtn, F::kGptq, 4, 1.5, 0.6},
        Family{"RtnAwq4", Q::kRtn, F::kAwq, 4, 1.5, 0.6},
        Family{"Nf4", Q::kRtn, F::kNf4, 4, 1.5, 0.6},
        Family{"Hf", Q::kNone, F::kHf, {}, 1.001, 1e-5},
        Family{"GgufF16", Q::kNone, F::kGguf, {}, 1.001, 1e-5, {}, false, false, GgufType::kF16},
        Family{"GgufQ8", Q::kRtn, F::kGguf, 8, 1.02, 0.01, {}, false, false, GgufType::kQ8_0},
        Family{"GgufQ4", Q::kRtn, F::kGguf, 4, 1.5, 0.6, {}, false, false, GgufType::kQ4_0}),
    [](const auto& info) { return info.param.name; });

TEST_F(ExportModel, HfWithoutAdapterIsTheSource) {
  options_.grid = {.type = Q::kNone};
  run();
  const auto before = loader(folder_ / "model"), after = loader(out());
  for (const std::string& name : before.checkpoint().names()) {
    EXPECT_TRUE(torch::equal(before.source().tensor_f32(name), after.source().tensor_f32(name)))
        << name;
  }
}

TEST_F(ExportModel, MergesIntoEitherBase) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid = {.type = Q::kNone};
  const auto adapter = lora::read_peft_adapter(source_.adapter);
  const auto before = loader(folder_ / "model");
  for (const MergeBase base : {MergeBase::kOriginal, MergeBase::kNf4}) {
    options_.merge_base = base;
    options_.overwrite = true;
    const ExportResult result = run();
    EXPECT_EQ(result.merge_base, base);
    const auto after = loader(out());
    for (const auto& [module, m] : adapter.modules) {
      torch::Tensor weight = before.source().tensor_f32(module + ".weight");
      if (base == MergeBase::kNf4) {
        weight =
            quant::dequantize_nf4(quant::quantize_nf4(weight, source_.four_bit), torch::kFloat32);
      }
      const torch::Tensor merged = weight + 2 * torch::mm(m.b, m.a);
      const torch::Tensor got = after.source().tensor_f32(module + ".weight");
      // Half a unit in the last place of BF16, and of the sum's own rounding.
      EXPECT_TRUE(((got - merged).abs() <= merged.abs() * 0x1.02p-8f + 1e-6).all().item<bool>())
          << module;
      EXPECT_FALSE(torch::allclose(got, weight, 0, 1e-3)) << module;
    }
  }
}

TEST_F(ExportModel, AutoKeepsTheBaseWithTheLowerPerplexity) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid.type = Q::kRtn;
  const ExportResult result = run();
  auto& linears = log_.linears;  // of both candidates
  const auto half = linears.begin() + 7 * settings_.layers;
  result.merge_base == MergeBase::kOriginal ? linears.erase(half, linears.end())
                                            : linears.erase(linears.begin(), half);
  expect_complete(result);
  std::vector<StageResult> quantized;
  std::vector<StageKind> kinds;
  for (const auto& stage : result.report.stages) {
    kinds.push_back(stage.kind);
    if (stage.kind == StageKind::kQuantized) quantized.push_back(stage);
  }
  using K = StageKind;
  EXPECT_EQ(kinds, (std::vector<K>{K::kBase16, K::kBaseNf4, K::kAdapter, K::kMerged, K::kMerged,
                                   K::kQuantized, K::kQuantized}));
  ASSERT_EQ(quantized.size(), 2U);
  ASSERT_NE(*quantized[0].perplexity, *quantized[1].perplexity);
  const bool original = *quantized[0].perplexity < *quantized[1].perplexity;
  EXPECT_EQ(result.merge_base, original ? MergeBase::kOriginal : MergeBase::kNf4);
  EXPECT_EQ(quantized[0].is_chosen, original);
  EXPECT_EQ(quantized[1].is_chosen, !original);
  // The adapter model is what all are compared with, and merging into NF4 is the same function.
  EXPECT_NEAR(*result.report.stages[2].kl_divergence, 0, 1e-9);
  EXPECT_NEAR(*result.report.stages[4].kl_divergence, 0, 1e-6);
  EXPECT_GT(*result.report.stages[3].kl_divergence, 1e-5);
}

TEST_F(ExportModel, AutoWithoutHeldOutDataTakesTheOriginalAndSaysSo) {
  write_random_adapter(folder_ / "adapter", settings_);
  source_.adapter = (folder_ / "adapter").string();
  data_.evaluation.clear();
  options_.grid.type = Q::kRtn;
  EXPECT_EQ(run().merge_base, MergeBase::kOriginal);
  EXPECT_TRUE(RecordingLog::says(log_.warnings, "needs held-out data"));
}

TEST_F(ExportModel, WarnsOfAChangeThatRoundingSwallows) {
  write_random_adapter(folder_ / "adapter", settings_, 0.002);
  source_.adapter = (folder_ / "adapter").string();
  options_.grid.type = Q::kRtn;
  options_.merge_base = MergeBase::kOriginal;
  const ExportResult result = run();
  EXPECT_TRUE(RecordingLog::says(result.report.warnings, "near-no-op merge"));
}

// ---------------------------------------------------------------------- interruptions

class ExportResume : public ExportModel, public ::testing::WithParamInterface<Family> {
 protected:
  void SetUp() override {
    ExportModel::SetUp();
    options_.grid.type = GetParam().type;
    options_.grid.format = GetParam().format;
    options_.grid.bits = GetParam().bits;
    data_.evaluation.clear();
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
      {"other numbers in a block",
       [&] {
         std::fstream file(blocks / "block-00000.safetensors",
                           std::ios::in | std::ios::out | std::ios::binary);
         file.seekp(-5, std::ios::end);
         file.put('\x5a');
       }},
      {"lost activations", [&] { fs::remove(blocks / "hidden-0.bin"); }},
      {"cut activations", [&] {
         if (fs::exists(blocks / "hidden-0.bin")) cut(blocks / "hidden-0.bin");
       }}};
  for (const auto& [what, damage] : damages) {
    SCOPED_TRACE(what);
    interrupted_after(14);
    damage();
    try {
      run();
      EXPECT_EQ(read_text(out() / "model.safetensors"), expected);
    } catch (const Error& error) {  // allowed, where the next attempt is a good one
      EXPECT_FALSE(fs::exists(out()));
      run();
      EXPECT_EQ(read_text(out() / "model.safetensors"), expected);
    }
    fs::remove_all(out());
    fs::remove_all(work());
  }
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

// ------------------------------------------------------------------------- refusals

TEST_F(ExportModel, WorkDirectoryOfTheUserKeepsWhatElseIsInIt) {
  fs::create_directory(folder_ / "mine");
  write_text(folder_ / "mine/thesis.txt", "years");
  options_.work_dir = (folder_ / "mine").string();
  options_.grid.type = Q::kRtn;
  run();
  EXPECT_EQ(read_text(folder_ / "mine/thesis.txt"), "years");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_ / "mine"), {}), 1);
}

TEST_F(ExportModel, GateRefusesAndLeavesNothing) {
  options_.grid.type = Q::kRtn;
  options_.grid.bits = 2;
  options_.evaluation.max_perplexity_ratio = 1.0;
  const ExportResult result = run();
  EXPECT_TRUE(result.gate_failed);
  EXPECT_TRUE(result.output_dir.empty());
  EXPECT_FALSE(result.report.gate->advice.empty());
  EXPECT_FALSE(fs::exists(out()));
  EXPECT_FALSE(fs::exists(work()));
  options_.keep = true;
  EXPECT_TRUE(run().gate_failed);
  EXPECT_TRUE(fs::exists(out() / "model.safetensors"));
}

TEST_F(ExportModel, GateWithoutHeldOutDataIsRefused) {
  options_.grid.type = Q::kRtn;
  options_.evaluation.max_perplexity_ratio = 1.1;
  data_.evaluation.clear();
  EXPECT_NE(message_of<ConfigError>([&] { run(); }).find("max_perplexity_ratio"),
            std::string::npos);
}

TEST_F(ExportModel, RefusesBeforeAnythingIsWritten) {
  data_.calibration.reset();
  EXPECT_NE(message_of<ConfigError>([&] { run(); }).find("needs calibration samples"),
            std::string::npos);
  data_ = tiny_export_data();
  data_.evaluation[0].targets.assign(48, kIgnoreTarget);
  data_.evaluation.resize(1);
  EXPECT_NE(message_of<ValueError>([&] { run(); }).find("none of the 1 held-out"),
            std::string::npos);
  data_ = tiny_export_data();
  options_.output_dir.clear();
  EXPECT_NE(message_of<ConfigError>([&] { run(); }).find("output_dir is not set"),
            std::string::npos);
  options_.output_dir = (folder_ / "model").string();
  EXPECT_NE(message_of<ConfigError>([&] { run(); }).find("exists"), std::string::npos);
  EXPECT_FALSE(fs::exists(folder_ / "out.work"));
}

TEST_F(ExportModel, RefusesAnAdapterOfAnotherBase) {
  TinyCheckpoint wide = settings_;
  wide.mlp_width = 192;
  write_random_adapter(folder_ / "wide", wide);
  source_.adapter = (folder_ / "wide").string();
  const std::string shape = message_of<ShapeError>([&] { run(); });
  EXPECT_NE(shape.find("the model has"), std::string::npos) << shape;
  TinyCheckpoint deep = settings_;
  deep.layers = 4;
  write_random_adapter(folder_ / "deep", deep);
  source_.adapter = (folder_ / "deep").string();
  const std::string name = message_of<FormatError>([&] { run(); });
  EXPECT_NE(name.find("model.layers.3"), std::string::npos) << name;
  EXPECT_FALSE(fs::exists(work()));
}

TEST_F(ExportModel, DamagedWeightsLeaveNothingBehind) {
  plant_nan(folder_ / "model/model.safetensors", "model.layers.1.mlp.up_proj.weight");
  options_.grid.type = Q::kRtn;
  for (const bool evaluate : {true, false}) {
    options_.evaluation.enabled = evaluate;
    const std::string text = message_of<ValueError>([&] { run(); });
    EXPECT_NE(text.find("damaged"), std::string::npos) << text;
    EXPECT_FALSE(fs::exists(out()));
    EXPECT_FALSE(fs::exists(work()));
  }
}

TEST_F(ExportModel, WorkDirectoryThatCannotBeMade) {
  write_text(folder_ / "file", "");
  options_.work_dir = (folder_ / "file/work").string();
  options_.grid.type = Q::kRtn;
  EXPECT_NE(message_of<IoError>([&] { run(); }).find("cannot be made"), std::string::npos);
}

TEST_F(ExportModel, NumbersThatHalfCannotHold) {
  TinyCheckpoint large = settings_;
  large.weight_scale = 1e5;
  write_tiny_checkpoint(folder_ / "model", large);
  options_.grid.type = Q::kRtn;
  options_.grid.skip_modules = {"down_proj"};
  options_.evaluation.enabled = false;
  const std::string text = message_of<ValueError>([&] { run(); });
  EXPECT_NE(text.find("bfloat16"), std::string::npos) << text;
  EXPECT_FALSE(fs::exists(work()));
}

TEST_F(ExportModel, SkippedModulesOfScaledSitesReportTheirOwnError) {
  options_.grid.skip_modules = {"q_proj"};
  run();
  for (const auto& linear : log_.linears) {
    if (!linear.at("module").get<std::string>().ends_with("q_proj")) continue;
    EXPECT_EQ(linear.at("bits"), 16);
    EXPECT_GT(linear.at("sqnr_db"), 50) << linear;  // rounded to FP16, and nothing else
  }
}

}  // namespace
}  // namespace qlora::exporter
