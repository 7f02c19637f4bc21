#pragma once

#include <filesystem>
#include <functional>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "core/parallel.h"
#include "core/rng.h"
#include "core/run_log.h"
#include "data/example_builder.h"
#include "model/decoder.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"
#include "trainer/train.h"

namespace qlora::testing {

/// Keeps every event; may act on them.
class EventLog final : public RunLog {
 public:
  void notice(const std::string& text) override { notices.push_back(text); }
  void warn(const std::string& text) override { warnings.push_back(text); }
  void live(const std::string& text) override { lives.push_back(text); }
  void event(const std::string& kind, const nlohmann::json& record) override {
    events.emplace_back(kind, record);
    if (on_event) on_event(kind, record);
  }

  std::vector<nlohmann::json> of(const std::string& kind) const {
    std::vector<nlohmann::json> found;
    for (const auto& [name, record] : events) {
      if (name == kind) found.push_back(record);
    }
    return found;
  }
  /// Loss by step. Of JSON's numbers a double comes back as it was.
  std::map<int64_t, double> losses() const {
    std::map<int64_t, double> all;
    for (const auto& step : of("step")) {
      if (step.at("loss").is_number()) all[step.at("step")] = step.at("loss");
    }
    return all;
  }

  std::vector<std::string> notices, warnings, lives;
  std::vector<std::pair<std::string, nlohmann::json>> events;
  std::function<void(const std::string&, const nlohmann::json&)> on_event;
};

inline model::Decoder load_fp32(const std::filesystem::path& folder, bool in_4bit = true) {
  NullLog log;
  return model::Decoder::load({.model_path = folder.string(),
                               .compute_dtype = model::ComputeDtype::kFloat32,
                               .device = model::DeviceChoice::kCpu,
                               .load_in_4bit = in_4bit,
                               .cache_dir = ""},
                              {}, log);
}

/// Texts that repeat a few short phrases, of 6 to 20 tokens below `vocabulary`.
inline data::ExampleSet tiny_examples(int64_t count, uint64_t seed, int32_t vocabulary = 256) {
  data::ExampleSet set{.name = "tiny", .max_length = 32, .examples = {}, .counts = {}};
  Rng rng(seed);
  for (int64_t i = 0; i < count; ++i) {
    data::Example example;
    const auto phrase = static_cast<int32_t>(rng.below(4)) * 17;
    const uint64_t length = 6 + rng.below(15);
    for (uint64_t t = 0; t < length; ++t) {
      const int32_t noise = rng.below(5) == 0 ? static_cast<int32_t>(rng.below(3)) : 0;
      example.tokens.push_back((phrase + static_cast<int32_t>(t) * 5 + noise) % (vocabulary - 1));
      example.learn.push_back(rng.below(4) != 0 || t == 1 ? 1 : 0);
    }
    set.examples.push_back(std::move(example));
  }
  return set;
}

/// A tiny model in a temporary folder, data for it, and what a run needs. Its adapters of rank 64
/// have 4,096 elements and more: the optimizer keeps them in 8 bits.
class TinyRun {
 public:
  TinyRun() : train_set(tiny_examples(13, 3)), eval_set(tiny_examples(6, 4)) {
    set_thread_count(1);  // bit-exact resume is promised for one; and nothing here is worth two
    write_tiny_checkpoint(folder / "model");
    facts.lora.r = 64;
    facts.lora.lora_alpha = 64;
    facts.lora.target_modules = {"all-linear"};
    facts.base_model = (folder / "model").string();
    options.output_dir = (folder / "run").string();
    options.batching = {.per_device_train_batch_size = 2,
                        .gradient_accumulation_steps = 2,
                        .packing = false,
                        .shuffle = true};
    options.max_steps = 10;
    options.optimizer.learning_rate = 2e-3;
    options.logging_steps = 2;
    options.save.strategy = trainer::Strategy::kNo;
  }

  model::Decoder make_model() const {
    model::Decoder model = load_fp32(folder / "model");
    model.add_adapters(facts.lora, options.seed);
    return model;
  }
  /// Trains a fresh model.
  trainer::TrainResult run(RunLog& log, bool with_eval = false) const {
    model::Decoder model = make_model();
    return trainer::train(model, train_set, with_eval ? &eval_set : nullptr, options, facts, log);
  }
  std::filesystem::path run_dir() const { return options.output_dir; }
  void use_run_dir(const std::string& name) { options.output_dir = (folder / name).string(); }

  TemporaryFolder folder;
  data::ExampleSet train_set, eval_set;
  trainer::TrainOptions options;
  trainer::RunFacts facts;
};

}  // namespace qlora::testing
