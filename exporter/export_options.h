#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "core/constraint.h"
#include "core/fields.h"
#include "quant/awq_options.h"
#include "quant/gptq_options.h"

namespace qlora::exporter {

/// How the weights are rounded. kNone keeps 16 bits.
enum class QuantizationType { kAwq, kGptq, kSmoothquant, kFp8, kRtn, kNone };

/// Which files are written. kAuto: what the type's usual loaders read (exporter/legality.h).
enum class ExportFormat { kAuto, kAwq, kGptq, kGptqV2, kCompressedTensors, kGguf, kHf, kNf4 };

enum class GgufType { kAuto, kF16, kQ8_0, kQ4_0, kQ4_K };

/// Columns that share a scale; the value is the number itself.
enum class GroupSize : int64_t { kAuto = 0, kPerRow = -1, k32 = 32, k64 = 64, k128 = 128 };

/// What an adapter that was trained on NF4 weights is added to.
enum class MergeBase { kAuto, kOriginal, kNf4 };

/// The program that will load the result: its kernels decide which shapes are refused.
enum class Loader { kAny, kVllm, kTransformers, kGptqmodel, kLlamaCpp };

/// The grid that is asked for; exporter/legality.h resolves what is left open.
struct GridOptions {
  QuantizationType type = QuantizationType::kAwq;
  ExportFormat format = ExportFormat::kAuto;
  GgufType gguf_type = GgufType::kAuto;
  std::optional<int64_t> bits;
  GroupSize group_size = GroupSize::kAuto;
  std::optional<bool> symmetric;
  Loader loader = Loader::kAny;
  bool static_fp8 = false;
  double smoothquant_alpha = 0.5;
  bool quantize_lm_head = false;
  std::map<std::string, int64_t> bits_pattern;        // module name ending or regex -> bits
  std::map<std::string, int64_t> group_size_pattern;  // the same -> group size
  std::vector<std::string> skip_modules;              // name endings or regexes left in 16 bits
  // Not keys: of a run that trained on this grid (qat_grid).
  bool is_trained = false;
  bool static_int8 = false;  // as static_fp8, with int8 inputs
};

/// What the activations are measured on.
struct CalibrationOptions {
  std::string dataset_name;  // empty: the training data of the run
  std::string dataset_split = "train";
  int64_t samples = 512;
  int64_t max_seq_length = 1500;
  int64_t max_tokens = 0;
  uint64_t seed = 42;
};

/// What the losses are measured on.
struct ExportEvaluation {
  bool enabled = true;
  std::string dataset_name;  // empty: the held-out data of the run
  int64_t block_tokens = 512;
  int64_t max_tokens = 65536;
  std::optional<double> max_perplexity_ratio;
};

/// Section `export` of a run configuration, and the flags of `qlora export`.
struct ExportOptions {
  std::optional<bool> after_training;  // unset: where the configuration has the section
  std::string output_dir;
  std::string work_dir;
  GridOptions grid;
  CalibrationOptions calibration;
  ExportEvaluation evaluation;
  quant::GptqOptions gptq;
  bool true_sequential = true;
  quant::AwqOptions awq;
  MergeBase merge_base = MergeBase::kAuto;
  bool allow_other_base = false;
  std::string max_shard_size = "5GB";
  bool keep = false;
  bool overwrite = false;
  bool resume = true;
};

template <class V>
void fields(V& v, GridOptions& o) {
  v("quantization_type", o.type, any_value(),
    "how weights are rounded: awq, gptq, smoothquant (8-bit weights and activations), fp8, rtn "
    "(nearest), none (16 bits)");
  v("format", o.format, any_value(),
    "which files are written; auto: awq writes awq at 4 bits and gptq at 8, gptq writes gptq, "
    "smoothquant and fp8 write compressed-tensors, rtn writes gptq, none writes hf");
  v("gguf_type", o.gguf_type, any_value(),
    "type of the matrices of a gguf file; auto: f16 for none, else q4_k (q4_0 where rows are no "
    "multiple of 256) or q8_0, by bits");
  v("bits", o.bits, in_range(2, 8),
    "2, 3, 4 or 8 bits a weight; unset: 4, of smoothquant and fp8 8");
  v("group_size", o.group_size, any_value(),
    "columns that share a scale; auto: the largest of 128, 64, 32 that divides every matrix; -1: "
    "whole rows, for a named loader alone");
  v("symmetric", o.symmetric, any_value(),
    "groups lie evenly around zero; unset: what the format's fastest kernels ask for (awq false, "
    "the others true)");
  v("loader", o.loader, any_value(),
    "the program that will load the result; its rules become errors instead of notices");
  v("static_fp8", o.static_fp8, any_value(),
    "fp8: one scale a matrix and one for its calibrated input, instead of scales for each row and "
    "token");
  v("smoothquant_alpha", o.smoothquant_alpha, in_range(0, 1),
    "share of the activations' range that moves into the weights (arXiv:2211.10438, equation 4)");
  v("quantize_lm_head", o.quantize_lm_head, any_value(),
    "quantize the output matrix too; few loaders read that");
  v("bits_pattern", o.bits_pattern, in_range(2, 8), "module name ending or regex -> bits");
  v("group_size_pattern", o.group_size_pattern, in_range(-1, 1 << 20),
    "module name ending or regex -> group size");
  v("skip_modules", o.skip_modules, any_value(),
    "module name endings or regexes that stay in 16 bits");
  v.alias("type", "quantization_type");
  v.alias("quant_method", "quantization_type");
  v.alias("sym", "symmetric");
  v.alias("w_bit", "bits");
  v.alias("q_group_size", "group_size");
  v.alias("modules_to_not_convert", "skip_modules");
}

template <class V>
void fields(V& v, CalibrationOptions& o) {
  v("dataset_name", o.dataset_name, any_value(),
    "file with calibration rows; empty: the training data of the run, evaluation rows left out");
  v("dataset_split", o.dataset_split, non_empty(), "split of the data set");
  v("calibration_samples", o.samples, in_range(1, 1 << 24), "rows that activations come from");
  v("max_seq_length", o.max_seq_length, in_range(16, 1 << 24),
    "tokens a row; a longer one is cut and counted");
  v("calibration_tokens", o.max_tokens, non_negative(),
    "no further row is begun after so many tokens; 0: no bound");
  v("seed", o.seed, any_value(), "of the choice of calibration rows");
  v.alias("max_calib_samples", "calibration_samples");
  v.alias("num_calibration_samples", "calibration_samples");
  v.alias("max_calib_seq_len", "max_seq_length");
}

template <class V>
void fields(V& v, ExportEvaluation& o) {
  v("evaluate", o.enabled, any_value(), "measure perplexity and divergence before and after");
  v("eval_dataset_name", o.dataset_name, any_value(),
    "file with the rows to measure on; empty: the held-out rows of the run");
  v("eval_block_tokens", o.block_tokens, in_range(16, 1 << 24),
    "tokens of one evaluated sequence where the rows are plain text");
  v("eval_max_tokens", o.max_tokens, in_range(16, 1e12),
    "no further sequence is begun after so many tokens");
  v("max_perplexity_ratio", o.max_perplexity_ratio, in_range(1, 1e6),
    "the gate: perplexity after quantization over that of the adapter model; above it the command "
    "fails with exit code 3 and nothing gets the output's name; unset: no gate");
}

template <class V>
void fields(V& v, ExportOptions& o) {
  v("after_training", o.after_training, any_value(),
    "qlora train exports at its end; unset: where the configuration has this section");
  v("output_dir", o.output_dir, any_value(),
    "the folder that is written; of a run empty: output_dir of the run with -TYPE-BITSbit");
  v("work_dir", o.work_dir, any_value(),
    "activations and finished layers while it runs; empty: output_dir.work, removed at the end");
  v.inline_section(o.grid);
  v.inline_section(o.calibration);
  v.inline_section(o.evaluation);
  v.inline_section(o.gptq);
  v("true_sequential", o.true_sequential, any_value(),
    "gptq: the linears of a block see what the rounded ones before them make of the samples; "
    "false: all of a block see its original weights");
  v.inline_section(o.awq);
  v("merge_base", o.merge_base, any_value(),
    "what the adapter is added to: the original weights, the NF4 weights it was trained on; auto: "
    "both are quantized, the lower perplexity is kept");
  v("allow_other_base", o.allow_other_base, any_value(),
    "take an adapter whose run recorded other weights than those of this model (base_model.json), "
    "such as the same model in another file format");
  v("max_shard_size", o.max_shard_size, non_empty(),
    "largest safetensors file, as 5GB, 500MB, 2GiB; a single tensor may be larger");
  v("keep", o.keep, any_value(), "publish the result although the gate refused it");
  v("overwrite", o.overwrite, any_value(), "replace an output_dir that exists");
  v("resume", o.resume, any_value(), "go on at the layer where an interrupted export stopped");
}

}  // namespace qlora::exporter

template <>
struct qlora::EnumNames<qlora::exporter::QuantizationType> {
  using E = qlora::exporter::QuantizationType;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAwq, "awq"}, {E::kGptq, "gptq"}, {E::kSmoothquant, "smoothquant"},
      {E::kFp8, "fp8"}, {E::kRtn, "rtn"},   {E::kNone, "none"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::ExportFormat> {
  using E = qlora::exporter::ExportFormat;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"},
      {E::kAwq, "awq"},
      {E::kGptq, "gptq"},
      {E::kGptqV2, "gptq_v2"},
      {E::kCompressedTensors, "compressed-tensors"},
      {E::kGguf, "gguf"},
      {E::kHf, "hf"},
      {E::kNf4, "nf4"},
      {E::kCompressedTensors, "compressed_tensors"},
      {E::kNf4, "bitsandbytes"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::GgufType> {
  using E = qlora::exporter::GgufType;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kAuto, "auto"},
                                                         {E::kF16, "f16"},
                                                         {E::kQ8_0, "q8_0"},
                                                         {E::kQ4_0, "q4_0"},
                                                         {E::kQ4_K, "q4_k"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::GroupSize> {
  using E = qlora::exporter::GroupSize;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"}, {E::k128, "128"}, {E::k64, "64"}, {E::k32, "32"}, {E::kPerRow, "-1"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::MergeBase> {
  using E = qlora::exporter::MergeBase;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"}, {E::kOriginal, "original"}, {E::kNf4, "nf4"}};
};
template <>
struct qlora::EnumNames<qlora::exporter::Loader> {
  using E = qlora::exporter::Loader;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kAny, "any"},
                                                         {E::kVllm, "vllm"},
                                                         {E::kTransformers, "transformers"},
                                                         {E::kGptqmodel, "gptqmodel"},
                                                         {E::kLlamaCpp, "llama.cpp"}};
};
