#include <ATen/ops/full.h>

#include "core/clock.h"
#include "core/error.h"
#include "exporter/block_work.h"
#include "exporter/interrupted.h"
#include "lora/rounded_weight.h"

namespace qlora::exporter {
namespace {

torch::Tensor trained_input_scale(const std::string& module, const lora::LinearGrid& grid) {
  QLORA_CHECK(grid.observer->is_ready(), FormatError,
              "[export] the run's observer of {} has seen no inputs; train at least one step after "
              "qat.start_step",
              module);
  return at::full({1}, grid.observer->scale(), torch::TensorOptions(torch::kFloat32));
}

void place_fp8(BlockWork& block, LinearWork& work, const lora::LinearGrid& grid) {
  quant::Fp8Tensor rounded = lora::fp8_on_grid(work.weight, grid);
  if (grid.observer != nullptr) {
    rounded.input_scale = trained_input_scale(work.report.module, grid);
  }
  block.place(work, rounded);
}

void place_affine(BlockWork& block, LinearWork& work, const lora::LinearGrid& grid) {
  block.place(work, lora::affine_on_grid(work.weight, grid));
  if (grid.observer != nullptr) {
    block.add_input_scale(work, trained_input_scale(work.report.module, grid));
  }
}

}  // namespace

void solve_trained(BlockWork& block, const TrainedGrids& grids) {
  for (LinearWork& work : block.linears) {
    check_stop_request();
    const Stopwatch watch;
    const auto found = grids.find(work.report.module);
    if (found == grids.end()) {
      block.place_plain(work);
    } else if (std::holds_alternative<lora::Fp8Grid>(found->second.weight)) {
      place_fp8(block, work, found->second);
    } else {
      place_affine(block, work, found->second);
    }
    work.report.seconds = watch.seconds();
  }
}

}  // namespace qlora::exporter
