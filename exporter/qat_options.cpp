#include "exporter/qat_options.h"

#include "core/error.h"
#include "exporter/legality.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Q = QuantizationType;
using A = QatActivations;

/// Section export as it stands, where it has a grid that weights can be rounded to again and again.
GridOptions grid_of_export(const QatOptions& qat, const GridOptions& of_export) {
  const bool sets_own =
      qat.bits || qat.symmetric || qat.group_size != GroupSize::kAuto || !qat.skip_modules.empty();
  QLORA_CHECK(!sets_own, ConfigError,
              "[qat] scheme is export, which takes bits, group_size, symmetric and skip_modules "
              "from section export; set them there");
  const ResolvedGrid grid = resolve_grid(of_export);
  const bool has_grid = grid.is_quantized() && grid.format != F::kGguf && grid.format != F::kNf4;
  QLORA_CHECK(has_grid, ConfigError,
              "[qat] scheme is export, but section export writes {}, whose blocks training does "
              "not round to; allowed: awq, gptq, gptq_v2, compressed-tensors",
              describe(grid));
  QLORA_CHECK(!of_export.quantize_lm_head, ConfigError,
              "[qat] export.quantize_lm_head is true, but training does not round the output "
              "matrix; leave it out");
  QLORA_CHECK(!of_export.static_fp8, ConfigError,
              "[qat] export.static_fp8 is true, which scheme export does not measure; set scheme "
              "fp8 and activations fp8_static");
  return of_export;
}

/// int8 and fp8 name their whole grid: rows of 8 bits around zero. Told in the scheme's word, which
/// the table of legal exports does not have.
void check_row_scheme(const QatOptions& qat, const GridOptions& grid) {
  const bool has_rows = grid.type == Q::kSmoothquant || grid.type == Q::kFp8;
  if (!has_rows || qat.scheme == QatScheme::kExport) return;
  QLORA_CHECK(qat.bits.value_or(8) == 8, ConfigError,
              "[qat] bits is {}, but scheme {} has 8 bits a weight; leave it out", *qat.bits,
              name_of(qat.scheme));
  QLORA_CHECK(qat.symmetric.value_or(true), ConfigError,
              "[qat] symmetric is false, but the rows of scheme {} lie around zero; leave it out",
              name_of(qat.scheme));
  QLORA_CHECK(qat.group_size == GroupSize::kAuto || qat.group_size == GroupSize::kPerRow,
              ConfigError,
              "[qat] group_size is {}, but scheme {} has one scale a row; leave it auto",
              name_of(qat.group_size), name_of(qat.scheme));
}

/// Where the files say what inputs are rounded to, training rounds them alike.
void check_activations(const QatOptions& qat, const GridOptions& grid) {
  if (!qat.activations) return;
  const bool is_int8 = grid.type == Q::kSmoothquant, is_fp8 = grid.type == Q::kFp8;
  const A asked = *qat.activations;
  const bool fits = is_int8  ? asked == A::kInt8 || asked == A::kInt8Static
                    : is_fp8 ? asked == A::kFp8 || asked == A::kFp8Static
                             : asked == A::kNone;
  QLORA_CHECK(fits, ConfigError,
              "[qat] activations is {}, which no format holds beside the weights of scheme {}; "
              "allowed: {}",
              name_of(asked), name_of(qat.scheme),
              is_int8 || qat.scheme == QatScheme::kInt8 ? "int8, int8_static, none"
              : is_fp8                                  ? "fp8, fp8_static"
                                                        : "none");
}

/// start_from is grid_from and more.
void check_start(const QatOptions& qat, const GridOptions& grid) {
  if (qat.start_from.empty()) return;
  QLORA_CHECK(grid.type == Q::kRtn, ConfigError,
              "[qat] start_from is '{}', but scheme {} has no codes that a solver finds; allowed: "
              "int4-gptq, int4-awq",
              qat.start_from, name_of(qat.scheme));
  QLORA_CHECK(qat.grid_from.empty(), ConfigError,
              "[qat] start_from is '{}' and grid_from '{}', but the codes that a run starts from "
              "bring their grid; keep one",
              qat.start_from, qat.grid_from);
  QLORA_CHECK(qat.merge_base == MergeBase::kOriginal, ConfigError,
              "[qat] start_from is '{}' and merge_base {}, but codes are started from over a base "
              "of 16 bits; set merge_base original",
              qat.start_from, name_of(qat.merge_base));
  QLORA_CHECK(qat.start_step == 0, ConfigError,
              "[qat] start_from is '{}' and start_step {}, but weights leave the codes while "
              "nothing is rounded; leave start_step out",
              qat.start_from, qat.start_step);
}

void check_scales(const QatOptions& qat, const GridOptions& grid) {
  check_start(qat, grid);
  QLORA_CHECK(grid.type != Q::kFp8 || !qat.holds_grids(), ConfigError,
              "[qat] scales is {}, refresh_steps {}, grid_from '{}', but fp8 has a floating grid "
              "with the range of each row; leave them out",
              name_of(qat.scales), qat.refresh_steps, qat.given_grid());
  QLORA_CHECK(qat.refresh_steps == 0 || !qat.learns_scales(), ConfigError,
              "[qat] refresh_steps is {}, but learned scales are trained, not fitted anew; leave "
              "it out",
              qat.refresh_steps);
  QLORA_CHECK(qat.refresh_steps == 0 || qat.given_grid().empty(), ConfigError,
              "[qat] refresh_steps is {}, but grid_from or start_from gives the grid; keep one",
              qat.refresh_steps);
  QLORA_CHECK(qat.given_grid().empty() || qat.scales != QatScales::kClip, ConfigError,
              "[qat] scales is clip, but grid_from or start_from gives the grid; keep one");
  QLORA_CHECK(!qat.awq_scales || (grid.type != Q::kFp8 && grid.type != Q::kSmoothquant),
              ConfigError,
              "[qat] awq_scales is true, but scheme {} rounds whole rows, for which AWQ has no "
              "scales; leave it out",
              name_of(qat.scheme));
  QLORA_CHECK(
      !qat.awq_scales || qat.given_grid().empty() || qat.start_from == kStartFromGptq, ConfigError,
      "[qat] awq_scales is true, but the grid of {} is of weights that are not scaled; keep "
      "one, or start_from gptq, which solves the scaled ones",
      qat.given_grid());
}

}  // namespace

GridOptions qat_grid(const QatOptions& qat, const GridOptions& of_export) {
  GridOptions grid{.bits = qat.bits,
                   .group_size = qat.group_size,
                   .symmetric = qat.symmetric,
                   .skip_modules = qat.skip_modules};
  switch (qat.scheme) {
    case QatScheme::kNone:
      throw ConfigError("[qat] scheme is none, so there is no grid to train on; choose int4-awq");
    case QatScheme::kInt4Awq:
      grid.type = Q::kRtn;
      grid.format = F::kAwq;
      break;
    case QatScheme::kInt4Gptq:
      grid.type = Q::kRtn;
      grid.format = F::kGptq;
      break;
    case QatScheme::kInt8:
      grid.type = Q::kSmoothquant;  // its files: int8 weights and activations
      if (qat.activations == A::kNone) {
        grid.type = Q::kRtn;
        grid.format = F::kCompressedTensors;
        if (!grid.bits) grid.bits = 8;
      }
      break;
    case QatScheme::kFp8:
      grid.type = Q::kFp8;
      grid.static_fp8 = qat.activations == A::kFp8Static;
      break;
    case QatScheme::kExport:
      grid = grid_of_export(qat, of_export);
      break;
  }
  check_row_scheme(qat, grid);
  resolve_grid(grid);
  check_activations(qat, grid);
  check_scales(qat, grid);
  grid.static_int8 = grid.type == Q::kSmoothquant && qat.activations == A::kInt8Static;
  grid.is_trained = true;
  return grid;
}

}  // namespace qlora::exporter
