#include "exporter/export.h"

#include <algorithm>
#include <cmath>

#include "core/clock.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/progress.h"
#include "data/tokenizer.h"
#include "data/tokenizer_spec.h"
#include "exporter/calibration_set.h"
#include "exporter/candidate.h"
#include "exporter/card.h"
#include "exporter/export_summary.h"
#include "exporter/hf_writer.h"
#include "exporter/interrupted.h"
#include "exporter/quantize_model.h"
#include "exporter/stages.h"
#include "exporter/weight_grids.h"
#include "exporter/work_directory.h"
#include "io/atomic_file.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;

model::ModelOptions model_options(const ExportSource& source, bool load_in_4bit) {
  return {.model_path = source.model_path,
          .compute_dtype = source.compute_dtype,
          .load_in_4bit = load_in_4bit};
}

/// A name for people: the last part of the model's path that says something.
std::string model_name(const ExportSource& source) {
  const fs::path path = fs::path(source.model_path).lexically_normal();
  std::string name =
      path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
  if (name.ends_with(".gguf")) name = fs::path(name).stem().string();
  return name;
}

/// The chat templates beside an adapter: what it learnt to read goes with it. A folder without the
/// file that this program and transformers write says nothing of them.
std::vector<data::NamedTemplate> adapter_templates(const std::string& adapter) {
  if (adapter.empty() || !fs::exists(fs::path(adapter) / "chat_template.jinja")) return {};
  return data::read_tokenizer_config(adapter).chat_templates;
}

/// One export under way.
class Export {
 public:
  Export(const ExportSource& source, const ExportData& data, const ExportOptions& options,
         RunLog& log)
      : source_(source),
        data_(data),
        options_(options),
        log_(log),
        preflight_(check_export(source, options, log)),
        chat_templates_(adapter_templates(source.adapter)),
        loader_(model_options(source, false), source.four_bit) {
    if (!source.adapter.empty()) {
      adapter_ = lora::read_peft_adapter(source.adapter);
      check_adapter(*adapter_, loader_);
      if (!options.allow_other_base) check_base(source.adapter, loader_.checkpoint());
    }
    if (preflight_.grid.is_trained) {
      grids_ = trained_grids(preflight_, source.qat, source.adapter);
    }
    if (preflight_.grid.needs_calibration()) {
      QLORA_CHECK(data.calibration.has_value(), ConfigError,
                  "[export] {} needs calibration samples; name them with --dataset-name or "
                  "--tokens, or export a run",
                  name_of(preflight_.grid.type));
      calibration_ = make_calibration_set(*data.calibration, options.calibration,
                                          loader_.config().vocab_size, log);
      log.notice(fmt::format("calibration: {} samples, {} tokens of {}", calibration_->samples,
                             calibration_->tokens, data.calibration->name));
    }
    if (options.evaluation.enabled && !data.evaluation.empty()) {
      meter_.emplace(data.evaluation, log);
    }
    QLORA_CHECK(meter_ || !options.evaluation.enabled || !options.evaluation.max_perplexity_ratio,
                ConfigError,
                "[export] max_perplexity_ratio is {}, but there is no held-out data to measure it "
                "on; name data with --eval-dataset-name, or --set export.evaluate=false",
                *options.evaluation.max_perplexity_ratio);
  }

  ExportResult run();

 private:
  std::vector<MergeBase> bases();
  void measure_before(const std::vector<MergeBase>& bases);
  StageMeter::Measured measure_adapter(const model::BlockLoader& base, uint64_t base_bytes);
  model::KvRounding trained_kv() const;
  StageResult measure_candidate(const Candidate& candidate);
  void add_stage(const StageMeter::Measured& measured);
  void check_gate(const StageResult& stage);
  void describe_export();
  void publish(const Candidate& candidate, ExportResult& result);
  uint64_t weights_bytes() const;

  const ExportSource& source_;
  const ExportData& data_;
  const ExportOptions& options_;
  RunLog& log_;
  Preflight preflight_;
  std::vector<data::NamedTemplate> chat_templates_;  // of the adapter; empty: the model's
  model::BlockLoader loader_;
  std::optional<lora::PeftAdapter> adapter_;
  TrainedGrids grids_;  // empty: the adapter was not trained on a grid
  std::optional<CalibrationSet> calibration_;
  std::optional<StageMeter> meter_;
  Stopwatch watch_;
  ExportReport report_;
};

/// The bases to try. Two are told apart by what was measured, so that without held-out tokens the
/// original weights are taken.
std::vector<MergeBase> Export::bases() {
  if (!adapter_) return {MergeBase::kOriginal};
  if (options_.merge_base != MergeBase::kAuto) return {options_.merge_base};
  if (meter_) return {MergeBase::kOriginal, MergeBase::kNf4};
  log_.warn(
      "merge_base auto needs held-out data to choose by; the original weights are taken. Name data "
      "with --eval-dataset-name");
  return {MergeBase::kOriginal};
}

/// Bytes of all weights in 16 bits.
uint64_t Export::weights_bytes() const {
  uint64_t count = 0;
  for (const std::string& name : loader_.checkpoint().names()) {
    uint64_t elements = 1;
    for (const int64_t size : loader_.checkpoint().shape(name)) {
      elements *= static_cast<uint64_t>(size);
    }
    count += elements;
  }
  return 2 * count;
}

void Export::add_stage(const StageMeter::Measured& measured) {
  report_.stages.push_back(meter_->compare(measured));
  log_.notice(stage_line(report_.stages.back()));
  log_.event("stage", {{"name", report_.stages.back().name},
                       {"perplexity", *report_.stages.back().perplexity},
                       {"kl_divergence", *report_.stages.back().kl_divergence}});
}

/// The adapter beside its base, rounded where it was trained so: what the others are compared with.
StageMeter::Measured Export::measure_adapter(const model::BlockLoader& base, uint64_t base_bytes) {
  uint64_t bytes = base_bytes;
  for (const auto& [module, matrices] : adapter_->modules) {
    bytes += static_cast<uint64_t>(2 * (matrices.a.numel() + matrices.b.numel()));
  }
  const auto adapted_block = [&](int64_t i) {
    model::DecoderBlock block = base.block(i);
    for (auto* linear : block.linears()) {
      if (auto adapter = adapter_of(*adapter_, linear->name())) linear->set_adapter(*adapter);
      const auto grid = grids_.find(linear->name());
      if (grid == grids_.end()) continue;
      linear->set_grid(grid->second);
      linear->hold_rounded_weight();
    }
    return block;
  };
  const bool is_trained = preflight_.grid.is_trained;
  return meter_->run({.name = is_trained ? "adapter and grid, as trained" : "adapter on NF4",
                      .kind = StageKind::kAdapter,
                      .bytes = bytes},
                     base, adapted_block, trained_kv());
}

/// Measured as it was trained: the files themselves say nothing of the cache.
model::KvRounding Export::trained_kv() const {
  return preflight_.grid.is_trained ? source_.qat.kv_cache : model::KvRounding::kNone;
}

/// The models that the export starts from; the last of them is what the others are compared with.
void Export::measure_before(const std::vector<MergeBase>& bases) {
  if (!meter_) return;
  const uint64_t whole = weights_bytes();
  std::vector<StageMeter::Measured> measured;
  measured.push_back(
      meter_->run({.name = "base, 16 bits", .kind = StageKind::kBase16, .bytes = whole}, loader_,
                  [&](int64_t i) { return loader_.block(i); }));
  if (!adapter_) {
    meter_->set_reference(measured.back().states);
    add_stage(measured.back());
    return;
  }
  const model::BlockLoader four_bit(model_options(source_, true), source_.four_bit);
  uint64_t nf4_bytes = whole;
  const auto nf4_block = [&](int64_t i) {
    model::DecoderBlock block = four_bit.block(i);
    for (const auto* linear : block.linears()) {
      const lora::FrozenWeight& weight = linear->weight();
      nf4_bytes -= static_cast<uint64_t>(2 * weight.rows() * weight.cols() - weight.bytes());
    }
    return block;
  };
  measured.push_back(
      meter_->run({.name = "base, NF4", .kind = StageKind::kBaseNf4}, four_bit, nf4_block));
  measured.back().stage.bytes = nf4_bytes;
  const bool on_original = preflight_.grid.is_trained && bases.front() == MergeBase::kOriginal;
  if (on_original) {
    model::ModelOptions exact = model_options(source_, false);
    exact.exact_base = true;
    measured.push_back(measure_adapter({exact, source_.four_bit}, whole));
  } else {
    measured.push_back(measure_adapter(four_bit, nf4_bytes));
  }
  meter_->set_reference(measured.back().states);
  for (const MergeBase base : bases) {
    const MergedWeights merged(loader_, &*adapter_, base, source_.four_bit);
    measured.push_back(meter_->run({.name = fmt::format("merged into {}, 16 bits", name_of(base)),
                                    .kind = StageKind::kMerged,
                                    .bytes = whole},
                                   loader_, [&](int64_t i) { return merged.block(i); }));
  }
  for (const auto& one : measured) add_stage(one);
}

StageResult Export::measure_candidate(const Candidate& candidate) {
  const model::BlockLoader loader({.model_path = candidate.model_path.string(),
                                   .compute_dtype = source_.compute_dtype,
                                   .load_in_4bit = false},
                                  source_.four_bit);
  std::string name = describe(preflight_.grid);
  if (adapter_) name += fmt::format(", merged into {}", name_of(candidate.base));
  add_stage(meter_->run(
      {.name = name, .kind = StageKind::kQuantized, .bytes = candidate.bytes}, loader,
      [&](int64_t i) { return loader.block(i); }, trained_kv()));
  return report_.stages.back();
}

void Export::check_gate(const StageResult& stage) {
  const auto& limit = options_.evaluation.max_perplexity_ratio;
  const auto ratio = perplexity_ratio(report_, stage);
  if (!limit || !ratio) return;
  report_.gate = GateResult{.max_ratio = *limit, .ratio = *ratio, .passed = *ratio <= *limit};
  if (!report_.gate->passed) report_.gate->advice = gate_advice(preflight_, options_);
}

void Export::publish(const Candidate& candidate, ExportResult& result) {
  io::AtomicDirectory output(options_.output_dir,
                             options_.overwrite ? io::IfExists::kReplace : io::IfExists::kRefuse);
  move_files(candidate.directory, output.path());
  write_report(output.path(), report_);
  const CardFacts card{.name = fs::path(options_.output_dir).filename().string(),
                       .base_model = report_.base_model,
                       .licence = licence_name(source_.model_path),
                       .gguf_file = preflight_.grid.format == ExportFormat::kGguf
                                        ? candidate.model_path.filename().string()
                                        : "",
                       .dataset = source_.training_data};
  io::write_file_atomic(output.path() / "README.md", model_card(preflight_, report_, card));
  output.commit();
  result.output_dir = options_.output_dir;
  result.model_path = preflight_.grid.format == ExportFormat::kGguf
                          ? result.output_dir / candidate.model_path.filename()
                          : result.output_dir;
}

void Export::describe_export() {
  report_.title = fmt::format("{}, {}", model_name(source_), describe(preflight_.grid));
  report_.base_model = model_name(source_);
  report_.adapter = fs::path(source_.adapter).filename().string();
  report_.grid = describe(preflight_.grid);
  if (preflight_.group_size > 0) {
    report_.grid += fmt::format(", groups of {}", preflight_.group_size);
  }
  report_.protocol = data_.protocol;
  report_.settings = write_fields(options_);
  report_.notices = preflight_.notices;
  report_.warnings = preflight_.warnings;
  if (calibration_) {
    report_.calibration = fmt::format(
        "{}: {} samples, {} tokens, {} cut to {}", data_.calibration->name, calibration_->samples,
        calibration_->tokens, calibration_->cut, options_.calibration.max_seq_length);
  }
}

ExportResult Export::run() {
  const std::vector<MergeBase> tried = bases();
  describe_export();
  measure_before(tried);
  const CandidateInput input{.loader = loader_,
                             .adapter = adapter_ ? &*adapter_ : nullptr,
                             .four_bit = source_.four_bit,
                             .preflight = preflight_,
                             .options = options_,
                             .calibration = calibration_ ? &*calibration_ : nullptr,
                             .trained = grids_,
                             .source = source_.model_path,
                             .name = model_name(source_),
                             .chat_templates = chat_templates_};
  std::vector<Candidate> candidates;
  std::vector<size_t> stages;  // of the candidates, in report_.stages
  size_t best = 0;
  for (const MergeBase base : tried) {
    reset_peak_rss();
    if (adapter_) log_.notice(fmt::format("merging into the {} weights", name_of(base)));
    candidates.push_back(make_candidate(input, base, work_directory(options_), log_));
    report_.peak_memory_bytes = std::max(report_.peak_memory_bytes, peak_rss_bytes());
    if (!meter_) continue;
    measure_candidate(candidates.back());
    stages.push_back(report_.stages.size() - 1);
    if (report_.stages[stages.back()].perplexity < report_.stages[stages[best]].perplexity) {
      best = stages.size() - 1;
    }
  }
  const Candidate& chosen = candidates[best];
  report_.layers = layer_results(chosen.linears);
  report_lost_changes(chosen.linears, report_.warnings, log_);
  report_.seconds = watch_.seconds();
  ExportResult result{.merge_base = chosen.base};
  if (meter_) {
    report_.stages[stages[best]].is_chosen = true;
    check_gate(report_.stages[stages[best]]);
  }
  result.gate_failed = report_.gate && !report_.gate->passed;
  if (!result.gate_failed || options_.keep) publish(chosen, result);
  remove_work(options_);
  result.report = report_;
  return result;
}

}  // namespace

Preflight check_export(const ExportSource& source, const ExportOptions& options, RunLog& log) {
  QLORA_CHECK(!options.output_dir.empty(), ConfigError,
              "[export] output_dir is not set; name a folder with --output-dir");
  std::error_code error;
  QLORA_CHECK(options.overwrite || !fs::exists(options.output_dir, error), ConfigError,
              "[export] {} exists; choose another --output-dir, or replace it with --overwrite",
              options.output_dir);
  const io::Checkpoint checkpoint(source.model_path);
  data::load_tokenizer(source.model_path);  // it is written at the very end: damage is told now
  Preflight preflight = exporter::preflight(checkpoint.config(), options.grid);
  check_column_order(preflight.grid, options.gptq.desc_act);
  for (const std::string& notice : preflight.notices) log.notice(notice);
  for (const std::string& warning : preflight.warnings) log.warn(warning);
  if (preflight.grid.format == ExportFormat::kNf4 && !source.adapter.empty()) {
    log.warn(
        "the merged weights are rounded to NF4 once more: a part of what the adapter learnt is "
        "rounded away with it. Keep the adapter beside the NF4 base, or export awq or gptq");
  }
  check_space(options.output_dir, 2 * preflight.output_bytes);
  return preflight;
}

ExportResult export_model(const ExportSource& source, const ExportData& data,
                          const ExportOptions& options, RunLog& log) {
  Export work(source, data, options, log);
  try {
    return work.run();
  } catch (const Interrupted&) {
    ExportResult result;
    result.interrupted = true;
    return result;
  } catch (const Error& error) {
    // What the system refused today it may grant tomorrow; damaged data stays damaged.
    if (dynamic_cast<const IoError*>(&error) != nullptr && is_worth_resuming(options)) {
      log.notice(fmt::format("the finished blocks stay in {}; the same command goes on from there",
                             work_directory(options).string()));
    } else {
      remove_work(options);
    }
    throw;
  }
}

}  // namespace qlora::exporter
