#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "exporter/export_options.h"
#include "model/kv_options.h"
#include "quant/observer_options.h"

namespace qlora::exporter {

/// What the merged weight is rounded to while its adapter is trained. A scheme names files and
/// their grid, not a way to find codes.
enum class QatScheme { kNone, kInt4Awq, kInt4Gptq, kInt8, kFp8, kExport };

/// Where the scales of groups come from.
enum class QatScales {
  kMinMax,    // the range of the merged weight
  kClip,      // the narrowed range of least squared error, held
  kLearned,   // a gradient of their own, which moves codes too
  kAnchored,  // the same for values alone: codes are those of the scales before training
};

/// What is done to the inputs of rounded linears.
enum class QatActivations { kNone, kInt8, kInt8Static, kFp8, kFp8Static };

/// start_from: not a folder, but the codes that GPTQ finds for the base, calibrated as section
/// export says on the training rows.
inline constexpr const char* kStartFromGptq = "gptq";

/// Section `qat` of a run configuration.
struct QatOptions {
  QatScheme scheme = QatScheme::kNone;
  std::optional<int64_t> bits;
  GroupSize group_size = GroupSize::kAuto;
  std::optional<bool> symmetric;
  std::vector<std::string> skip_modules;
  MergeBase merge_base = MergeBase::kNf4;
  int64_t start_step = 0;
  QatScales scales = QatScales::kMinMax;
  int64_t refresh_steps = 0;
  std::string grid_from;   // an export whose scales and zero points are taken; empty: none
  std::string start_from;  // an export in whose codes the run starts; empty: none
  bool awq_scales = false;
  std::optional<QatActivations> activations;
  quant::ObserverOptions observer;
  model::KvRounding kv_cache = model::KvRounding::kNone;

  /// Scales have a gradient.
  bool learns_scales() const {
    return scales == QatScales::kLearned || scales == QatScales::kAnchored;
  }
  bool is_on() const { return scheme != QatScheme::kNone; }
  /// Scales and zero points are kept between steps, so that elements may be cut off.
  bool holds_grids() const {
    return scales != QatScales::kMinMax || refresh_steps > 0 || !given_grid().empty();
  }
  /// The export whose scales and zero points are taken; empty: none.
  const std::string& given_grid() const { return start_from.empty() ? grid_from : start_from; }
};

template <class V>
void fields(V& v, QatOptions& o) {
  v("scheme", o.scheme, any_value(),
    "int4-awq: the AWQ layout (4 bits, asymmetric, no channel scales); int4-gptq: the GPTQ layout "
    "(other bits too); int8: 8-bit weights, and activations rounded to 8 bits by token; fp8: the "
    "same in E4M3; export: the grid of section export; none: plain LoRA");
  v("bits", o.bits, in_range(2, 8), "2, 3, 4 or 8 bits a weight; unset: the scheme's");
  v("group_size", o.group_size, any_value(),
    "columns that share a scale; auto: the largest of 128, 64, 32 that divides every matrix");
  v("symmetric", o.symmetric, any_value(),
    "groups lie evenly around zero; unset: as the layout's fastest kernels ask");
  v("skip_modules", o.skip_modules, any_value(),
    "module name endings or regexes that stay in 16 bits");
  v("merge_base", o.merge_base, any_value(),
    "what the adapter is added to before rounding, in training and in the export: nf4 (with "
    "load_in_4bit) or original (with load_in_4bit false)");
  v("start_step", o.start_step, non_negative(),
    "steps of plain LoRA before rounding begins; lora_dropout counts in these alone");
  v("scales", o.scales, any_value(),
    "minmax: the range of each group; clip: narrowed where that lowers the squared error; learned: "
    "they start as clip and are trained (LSQ), with weight_decay 0; anchored: the same, but codes "
    "keep to the scales that training began with and only their values move (LR-QAT)");
  v("refresh_steps", o.refresh_steps, non_negative(),
    "steps between two fits of scales and zero points; 0: minmax fits at every pass, clip once");
  v("grid_from", o.grid_from, any_value(),
    "folder of an awq or gptq export of this model and grid whose scales and zero points are "
    "taken, e.g. a GPTQ solution; empty: none");
  v("start_from", o.start_from, any_value(),
    "gptq: the run starts from the codes and the grid that GPTQ finds for the base, over a 16-bit "
    "copy whose weights lie in the cells of the codes (output_dir-start-base); or the folder of an "
    "awq or gptq export of this model, with the adapter that lora.init_adapter names; empty: none");
  v("awq_scales", o.awq_scales, any_value(),
    "search AWQ's channel scales for the grid before the first step, fold them into the weights "
    "and "
    "norms of a 16-bit copy of the base (output_dir-awq-base), and train over that copy");
  v("activations", o.activations, any_value(),
    "inputs of the rounded linears: none; int8 or fp8 with a scale for each token; int8_static or "
    "fp8_static with one scale that an observer measures; unset: as the scheme says");
  v.inline_section(o.observer);
  v("kv_cache", o.kv_cache, any_value(),
    "keys and values as an engine with a small cache keeps them: none; int8 by token and head; "
    "int4, keys by channel, values by token and head");
}

/// The grid that a run with these options trains on, as an export asks for it.
///   of_export  of section export: what scheme export means
///   throws     ConfigError for a scheme that is off; where scheme export meets settings that it
///              takes from section export, or an export without a grid (none, gguf, nf4, static
///              fp8, a quantized lm_head); for activations, scales or a refresh that do not go with
///              the grid; for a combination that no format holds, as resolve_grid
GridOptions qat_grid(const QatOptions& qat, const GridOptions& of_export);

}  // namespace qlora::exporter

template <>
struct qlora::EnumNames<qlora::exporter::QatScheme> {
  using E = qlora::exporter::QatScheme;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kNone, "none"}, {E::kInt4Awq, "int4-awq"}, {E::kInt4Gptq, "int4-gptq"},
      {E::kInt8, "int8"}, {E::kFp8, "fp8"},          {E::kExport, "export"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::QatScales> {
  using E = qlora::exporter::QatScales;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kMinMax, "minmax"},
                                                         {E::kClip, "clip"},
                                                         {E::kLearned, "learned"},
                                                         {E::kAnchored, "anchored"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::QatActivations> {
  using E = qlora::exporter::QatActivations;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kNone, "none"},
                                                         {E::kInt8, "int8"},
                                                         {E::kInt8Static, "int8_static"},
                                                         {E::kFp8, "fp8"},
                                                         {E::kFp8Static, "fp8_static"}};
};
