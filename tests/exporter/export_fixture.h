#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <optional>
#include <ostream>
#include <string>
#include <vector>

#include "core/signals.h"
#include "eval/perplexity.h"
#include "exporter/block_quantizer.h"
#include "exporter/export.h"
#include "model/block_loader.h"
#include "model/decoder.h"
#include "tests/exporter/tiny_export.h"

namespace qlora::exporter {

/// A tiny model in a temporary folder, and what an export of it needs.
class ExportModel : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_tiny_checkpoint(folder_ / "model", settings_);
    source_.model_path = (folder_ / "model").string();
    source_.compute_dtype = model::ComputeDtype::kFloat32;
    options_.output_dir = (folder_ / "out").string();
    options_.grid.group_size = GroupSize::k32;
  }

  ExportResult run() {
    const StopSignals no_signal;  // forgets the one of an interruption before
    return export_model(source_, data_, options_, log_);
  }
  std::filesystem::path out() const { return options_.output_dir; }
  std::filesystem::path work() const { return options_.output_dir + ".work"; }

  model::BlockLoader loader(const std::filesystem::path& path) const {
    return {{.model_path = path.string(),
             .compute_dtype = model::ComputeDtype::kFloat32,
             .device = model::DeviceChoice::kCpu,
             .load_in_4bit = false,
             .cache_dir = ""},
            {}};
  }

  /// Perplexity as the rest of the program measures it.
  double perplexity(const std::filesystem::path& path) const {
    NullLog quiet;
    auto decoder = model::Decoder::load({.model_path = path.string(),
                                         .compute_dtype = model::ComputeDtype::kFloat32,
                                         .device = model::DeviceChoice::kCpu,
                                         .load_in_4bit = false,
                                         .cache_dir = ""},
                                        {}, quiet);
    return eval::perplexity(decoder, data_.evaluation, quiet).perplexity;
  }

  /// Without an adapter: the file's numbers are as far from the source's as the report says.
  void expect_error_as_reported(const io::Checkpoint& written, const nlohmann::json& linear) {
    const std::string name = linear.at("module").get<std::string>() + ".weight";
    const auto original = loader(folder_ / "model").source().tensor_f32(name);
    std::vector<float> read(static_cast<size_t>(original.numel()));
    written.tensor_f32(name, read.data());
    double error = 0, power = 0;
    for (size_t i = 0; i < read.size(); ++i) {
      const double weight = original.const_data_ptr<float>()[i];
      error += (read[i] - weight) * (read[i] - weight);
      power += weight * weight;
    }
    EXPECT_NEAR(linear.at("mse"), error / static_cast<double>(read.size()), 1e-9 * power) << name;
    if (linear.at("bits") == 16) {              // the source's BF16 weights are numbers of FP16
      EXPECT_LE(error, 1e-12 * power) << name;  // but for the smallest
      return;
    }
    EXPECT_NEAR(linear.at("sqnr_db"), 10 * std::log10(power / error), 1e-6) << name;
    // Uniform rounding gains 6 dB a bit; a block's largest number takes some of them.
    EXPECT_GT(linear.at("sqnr_db"), 4.5 * linear.at("bits").get<double>()) << name;
  }

  /// The folder is complete, holds what the solver made, and measures as reported.
  void expect_complete(const ExportResult& result) {
    ASSERT_EQ(result.output_dir, out());
    EXPECT_FALSE(std::filesystem::exists(work()));
    for (const char* name : {"README.md", "report.json", "report.html"}) {
      EXPECT_TRUE(std::filesystem::exists(out() / name)) << name;
    }
    EXPECT_EQ(log_.linears.size(), 7U * settings_.layers);
    const model::BlockLoader written = loader(result.model_path);
    const io::Checkpoint exact(result.model_path, io::GgufRounding::kNone);
    for (const auto& linear : log_.linears) {
      const std::string module = linear.at("module");
      if (result.model_path.extension() != ".gguf") {
        const auto weight = written.weight(module).dense_copy(torch::kFloat32);
        EXPECT_EQ(weight_hash(weight), linear.at("weight_sha256").get<std::string>()) << module;
      } else {
        expect_error_as_reported(exact, linear);
      }
    }
    const auto* chosen = chosen_stage(result.report);
    ASSERT_NE(chosen, nullptr);
    ASSERT_TRUE(std::isfinite(*chosen->perplexity));
    const double read = perplexity(result.model_path);
    EXPECT_NEAR(*chosen->perplexity / read, 1, 2e-4);
  }

  testing::TinyCheckpoint settings_ = {.layers = 3, .weight_scale = 0.2};
  testing::TemporaryFolder folder_;
  ExportSource source_;
  ExportData data_ = testing::tiny_export_data();
  ExportOptions options_;
  testing::RecordingLog log_;
};

/// A combination that is exported, and how far it may move the model.
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

inline void PrintTo(const Family& family, std::ostream* out) {
  *out << family.name;
}

}  // namespace qlora::exporter
