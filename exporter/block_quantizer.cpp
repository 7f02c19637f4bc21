#include "exporter/block_quantizer.h"

#include <cassert>
#include <cmath>
#include <nlohmann/json.hpp>

#include "exporter/block_work.h"
#include "io/sha256.h"
#include "quant/layouts.h"

namespace qlora::exporter {

nlohmann::json to_json(const LinearReport& r) {
  return {{"module", r.module},
          {"rows", r.rows},
          {"cols", r.cols},
          {"bits", r.bits},
          {"group_size", r.group_size},
          {"mse", r.mse},
          {"sqnr_db", r.sqnr_db},
          {"objective_rtn", r.objective_rtn},
          {"objective", r.objective},
          {"damp_percent", r.damp_percent},
          {"damp_increases", r.damp_increases},
          {"fallback", r.fallback},
          {"dead_columns", r.dead_columns},
          {"alpha", r.alpha},
          {"adapter_change", r.adapter_change},
          {"seconds", r.seconds},
          {"weight_sha256", r.weight_sha256}};
}

LinearReport linear_report_from_json(const nlohmann::json& j) {
  LinearReport r;
  j.at("module").get_to(r.module);
  j.at("rows").get_to(r.rows);
  j.at("cols").get_to(r.cols);
  j.at("bits").get_to(r.bits);
  j.at("group_size").get_to(r.group_size);
  j.at("mse").get_to(r.mse);
  j.at("sqnr_db").get_to(r.sqnr_db);
  j.at("objective_rtn").get_to(r.objective_rtn);
  j.at("objective").get_to(r.objective);
  j.at("damp_percent").get_to(r.damp_percent);
  j.at("damp_increases").get_to(r.damp_increases);
  j.at("fallback").get_to(r.fallback);
  j.at("dead_columns").get_to(r.dead_columns);
  j.at("alpha").get_to(r.alpha);
  j.at("adapter_change").get_to(r.adapter_change);
  j.at("seconds").get_to(r.seconds);
  j.at("weight_sha256").get_to(r.weight_sha256);
  return r;
}

double mean_square(const torch::Tensor& values) {
  return values.to(torch::kFloat64).square().mean().item<double>();
}

void set_rounding_error(const torch::Tensor& original, const torch::Tensor& rounded,
                        LinearReport& report) {
  report.mse = mean_square(rounded - original);
  report.sqnr_db = report.mse > 0 ? 10 * std::log10(mean_square(original) / report.mse) : 0;
}

std::string weight_hash(const torch::Tensor& weight) {
  const torch::Tensor floats = weight.to(torch::kFloat32).contiguous();
  return io::sha256_hex({static_cast<const std::byte*>(floats.const_data_ptr()), floats.nbytes()});
}

quant::TensorMap pack_affine(ExportFormat format, const quant::AffineTensor& rounded) {
  switch (format) {
    case ExportFormat::kAwq:
      return quant::to_awq_gemm(rounded);
    case ExportFormat::kGptq:
      return quant::to_gptq(rounded, quant::GptqFormat::kV1);
    case ExportFormat::kGptqV2:
      return quant::to_gptq(rounded, quant::GptqFormat::kV2);
    case ExportFormat::kCompressedTensors:
      break;
    default:
      assert(false && "the table of legal combinations lets no other format here");
  }
  const bool is_w8a8 = rounded.options.bits == 8 && rounded.groups() == 1;
  return quant::to_compressed_tensors(rounded, is_w8a8 ? quant::CompressedFormat::kIntQuantized
                                                       : quant::CompressedFormat::kPackQuantized);
}

BlockQuantizer::BlockQuantizer(const Preflight& preflight, const ExportOptions& options,
                               const quant::Nf4Options& four_bit, torch::ScalarType dtype,
                               const TrainedGrids& trained, const CopyPurpose& copy)
    : preflight_(preflight),
      options_(options),
      four_bit_(four_bit),
      dtype_(dtype),
      trained_(trained),
      copy_(copy) {}

QuantizedBlock BlockQuantizer::solve(int64_t index, const model::BlockLoader& loader,
                                     const MergedWeights& weights, CalibrationPass* pass) const {
  if (copy_.awq_grid != nullptr) {
    BlockWork scaled(index, loader, weights, *copy_.awq_grid, four_bit_, dtype_);
    fold_awq_scales(scaled, options_, *pass);
    return scaled.finish();
  }
  BlockWork work(index, loader, weights, preflight_, four_bit_, dtype_);
  if (copy_.start != nullptr) {
    move_into_cells(work, *copy_.start);
    return work.finish();
  }
  const QuantizationType type = preflight_.grid.type;
  if (preflight_.grid.is_trained) {
    solve_trained(work, trained_);
  } else if (!preflight_.grid.needs_calibration()) {
    solve_plain(work, preflight_.grid);
  } else if (type == QuantizationType::kGptq) {
    solve_gptq(work, options_, *pass);
  } else if (type == QuantizationType::kAwq) {
    solve_awq(work, options_, *pass);
  } else if (type == QuantizationType::kSmoothquant) {
    solve_smoothquant(work, options_, *pass);
  } else {
    solve_static_fp8(work, *pass);
  }
  return work.finish();
}

}  // namespace qlora::exporter
