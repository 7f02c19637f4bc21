#include "exporter/calibration_pass.h"

#include <ATen/core/grad_mode.h>

#include "core/error.h"
#include "exporter/interrupted.h"
#include "exporter/statistics_sum.h"
#include "model/token_pass.h"

namespace qlora::exporter {

namespace {

int64_t total_rows(const std::vector<TokenBatch>& batches) {
  int64_t rows = 0;
  for (const auto& batch : batches) {
    rows += static_cast<int64_t>(model::rounded_up(batch).tokens.size());
  }
  return rows;
}

/// The input of a block; the next block's lies in the other file.
const char* hidden_name(int64_t block) {
  return block % 2 == 0 ? "hidden-0.bin" : "hidden-1.bin";
}

int64_t site_width(const io::HfConfig& config, Site site) {
  if (site == Site::kAttentionOut) return config.num_attention_heads * config.head_dim;
  return site == Site::kMlpOut ? config.intermediate_size : config.hidden_size;
}

}  // namespace

Site site_of(io::LinearSlot slot) {
  switch (slot) {
    case io::LinearSlot::kQuery:
    case io::LinearSlot::kKey:
    case io::LinearSlot::kValue:
    case io::LinearSlot::kQkv:
      return Site::kAttentionIn;
    case io::LinearSlot::kOutput:
      return Site::kAttentionOut;
    case io::LinearSlot::kGate:
    case io::LinearSlot::kUp:
    case io::LinearSlot::kGateUp:
      return Site::kMlpIn;
    case io::LinearSlot::kDown:
      break;
  }
  return Site::kMlpOut;
}

std::string site_name(const io::HfConfig& config, int64_t block, Site site) {
  std::string names;
  for (const io::BlockLinear& linear : io::block_linears(config, block)) {
    if (site_of(linear.slot) != site) continue;
    names += names.empty() ? linear.name : ", " + linear.name.substr(linear.name.rfind('.') + 1);
  }
  return names;
}

std::vector<CalibrationPass::Batch> CalibrationPass::make_batches(const CalibrationSet& set) {
  std::vector<Batch> batches;
  int64_t begin = 0;
  for (const TokenBatch& tokens : set.batches) {
    Batch batch{.tokens = model::rounded_up(tokens),
                .begin = begin,
                .valid = static_cast<int64_t>(tokens.tokens.size())};
    begin += batch.rows();
    batches.push_back(std::move(batch));
  }
  return batches;
}

CalibrationPass::CalibrationPass(const model::BlockLoader& loader, const CalibrationSet& set,
                                 const std::filesystem::path& directory, int64_t first_block)
    : loader_(loader),
      rope_(loader.config()),
      batches_(make_batches(set)),
      rows_(total_rows(set.batches)),
      block_(first_block),
      even_(directory / hidden_name(0), rows_, loader.config().hidden_size, torch::kFloat32),
      odd_(directory / hidden_name(1), rows_, loader.config().hidden_size, torch::kFloat32),
      mixed_(directory / "attention.bin", rows_, site_width(loader.config(), Site::kAttentionOut),
             loader.compute_dtype()),
      gated_(directory / "mlp.bin", rows_, site_width(loader.config(), Site::kMlpOut),
             loader.compute_dtype()) {
  if (first_block > 0) return;
  const torch::Tensor embedding = loader.embedding();
  for (const Batch& batch : batches_) {
    input().write(batch.begin, model::embed_tokens(embedding, batch.tokens.tokens,
                                                   loader.config().arch.embedding_scale));
  }
}

model::PassLayout CalibrationPass::layout(const Batch& batch) const {
  return model::pass_layout(batch.tokens, rope_, loader_.compute_dtype());
}

torch::Tensor CalibrationPass::site_input(const model::DecoderBlock& block, Site site,
                                          const Batch& batch) {
  const model::PassLayout pass = layout(batch);
  const auto hidden = [&](ActivationFile& file) { return file.read(batch.begin, batch.rows()); };
  switch (site) {
    case Site::kAttentionIn:
      return block.attention_input(hidden(input()), pass);
    case Site::kAttentionOut: {
      const auto mixed = block.attention_mix(block.attention_input(hidden(input()), pass), pass);
      mixed_.write(batch.begin, mixed.contiguous());
      return mixed;
    }
    case Site::kMlpIn: {
      const auto h = block.add_attention(hidden(input()), hidden(mixed_), pass);
      output().write(batch.begin, h);
      return block.mlp_input(h, pass);
    }
    case Site::kMlpOut: {
      const auto gated = block.mlp_mix(block.mlp_input(hidden(output()), pass), pass);
      gated_.write(batch.begin, gated.contiguous());
      return gated;
    }
  }
  return {};
}

quant::LinearStatistics CalibrationPass::advance(const model::DecoderBlock& block, Site site) {
  const at::NoGradGuard no_graph;
  StatisticsSum sum(site_width(loader_.config(), site));
  for (const Batch& batch : batches_) {
    check_stop_request();
    sum.add(site_input(block, site, batch).narrow(0, 0, batch.valid));
  }
  return sum.result(site_name(loader_.config(), block_, site));
}

void CalibrationPass::finish_block(const model::DecoderBlock& block) {
  const at::NoGradGuard no_graph;
  for (const Batch& batch : batches_) {
    check_stop_request();
    const auto h = output().read(batch.begin, batch.rows());
    const auto gated = gated_.read(batch.begin, batch.rows());
    output().write(batch.begin, block.add_mlp(h, gated, layout(batch)));
  }
}

void CalibrationPass::run_block(const model::DecoderBlock& block) {
  const at::NoGradGuard no_graph;
  for (const Batch& batch : batches_) {
    check_stop_request();
    const auto h = input().read(batch.begin, batch.rows());
    output().write(batch.begin, block.forward(h, layout(batch)));
  }
}

bool CalibrationPass::has_input(const std::filesystem::path& directory, int64_t block,
                                const CalibrationSet& set, int64_t width) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(directory / hidden_name(block), error);
  return !error && bytes == sizeof(float) * static_cast<uint64_t>(total_rows(set.batches) * width);
}

void CalibrationPass::next_block() {
  output().sync();
  ++block_;
}

}  // namespace qlora::exporter
