#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "exporter/export_options.h"
#include "quant/affine_options.h"

namespace qlora::exporter {

inline constexpr int64_t kUnquantizedBits = 16;

/// What a group size may be in one row of the table.
enum class GroupRule {
  kChosen,  // 128, 64, 32, or -1 where a loader is named
  kRow,     // one scale a row (or a matrix): the option has to be auto or -1
  kFixed,   // the format's own blocks: the option has to be auto or their size
};

/// One row of the table of legal combinations.
struct LegalRow {
  QuantizationType type;
  ExportFormat format;
  GgufType gguf_type;                // kAuto outside gguf
  std::span<const int64_t> bits;     // 16: not quantized
  std::span<const bool> symmetries;  // the first is the default
  GroupRule group_rule;
  int64_t fixed_group;                 // kFixed: columns of a block
  std::span<const int64_t> auto_bits;  // bits at which `format: auto` means this row
  const char* result;                  // for people: what lies in the files
  const char* loaders;                 // who reads it
};

std::span<const LegalRow> legal_rows();

/// A combination that is legal, nothing left open but the group size, which needs shapes.
struct ResolvedGrid {
  QuantizationType type = QuantizationType::kAwq;
  ExportFormat format = ExportFormat::kAwq;
  GgufType gguf_type = GgufType::kAuto;  // set where format is kGguf
  int64_t bits = 4;                      // kUnquantizedBits: not quantized
  bool symmetric = false;
  GroupRule group_rule = GroupRule::kChosen;
  GroupSize group_size = GroupSize::kAuto;  // as asked for; exporter/preflight.h decides auto
  int64_t fixed_group = 0;
  Loader loader = Loader::kAny;
  bool static_fp8 = false;
  bool static_int8 = false;
  bool is_trained = false;  // rounding to nearest gives what was trained: no solver, no calibration

  bool is_quantized() const { return bits != kUnquantizedBits; }
  bool quantizes_activations() const {
    return type == QuantizationType::kSmoothquant || type == QuantizationType::kFp8;
  }
  /// True where the solver looks at activations of samples.
  bool needs_calibration() const;
};

/// Decides what `auto` and unset options mean.
///   throws    ConfigError for a combination that is not in the table, with those of it that are
///             nearest; for -1 without a loader; for a loader that does not read the format
ResolvedGrid resolve_grid(const GridOptions& options);

/// throws ConfigError where columns are to be taken by falling importance (desc_act) and the format
/// cannot hold their order
void check_column_order(const ResolvedGrid& grid, bool desc_act);

/// The grid that solvers round to, in the rule and scale type that the format can hold.
///   Requires  an integer format (not fp8, hf, nf4 or gguf); group_size as preflight decided it
quant::AffineOptions affine_options(const ResolvedGrid& grid, int64_t bits, int64_t group_size);

/// "awq, 4 bits, asymmetric, awq format": for logs, cards and messages.
std::string describe(const ResolvedGrid& grid);

/// The table for `--help` (plain text) and for docs/export.md (markdown).
std::string legality_text();
std::string legality_markdown();

/// The first name of an enumeration's value.
template <class E>
const char* name_of(E value) {
  for (const auto& [known, name] : EnumNames<E>::kNames) {
    if (known == value) return name;
  }
  return "?";
}

}  // namespace qlora::exporter
