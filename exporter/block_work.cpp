#include "exporter/block_work.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "quant/layouts.h"

namespace qlora::exporter {

namespace {

using torch::Tensor;

std::optional<quant::AffineOptions> grid_of(const Preflight& preflight, const std::string& module) {
  const ModuleGrid& grid = preflight.at(module);
  if (!grid.is_quantized()) return std::nullopt;
  return affine_options(preflight.grid, grid.bits, grid.group_size);
}

}  // namespace

BlockWork::BlockWork(int64_t block_index, const model::BlockLoader& loader,
                     const MergedWeights& weights, const Preflight& preflight,
                     const quant::Nf4Options& four_bit, torch::ScalarType dtype)
    : index(block_index),
      block(loader.block_without_weights(block_index)),
      config_(loader.config()),
      format_(preflight.grid.format),
      four_bit_(four_bit),
      dtype_(dtype),
      compute_dtype_(loader.compute_dtype()) {
  for (const auto& [name, norm] : norms()) *norm = rounded_norm(*norm);
  const auto slots = io::block_linears(config_, index);
  const auto members = block.linears();
  for (size_t i = 0; i < members.size(); ++i) {
    const std::string& module = members[i]->name();
    LinearWork work{.linear = members[i],
                    .slot = slots[i].slot,
                    .site = site_of(slots[i].slot),
                    .original = weights.weight(module),
                    .weight = {},
                    .grid = grid_of(preflight, module),
                    .report = {.module = module}};
    QLORA_CHECK(work.original.isfinite().all().item<bool>(), ValueError,
                "[export] {}.weight holds numbers that are not finite; the checkpoint or the "
                "adapter is damaged",
                module);
    work.weight = work.original;
    work.report.rows = work.original.size(0);
    work.report.cols = work.original.size(1);
    const Tensor change = weights.change(module);
    if (change.defined()) work.report.adapter_change = std::sqrt(mean_square(change));
    members[i]->set_weight(lora::FrozenWeight(work.original.to(compute_dtype_)));
    linears.push_back(std::move(work));
  }
}

std::vector<LinearWork*> BlockWork::at(Site site) {
  std::vector<LinearWork*> found;
  for (LinearWork& work : linears) {
    if (work.site == site) found.push_back(&work);
  }
  return found;
}

LinearWork* BlockWork::with(io::LinearSlot slot, io::LinearSlot fused) {
  const auto found = std::find_if(linears.begin(), linears.end(), [&](const LinearWork& work) {
    return work.slot == slot || work.slot == fused;
  });
  return found == linears.end() ? nullptr : &*found;
}

std::vector<std::pair<std::string, Tensor*>> BlockWork::norms() {
  const io::BlockNorms names = io::block_norms(config_, index);
  std::vector<std::pair<std::string, Tensor*>> all;
  for (const auto& [name, norm] : {std::pair(names.input, &block.input_norm),
                                   {names.query, &block.query_norm},
                                   {names.key, &block.key_norm},
                                   {names.attention_out, &block.attention_out_norm},
                                   {names.mlp_input, &block.attention_norm},
                                   {names.mlp_out, &block.mlp_out_norm}}) {
    if (!name.empty()) all.emplace_back(name + ".weight", norm);
  }
  return all;
}

void BlockWork::add(const std::string& name, const Tensor& tensor) {
  result_.tensors.push_back({name, tensor.contiguous()});
}

void BlockWork::place_dense(LinearWork& work, const Tensor& dense, const Tensor& input_scale) {
  work.linear->set_weight(lora::FrozenWeight(dense.to(compute_dtype_)));
  const Tensor as_original = input_scale.defined() ? dense / input_scale : dense;
  set_rounding_error(work.original, as_original, work.report);
  work.report.weight_sha256 = weight_hash(dense);
}

void BlockWork::place(LinearWork& work, const quant::AffineTensor& rounded,
                      const Tensor& input_scale) {
  place_dense(work, quant::dequantize_affine(rounded), input_scale);
  work.report.bits = rounded.options.bits;
  work.report.group_size = rounded.cols() / rounded.groups();
  work.report.adapter_change /= std::sqrt(mean_square(rounded.scales));
  for (const auto& [suffix, tensor] : pack_affine(format_, rounded)) {
    add(work.report.module + "." + suffix, tensor);
  }
}

void BlockWork::place(LinearWork& work, const quant::Fp8Tensor& rounded) {
  const Tensor dense = quant::dequantize_fp8(rounded);
  place_dense(work, dense, {});
  work.report.bits = 8;
  // E4M3 has no one step: half of what rounding moved is what a change is held against.
  const double error = std::sqrt(work.report.mse * 12);
  work.report.adapter_change = error > 0 ? work.report.adapter_change / error : 0;
  for (const auto& [suffix, tensor] : quant::to_float_quantized(rounded)) {
    add(work.report.module + "." + suffix, tensor);
  }
}

void BlockWork::add_input_scale(const LinearWork& work, const Tensor& scale) {
  add(work.report.module + ".input_scale", scale.to(torch::kFloat16));
}

void BlockWork::place_nf4(LinearWork& work) {
  const quant::Nf4Tensor rounded = quant::quantize_nf4(work.weight, four_bit_);
  const Tensor dense = quant::dequantize_nf4(rounded, torch::kFloat32);
  place_dense(work, dense, {});
  work.report.bits = 4;
  work.report.group_size = rounded.block_size;
  work.report.adapter_change = 0;
  for (const auto& [name, tensor] : rounded.to_tensors(work.report.module + ".weight")) {
    add(name, tensor);
  }
}

void BlockWork::place_plain(LinearWork& work, const Tensor& input_scale) {
  const Tensor rounded = checked_16bit(work.weight, work.report.module + ".weight");
  place_dense(work, rounded.to(torch::kFloat32), input_scale);
  work.report.bits = kUnquantizedBits;
  work.report.adapter_change = 0;
  add(work.report.module + ".weight", rounded);
}

Tensor BlockWork::checked_16bit(const Tensor& values, const std::string& name) const {
  const Tensor rounded = values.to(dtype_);
  QLORA_CHECK(rounded.isfinite().all().item<bool>(), ValueError,
              "[export] {} holds {}, which {} cannot hold; export in a format of bfloat16 (hf)",
              name, values.abs().max().item<float>(), c10::toString(dtype_));
  return rounded;
}

Tensor BlockWork::rounded_norm(const Tensor& norm) const {
  const double offset = block.shape.norm_offset;
  const Tensor stored = offset == 0 ? norm : norm - offset;
  const Tensor rounded =
      checked_16bit(stored, fmt::format("a norm of block {}", index)).to(torch::kFloat32);
  return offset == 0 ? rounded : rounded + offset;
}

QuantizedBlock BlockWork::finish() {
  for (const auto& [name, norm] : norms()) add(name, (*norm - block.shape.norm_offset).to(dtype_));
  if (block.router.defined()) {
    const std::string name = io::router_name(config_, index) + ".weight";
    add(name, checked_16bit(block.router, name));
  }
  for (LinearWork& work : linears) {
    const Tensor& bias = work.linear->bias();
    const std::string name = work.report.module + ".bias";
    if (bias.defined()) add(name, checked_16bit(bias, name));
    result_.linears.push_back(work.report);
  }
  result_.seconds = watch_.seconds();
  return std::move(result_);
}

}  // namespace qlora::exporter
