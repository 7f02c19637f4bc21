#pragma once

#include <torch/types.h>

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "core/rng.h"
#include "exporter/export.h"
#include "lora/peft_files.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::testing {

/// Keeps everything that was said.
class RecordingLog final : public RunLog {
 public:
  void notice(const std::string& text) override { notices.push_back(text); }
  void warn(const std::string& text) override { warnings.push_back(text); }
  void live(const std::string&) override {}
  void event(const std::string& kind, const nlohmann::json& record) override {
    if (kind == "linear") linears.push_back(record);
  }
  static bool says(const std::vector<std::string>& lines, const std::string& words) {
    for (const std::string& line : lines) {
      if (line.find(words) != std::string::npos) return true;
    }
    return false;
  }
  std::vector<std::string> notices, warnings;
  std::vector<nlohmann::json> linears;
};

inline std::vector<int32_t> random_tokens(int64_t count, Rng& rng) {
  std::vector<int32_t> tokens;
  for (int64_t i = 0; i < count; ++i) tokens.push_back(static_cast<int32_t>(rng.below(250)));
  return tokens;
}

/// Calibration rows of 20 to 75 tokens and four held-out sequences.
inline exporter::ExportData tiny_export_data(int64_t samples = 12) {
  Rng rng(7);
  exporter::ExportData data{.protocol = "four sequences of 48 tokens"};
  data.calibration.emplace();
  data.calibration->name = "rows";
  for (int64_t i = 0; i < samples; ++i) {
    data.calibration->examples.push_back({.tokens = random_tokens(20 + i * 5, rng), .learn = {}});
  }
  for (int i = 0; i < 4; ++i) {
    TokenBatch segment{.tokens = random_tokens(48, rng), .targets = {}, .segment_starts = {0, 48}};
    segment.targets.assign(segment.tokens.begin() + 1, segment.tokens.end());
    segment.targets.push_back(kIgnoreTarget);
    data.evaluation.push_back(std::move(segment));
  }
  return data;
}

/// An adapter of all seven linears of every block with B that is not zero.
inline void write_random_adapter(const std::filesystem::path& folder,
                                 const TinyCheckpoint& model = {}, double size = 0.05) {
  Rng rng(11);
  const auto matrix = [&](int64_t rows, int64_t cols) {
    torch::Tensor t = torch::empty({rows, cols}, torch::kFloat32);
    for (int64_t i = 0; i < t.numel(); ++i) {
      t.mutable_data_ptr<float>()[i] = static_cast<float>(rng.normal() * size);
    }
    return t;
  };
  const int64_t c = model.width, f = model.mlp_width, kv = c / model.heads * model.kv_heads;
  const std::map<std::string, std::pair<int64_t, int64_t>> shapes = {
      {"self_attn.q_proj", {c, c}}, {"self_attn.k_proj", {kv, c}}, {"self_attn.v_proj", {kv, c}},
      {"self_attn.o_proj", {c, c}}, {"mlp.gate_proj", {f, c}},     {"mlp.up_proj", {f, c}},
      {"mlp.down_proj", {c, f}}};
  std::vector<lora::NamedAdapter> adapters;
  for (int64_t block = 0; block < model.layers; ++block) {
    for (const auto& [name, shape] : shapes) {
      adapters.push_back({"model.layers." + std::to_string(block) + "." + name,
                          {.a = matrix(4, shape.second),
                           .b = matrix(shape.first, 4),
                           .alpha = 8,
                           .scale = 2,
                           .dtype = torch::kFloat32}});
    }
  }
  lora::LoraOptions options;
  options.r = 4;
  options.lora_alpha = 8;
  lora::write_peft_adapter(folder, adapters, options, "tiny");
}

}  // namespace qlora::testing
