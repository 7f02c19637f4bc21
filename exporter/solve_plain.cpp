#include <ATen/ops/full.h>

#include "exporter/block_work.h"
#include "exporter/interrupted.h"
#include "quant/affine.h"
#include "quant/affine_math.h"
#include "quant/fp8.h"

namespace qlora::exporter {

namespace {

constexpr float kLargestE4m3 = 448;

/// One scale for all inputs of a site: the largest one seen becomes the largest number of E4M3.
torch::Tensor input_scale(const quant::LinearStatistics& statistics, quant::ScaleType type) {
  const float most = statistics.abs_max.max().item<float>();
  return at::full({1}, quant::rounded_scale(most / kLargestE4m3, type),
                  torch::TensorOptions(torch::kFloat32));
}

}  // namespace

void solve_plain(BlockWork& block, const ResolvedGrid& grid) {
  for (LinearWork& work : block.linears) {
    check_stop_request();
    const Stopwatch watch;
    if (!work.grid) {
      block.place_plain(work);
    } else if (grid.format == ExportFormat::kNf4) {
      block.place_nf4(work);
    } else if (grid.type == QuantizationType::kFp8) {
      block.place(work,
                  quant::quantize_fp8(work.weight, quant::Fp8Scaling::kRow, work.grid->scale_type));
    } else {
      block.place(work, quant::quantize_affine(work.weight, *work.grid));
    }
    work.report.seconds = watch.seconds();
  }
}

void move_into_cells(BlockWork& block, const StartCodes& start) {
  for (LinearWork& work : block.linears) {
    check_stop_request();
    const Stopwatch watch;
    work.weight = start.moved(work.report.module, work.original);
    block.place_plain(work);
    work.report.seconds = watch.seconds();
  }
}

void solve_static_fp8(BlockWork& block, CalibrationPass& pass) {
  for (const Site site : kSites) {
    const quant::LinearStatistics statistics = pass.advance(block.block, site);
    for (LinearWork* work : block.at(site)) {
      const Stopwatch watch;
      if (!work->grid) {
        block.place_plain(*work);
        continue;
      }
      quant::Fp8Tensor rounded =
          quant::quantize_fp8(work->weight, quant::Fp8Scaling::kTensor, work->grid->scale_type);
      rounded.input_scale = input_scale(statistics, work->grid->scale_type);
      block.place(*work, rounded);
      work->report.seconds = watch.seconds();
    }
  }
  pass.finish_block(block.block);
}

}  // namespace qlora::exporter
