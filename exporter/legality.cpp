#include "exporter/legality.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "core/error.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Q = QuantizationType;

constexpr int64_t kAll[] = {4, 8, 3, 2};
constexpr int64_t kFourEight[] = {4, 8};
constexpr int64_t kFour[] = {4};
constexpr int64_t kEight[] = {8};
constexpr int64_t kSixteen[] = {kUnquantizedBits};
constexpr int64_t kNotFour[] = {8, 3, 2};
constexpr std::span<const int64_t> kNever;
constexpr bool kEither[] = {true, false};
constexpr bool kSymmetric[] = {true};
constexpr bool kAsymmetric[] = {false};
constexpr bool kEitherAsymmetricFirst[] = {false, true};

constexpr auto kGroups = GroupRule::kChosen;
constexpr const char* kGptqLoaders = "vLLM, GPTQModel, transformers";
constexpr const char* kGptqV2Loaders = "GPTQModel, transformers";
constexpr const char* kAwqLoaders = "vLLM, AutoAWQ, GPTQModel, transformers";
constexpr const char* kCtLoaders = "vLLM, transformers";

constexpr LegalRow kRows[] = {
    {Q::kAwq, F::kAwq, GgufType::kAuto, kFour, kAsymmetric, kGroups, 0, kFour, "AWQ GEMM words",
     kAwqLoaders},
    {Q::kAwq, F::kGptq, GgufType::kAuto, kAll, kEither, kGroups, 0, kNotFour,
     "AWQ scales, GPTQ words", kGptqLoaders},
    {Q::kAwq, F::kGptqV2, GgufType::kAuto, kAll, kEither, kGroups, 0, kNever,
     "AWQ scales, GPTQ words without the zero offset", kGptqV2Loaders},
    {Q::kAwq, F::kCompressedTensors, GgufType::kAuto, kFourEight, kSymmetric, kGroups, 0, kNever,
     "AWQ scales, W4A16 or W8A16", kCtLoaders},
    {Q::kGptq, F::kGptq, GgufType::kAuto, kAll, kEither, kGroups, 0, kAll, "GPTQ words",
     kGptqLoaders},
    {Q::kGptq, F::kGptqV2, GgufType::kAuto, kAll, kEither, kGroups, 0, kNever,
     "GPTQ words without the zero offset", kGptqV2Loaders},
    {Q::kGptq, F::kAwq, GgufType::kAuto, kFour, kAsymmetric, kGroups, 0, kNever,
     "GPTQ codes, AWQ GEMM words", kAwqLoaders},
    {Q::kGptq, F::kCompressedTensors, GgufType::kAuto, kFourEight, kSymmetric, kGroups, 0, kNever,
     "W4A16 or W8A16", kCtLoaders},
    {Q::kSmoothquant, F::kCompressedTensors, GgufType::kAuto, kEight, kSymmetric, GroupRule::kRow,
     0, kEight, "W8A8: int8 weights, activations in int8 by token", kCtLoaders},
    {Q::kFp8, F::kCompressedTensors, GgufType::kAuto, kEight, kSymmetric, GroupRule::kRow, 0,
     kEight, "E4M3 weights and activations", kCtLoaders},
    {Q::kRtn, F::kGptq, GgufType::kAuto, kAll, kEither, kGroups, 0, kAll, "GPTQ words",
     kGptqLoaders},
    {Q::kRtn, F::kGptqV2, GgufType::kAuto, kAll, kEither, kGroups, 0, kNever,
     "GPTQ words without the zero offset", kGptqV2Loaders},
    {Q::kRtn, F::kAwq, GgufType::kAuto, kFour, kAsymmetric, kGroups, 0, kNever, "AWQ GEMM words",
     kAwqLoaders},
    {Q::kRtn, F::kCompressedTensors, GgufType::kAuto, kFourEight, kSymmetric, kGroups, 0, kNever,
     "W4A16 or W8A16", kCtLoaders},
    {Q::kRtn, F::kGguf, GgufType::kQ8_0, kEight, kSymmetric, GroupRule::kFixed, 32, kNever,
     "Q8_0 blocks", "llama.cpp, transformers"},
    {Q::kRtn, F::kGguf, GgufType::kQ4_0, kFour, kSymmetric, GroupRule::kFixed, 32, kNever,
     "Q4_0 blocks", "llama.cpp, transformers"},
    {Q::kRtn, F::kGguf, GgufType::kQ4_K, kFour, kAsymmetric, GroupRule::kFixed, 32, kNever,
     "Q4_K blocks", "llama.cpp, transformers"},
    {Q::kRtn, F::kNf4, GgufType::kAuto, kFour, kSymmetric, GroupRule::kFixed, 64, kNever,
     "NF4 blocks with double quantization", "bitsandbytes, transformers, vLLM"},
    {Q::kNone, F::kHf, GgufType::kAuto, kSixteen, kEitherAsymmetricFirst, GroupRule::kRow, 0,
     kSixteen, "16-bit safetensors", "everybody"},
    {Q::kNone, F::kGguf, GgufType::kF16, kSixteen, kEitherAsymmetricFirst, GroupRule::kRow, 0,
     kNever, "16-bit GGUF", "llama.cpp, transformers"},
};

template <class T>
bool holds(std::span<const T> list, const T& value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

std::string symmetry_text(std::span<const bool> symmetries) {
  if (symmetries.size() == 2) return "either";
  return symmetries[0] ? "symmetric" : "asymmetric";
}

std::string group_text(const LegalRow& row) {
  if (row.group_rule == GroupRule::kChosen) return "128, 64, 32, -1";
  if (row.group_rule == GroupRule::kFixed) return fmt::format("{} (fixed)", row.fixed_group);
  return row.bits[0] == kUnquantizedBits ? "none" : "row";
}

std::string format_text(const LegalRow& row) {
  const std::string name = name_of(row.format);
  return row.format == F::kGguf ? fmt::format("{} {}", name, name_of(row.gguf_type)) : name;
}

std::string row_text(const LegalRow& row) {
  const std::string symmetry =
      row.bits[0] == kUnquantizedBits ? "" : " " + symmetry_text(row.symmetries);
  return fmt::format("{} as {} at {} bits{}", name_of(row.type), format_text(row),
                     fmt::join(row.bits, "/"), symmetry);
}

/// Lists the rows of the same type and the types of the same format: what may have been meant.
[[noreturn]] void refuse(const std::string& what, Q type, ExportFormat format) {
  std::vector<std::string> legal, types;
  for (const LegalRow& row : kRows) {
    if (row.type == type) legal.push_back(row_text(row));
    const std::string name = name_of(row.type);
    if (row.format == format && !holds(std::span<const std::string>(types), name)) {
      types.push_back(name);
    }
  }
  const std::string others = types.empty() ? ""
                                           : fmt::format("; {} is written for {}", name_of(format),
                                                         fmt::join(types, ", "));
  throw ConfigError(fmt::format("[export] {}; legal for {}: {}{}", what, name_of(type),
                                fmt::join(legal, ", "), others));
}

int64_t default_bits(const GridOptions& o) {
  if (o.type == Q::kNone) return kUnquantizedBits;
  if (o.gguf_type == GgufType::kQ8_0) return 8;
  if (o.type == Q::kSmoothquant || o.type == Q::kFp8) return 8;
  return 4;
}

std::string asked(const GridOptions& o, ExportFormat format, int64_t bits) {
  std::string text = fmt::format("{} in the format {}", name_of(o.type), name_of(format));
  if (format == F::kGguf && o.gguf_type != GgufType::kAuto) {
    text += fmt::format(" {}", name_of(o.gguf_type));
  }
  if (bits != kUnquantizedBits) text += fmt::format(" at {} bits", bits);
  if (o.symmetric) text += *o.symmetric ? ", symmetric" : ", asymmetric";
  return text;
}

bool fits(const LegalRow& row, const GridOptions& o, ExportFormat format, int64_t bits) {
  return row.type == o.type && row.format == format && holds(row.bits, bits) &&
         (!o.symmetric || holds(row.symmetries, *o.symmetric)) &&
         (o.gguf_type == GgufType::kAuto || row.gguf_type == o.gguf_type);
}

void check_gguf_type(const GridOptions& o, ExportFormat format) {
  QLORA_CHECK(o.gguf_type == GgufType::kAuto || format == F::kGguf, ConfigError,
              "[export] gguf_type is {}, but the format is {}; set format to gguf or leave "
              "gguf_type out",
              name_of(o.gguf_type), name_of(format));
}

ExportFormat chosen_format(const GridOptions& o, int64_t bits) {
  if (o.format != F::kAuto) return o.format;
  for (const LegalRow& row : kRows) {
    if (row.type == o.type && holds(row.auto_bits, bits)) return row.format;
  }
  refuse(fmt::format("{} at {} bits is not legal", name_of(o.type), bits), o.type, F::kAuto);
}

/// llama.cpp reads gguf and nothing else; the rest do not read gguf as it is meant.
void check_loader(const ResolvedGrid& grid) {
  const bool is_gguf = grid.format == F::kGguf;
  QLORA_CHECK(grid.loader == Loader::kAny || (grid.loader == Loader::kLlamaCpp) == is_gguf ||
                  (is_gguf && grid.loader == Loader::kTransformers),
              ConfigError, "[export] loader is {}, which does not serve the format {}; {}",
              name_of(grid.loader), name_of(grid.format),
              is_gguf ? "allowed: llama.cpp, transformers" : "llama.cpp reads gguf alone");
  const bool reads = grid.loader != Loader::kGptqmodel || grid.format == F::kGptq ||
                     grid.format == F::kGptqV2 || grid.format == F::kAwq || grid.format == F::kHf;
  QLORA_CHECK(reads, ConfigError,
              "[export] loader is gptqmodel, which reads gptq, gptq_v2, awq and hf, not {}",
              name_of(grid.format));
  QLORA_CHECK(grid.loader != Loader::kVllm || grid.format != F::kGptqV2, ConfigError,
              "[export] loader is vllm, which takes gptq_v2 words for gptq ones and is off by one "
              "in every zero point; choose the format gptq");
}

void check_group(const ResolvedGrid& grid) {
  const GroupSize group = grid.group_size;
  if (grid.group_rule == GroupRule::kFixed) {
    QLORA_CHECK(group == GroupSize::kAuto || static_cast<int64_t>(group) == grid.fixed_group,
                ConfigError,
                "[export] group_size is {}, but the format {} has blocks of {}; leave "
                "it auto",
                name_of(group), name_of(grid.format), grid.fixed_group);
  } else if (grid.group_rule == GroupRule::kRow) {
    QLORA_CHECK(group == GroupSize::kAuto || group == GroupSize::kPerRow, ConfigError,
                "[export] group_size is {}, but {} has no groups; leave it auto", name_of(group),
                name_of(grid.type));
  } else if (group == GroupSize::kPerRow) {
    QLORA_CHECK(grid.loader != Loader::kAny, ConfigError,
                "[export] group_size is -1, which some loaders fail on; name the one that will "
                "read it (loader: vllm, transformers, gptqmodel), or choose 128, 64 or 32");
    QLORA_CHECK(grid.format != F::kAwq || grid.loader != Loader::kVllm, ConfigError,
                "[export] group_size is -1 in the format awq, which vllm computes wrongly; choose "
                "128, 64 or 32, or the format gptq");
  }
}

}  // namespace

std::span<const LegalRow> legal_rows() {
  return kRows;
}

bool ResolvedGrid::needs_calibration() const {
  if (is_trained) return false;
  switch (type) {
    case QuantizationType::kAwq:
    case QuantizationType::kGptq:
    case QuantizationType::kSmoothquant:
      return true;
    case QuantizationType::kFp8:
      return static_fp8;
    case QuantizationType::kRtn:
    case QuantizationType::kNone:
      break;
  }
  return false;
}

ResolvedGrid resolve_grid(const GridOptions& o) {
  const int64_t bits = o.bits.value_or(default_bits(o));
  const ExportFormat format = chosen_format(o, bits);
  check_gguf_type(o, format);
  const auto row = std::find_if(std::begin(kRows), std::end(kRows),
                                [&](const LegalRow& r) { return fits(r, o, format, bits); });
  if (row == std::end(kRows)) {
    refuse(fmt::format("{} is not legal", asked(o, format, bits)), o.type, format);
  }
  QLORA_CHECK(!o.static_fp8 || o.type == Q::kFp8, ConfigError,
              "[export] static_fp8 is true, but quantization_type is {}; it is for fp8",
              name_of(o.type));
  ResolvedGrid grid{.type = o.type,
                    .format = format,
                    .gguf_type = o.gguf_type,
                    .bits = bits,
                    .symmetric = o.symmetric.value_or(row->symmetries[0]),
                    .group_rule = row->group_rule,
                    .group_size = o.group_size,
                    .fixed_group = row->fixed_group,
                    .loader = o.loader,
                    .static_fp8 = o.static_fp8,
                    .static_int8 = o.static_int8,
                    .is_trained = o.is_trained};
  // Q4_0 or Q4_K is for the shapes to say.
  const bool is_open = format == F::kGguf && o.gguf_type == GgufType::kAuto;
  if (is_open && (bits != 4 || o.symmetric)) grid.gguf_type = row->gguf_type;
  check_loader(grid);
  check_group(grid);
  return grid;
}

void check_column_order(const ResolvedGrid& grid, bool desc_act) {
  if (!desc_act || grid.type != Q::kGptq) return;
  QLORA_CHECK(grid.format == F::kGptq || grid.format == F::kGptqV2, ConfigError,
              "[export] desc_act is true, but the format {} holds no order of columns that its "
              "loaders are known to read; choose gptq, or act_group_aware, which needs none",
              name_of(grid.format));
}

quant::AffineOptions affine_options(const ResolvedGrid& grid, int64_t bits, int64_t group_size) {
  using quant::GridRule;
  const bool by_row =
      grid.type == Q::kSmoothquant;  // int8 by row: max / 127, as its kernels assume
  const GridRule rule = !grid.symmetric ? GridRule::kAsymmetric
                        : by_row        ? GridRule::kSymmetric
                                        : GridRule::kSymmetricFull;
  return {.bits = bits,
          .group_size = group_size,
          .rule = rule,
          .scale_type = quant::ScaleType::kF16,
          .least_zero = grid.format == F::kGptq ? 1 : 0};
}

std::string describe(const ResolvedGrid& grid) {
  if (!grid.is_quantized()) return fmt::format("16 bits, {} format", name_of(grid.format));
  return fmt::format("{}, {} bits, {}, {} format",
                     grid.is_trained ? "trained on this grid" : name_of(grid.type), grid.bits,
                     grid.symmetric ? "symmetric" : "asymmetric", name_of(grid.format));
}

std::string legality_text() {
  std::string text = fmt::format("{:<12} {:<19} {:<8} {:<11} {:<16} {}\n", "type", "format", "bits",
                                 "groups are", "group size", "loaders");
  for (const LegalRow& row : kRows) {
    const std::string symmetry =
        row.bits[0] == kUnquantizedBits ? "-" : symmetry_text(row.symmetries);
    text += fmt::format("{:<12} {:<19} {:<8} {:<11} {:<16} {}{}\n", name_of(row.type),
                        format_text(row), fmt::format("{}", fmt::join(row.bits, ",")), symmetry,
                        group_text(row), row.loaders, row.auto_bits.empty() ? "" : " *");
  }
  return text + "* what format auto means" + " (awq: awq at 4 bits, gptq at 8, 3, 2).\n";
}

std::string legality_markdown() {
  std::string text =
      "| type | format | bits | groups are | group size | written by default | what lies in the "
      "files | loaders |\n|---|---|---|---|---|---|---|---|\n";
  for (const LegalRow& row : kRows) {
    const std::string symmetry =
        row.bits[0] == kUnquantizedBits ? "-" : symmetry_text(row.symmetries);
    const std::string automatic =
        row.auto_bits.empty() ? "" : fmt::format("at {} bits", fmt::join(row.auto_bits, ", "));
    text += fmt::format("| {} | {} | {} | {} | {} | {} | {} | {} |\n", name_of(row.type),
                        format_text(row), fmt::join(row.bits, ", "), symmetry, group_text(row),
                        automatic, row.result, row.loaders);
  }
  return text;
}

}  // namespace qlora::exporter
