#include <ATen/ops/cat.h>
#include <ATen/ops/ones.h>
#include <ATen/ops/ones_like.h>
#include <ATen/ops/where.h>

#include "exporter/block_work.h"
#include "exporter/interrupted.h"
#include "quant/affine.h"
#include "quant/awq.h"
#include "quant/linear_statistics.h"
#include "quant/smoothquant.h"

namespace qlora::exporter {

namespace {

using io::LinearSlot;
using torch::Tensor;

/// Statistics at the four sites of the block with its original weights, and the scales by which the
/// inputs there are divided.
struct ScaledSites {
  std::vector<quant::LinearStatistics> statistics;                      // of the undivided inputs
  std::vector<Tensor> scales = std::vector<Tensor>(std::size(kSites));  // undefined: not scaled

  const quant::LinearStatistics& at(Site site) const {
    return statistics[static_cast<size_t>(site)];
  }
  Tensor& scale(Site site) { return scales[static_cast<size_t>(site)]; }
  quant::LinearStatistics divided(Site site) const {
    const Tensor& s = scales[static_cast<size_t>(site)];
    return s.defined() ? at(site).divided_by(s) : at(site);
  }
};

ScaledSites observe(const BlockWork& block, CalibrationPass& pass) {
  ScaledSites sites;
  for (const Site site : kSites) sites.statistics.push_back(pass.advance(block.block, site));
  return sites;
}

std::vector<Tensor> quantized_weights(BlockWork& block, Site site) {
  std::vector<Tensor> weights;
  for (const LinearWork* work : block.at(site)) {
    if (work->grid) weights.push_back(work->weight);
  }
  return weights;
}

/// Divides the norm before a site by s. The norm is written in 16 bits: what its rounding changes
/// comes back through the scale, so that the product of both stays exact.
///   returns   the scale that the weights have to be multiplied by
Tensor fold_into_norm(const BlockWork& block, Tensor& norm, const Tensor& s) {
  const Tensor before = norm;
  norm = block.rounded_norm(before / s);
  const Tensor is_plain = norm != 0;
  return at::where(is_plain, before / at::where(is_plain, norm, at::ones_like(norm)), s);
}

/// Multiplies the columns of all linears at a site.
void multiply_columns(BlockWork& block, Site site, const Tensor& s) {
  for (LinearWork* work : block.at(site)) work->weight = work->weight * s;
}

/// Divides the last rows of a linear, and their bias: all of v or up, or their part of a fused
/// matrix, where they stand last.
void divide_rows(LinearWork& work, const Tensor& s) {
  const int64_t before = work.weight.size(0) - s.size(0);
  const Tensor factors = before == 0 ? s : at::cat({at::ones({before}, s.options()), s});
  work.weight = work.weight / factors.unsqueeze(1);
  // The error of a row counts as much as before: what it feeds is multiplied by s.
  work.original = work.original / factors.unsqueeze(1);
  const Tensor& bias = work.linear->bias();
  if (bias.defined()) {
    *work.linear = lora::LoraLinear(work.linear->name(), work.linear->weight(), bias / factors);
  }
}

void scale_norm_site(BlockWork& block, ScaledSites& sites, Site site, Tensor& norm,
                     const Tensor& s) {
  sites.scale(site) = fold_into_norm(block, norm, s);
  multiply_columns(block, site, sites.scale(site));
}

void note_alpha(BlockWork& block, Site site, double alpha) {
  for (LinearWork* work : block.at(site)) work->report.alpha = alpha;
}

/// Scales for a site, or undefined where none of its weights is quantized.
Tensor awq_site(BlockWork& block, const ScaledSites& sites, Site site,
                const quant::AwqOptions& options) {
  const std::vector<Tensor> weights = quantized_weights(block, site);
  if (weights.empty()) return {};
  const auto* first = block.at(site).front();
  for (const LinearWork* work : block.at(site)) {
    if (work->grid) first = work;
  }
  const quant::AwqScales found = quant::awq_scales(weights, sites.at(site), *first->grid, options);
  note_alpha(block, site, found.alpha);
  return found.scales;
}

/// Where the last `rows` output features of `from` are the inputs of the linears at `site` one by
/// one.
void scale_linear_site(BlockWork& block, ScaledSites& sites, Site site, LinearWork& from,
                       int64_t rows, const quant::AwqOptions& options) {
  if (rows != block.at(site).front()->weight.size(1)) return;
  const Tensor s = awq_site(block, sites, site, options);
  if (!s.defined()) return;
  divide_rows(from, s);
  sites.scale(site) = s;
  multiply_columns(block, site, s);
}

bool has_query_or_key(const LinearWork& work) {
  return work.slot == LinearSlot::kQuery || work.slot == LinearSlot::kKey ||
         work.slot == LinearSlot::kQkv;
}

void round_all(BlockWork& block, const ScaledSites& sites, const quant::AwqOptions* clip) {
  for (const Site site : kSites) {
    const quant::LinearStatistics statistics = sites.divided(site);
    for (LinearWork* work : block.at(site)) {
      check_stop_request();
      const Stopwatch watch;
      if (!work->grid) {
        block.place_plain(*work, sites.scales[static_cast<size_t>(site)]);
        continue;
      }
      Tensor weight = work->weight;
      // Queries and keys multiply each other: cutting their outliers costs more than it shows here.
      if (clip != nullptr && clip->clip && !has_query_or_key(*work)) {
        weight = quant::clipped(weight, quant::awq_clip(weight, statistics, *work->grid, *clip));
      }
      const quant::AffineTensor rounded = quant::quantize_affine(weight, *work->grid);
      work->report.objective_rtn = quant::output_error(
          quant::round_to_grid(work->original, *work->grid) - work->original, sites.at(site));
      work->report.objective =
          quant::output_error(quant::dequantize_affine(rounded) - work->weight, statistics);
      block.place(*work, rounded, sites.scales[static_cast<size_t>(site)]);
      work->report.seconds += watch.seconds();
    }
  }
}

}  // namespace

namespace {

ScaledSites scale_for_awq(BlockWork& block, const ExportOptions& options, CalibrationPass& pass) {
  ScaledSites sites = observe(block, pass);
  const auto scale_norm = [&](Site site, Tensor& norm) {
    const Tensor s = awq_site(block, sites, site, options.awq);
    if (s.defined()) scale_norm_site(block, sites, site, norm, s);
  };
  scale_norm(Site::kAttentionIn, block.block.input_norm);
  const io::HfConfig& c = block.config();
  scale_linear_site(block, sites, Site::kAttentionOut,
                    *block.with(LinearSlot::kValue, LinearSlot::kQkv),
                    c.num_key_value_heads * c.head_dim, options.awq);
  scale_norm(Site::kMlpIn, block.block.attention_norm);
  scale_linear_site(block, sites, Site::kMlpOut, *block.with(LinearSlot::kUp, LinearSlot::kGateUp),
                    c.intermediate_size, options.awq);
  return sites;
}

}  // namespace

void fold_awq_scales(BlockWork& block, const ExportOptions& options, CalibrationPass& pass) {
  const ScaledSites sites = scale_for_awq(block, options, pass);
  // The samples go on through the rounded block, as those of solve_awq; what is written is not.
  model::DecoderBlock rounded = block.block;
  for (auto* linear : rounded.linears()) {
    for (const LinearWork& work : block.linears) {
      if (work.report.module != linear->name()) continue;
      const Tensor weight = work.grid ? quant::round_to_grid(work.weight, *work.grid) : work.weight;
      linear->set_weight(
          lora::FrozenWeight(weight.to(linear->weight().as<Tensor>().scalar_type())));
    }
  }
  for (LinearWork& work : block.linears) {
    block.place_plain(work, sites.scales[static_cast<size_t>(work.site)]);
  }
  pass.run_block(rounded);
}

void solve_awq(BlockWork& block, const ExportOptions& options, CalibrationPass& pass) {
  const ScaledSites sites = scale_for_awq(block, options, pass);
  round_all(block, sites, &options.awq);
  // What follows sees the rounded block: handing on the original's activations instead costs a
  // whole perplexity point on a 135M model (docs/decisions.md).
  pass.run_block(block.block);
}

void solve_smoothquant(BlockWork& block, const ExportOptions& options, CalibrationPass& pass) {
  ScaledSites sites = observe(block, pass);
  const auto smooth = [&](Site site, Tensor& norm) {
    const std::vector<Tensor> weights = quantized_weights(block, site);
    if (weights.empty()) return;
    scale_norm_site(
        block, sites, site, norm,
        quant::smoothquant_scales(weights, sites.at(site), options.grid.smoothquant_alpha));
    note_alpha(block, site, options.grid.smoothquant_alpha);
  };
  smooth(Site::kAttentionIn, block.block.input_norm);
  smooth(Site::kMlpIn, block.block.attention_norm);
  round_all(block, sites, nullptr);
  pass.run_block(block.block);
}

}  // namespace qlora::exporter
