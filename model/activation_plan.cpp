#include "model/activation_plan.h"

#include <algorithm>
#include <bit>

#include "model/cross_entropy_backend.h"
#include "quant/tiled_products_backend.h"

namespace qlora::model {
namespace {

constexpr int64_t kRowStep = 32;          // model/token_pass.cpp, model/loss_head.cpp
constexpr int64_t kQueryBlock = 256;      // model/attention.cpp
constexpr int64_t kScoreBytes = 8 << 20;  // the same

int64_t rounded(int64_t tokens) {
  return (tokens + kRowStep - 1) / kRowStep * kRowStep;
}

int64_t logit_rows(const PlanShape& shape, int64_t targets) {
  const int64_t row_bytes = shape.config.vocab_size * shape.compute_bytes;
  const bool is_cpu = shape.device == PlanDevice::kCpu;
  const int64_t chunk_bytes = is_cpu ? kLogitChunkBytes : kDeviceLogitChunkBytes;
  const int64_t chunk = std::max(kRowStep, chunk_bytes / row_bytes / kRowStep * kRowStep);
  return std::min(chunk, rounded(targets));
}

}  // namespace

int64_t stream_bytes(const PlanShape& shape, const MicroBatch& batch) {
  return 4 * rounded(batch.tokens) * shape.config.hidden_size;
}

std::vector<BlockAdapters> block_adapters(const PlanShape& shape,
                                          const std::vector<PlannedLinear>& linears) {
  const auto blocks = static_cast<size_t>(shape.config.num_hidden_layers);
  const size_t per_block = linears.size() / blocks;
  std::vector<BlockAdapters> all(blocks);
  for (size_t i = 0; i < linears.size(); ++i) {
    BlockAdapters& block = all[i / per_block];
    block.ranks += linears[i].rank;
    block.parameters += linears[i].rank * (linears[i].rows + linears[i].cols);
  }
  return all;
}

BlockActivations block_activations(const PlanShape& shape, const MicroBatch& batch,
                                   const BlockAdapters& adapters) {
  const io::HfConfig& c = shape.config;
  const int64_t t = rounded(batch.tokens), e = shape.compute_bytes;
  const int64_t width = c.hidden_size, mlp = c.intermediate_size, heads = c.num_attention_heads;
  const int64_t q = heads * c.head_dim, kv = c.num_key_value_heads * c.head_dim;

  BlockActivations bytes;
  const int64_t single = 8 * width + 8 + 4 * heads;
  const int64_t typed = 2 * width + 2 * q + 2 * kv + 3 * mlp + adapters.ranks;
  bytes.kept = t * (single + e * typed) + e * adapters.parameters;

  // The gradient of the residual stream lives through the whole block. When the attention's turn
  // comes, what the MLP kept is gone.
  const int64_t stream = 4 * width;
  const int64_t mlp_backward = e * std::max(2 * mlp, width + mlp);
  const int64_t mlp_kept = e * (3 * mlp + width) + stream;
  const int64_t attention_backward = e * (2 * q + 4 * kv) + 8 * kv - mlp_kept;
  bytes.backward = t * (stream + std::max(mlp_backward, attention_backward));

  const int64_t mlp_forward = e * (width + 3 * mlp);
  const int64_t attention_forward = e * (width + 2 * q + 4 * kv);
  bytes.forward = t * (2 * stream + std::max(mlp_forward, attention_forward));
  return bytes;
}

int64_t attention_workspace(const PlanShape& shape, const MicroBatch& batch) {
  const io::HfConfig& c = shape.config;
  const int64_t length = rounded(batch.longest_row), e = shape.compute_bytes;
  const int64_t row_scores =
      c.num_attention_heads * length * std::min(length, kQueryBlock) * e;  // of one sequence
  const int64_t fitting = std::max<int64_t>(1, kScoreBytes / std::max<int64_t>(1, row_scores));
  const auto together = static_cast<int64_t>(
      std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(1, std::min(batch.rows, fitting)))));
  return 2 * together * row_scores;
}

int64_t logits_bytes(const PlanShape& shape, const MicroBatch& batch) {
  return logit_rows(shape, batch.target_tokens) * shape.config.vocab_size * shape.compute_bytes;
}

int64_t loss_head_bytes(const PlanShape& shape, const MicroBatch& batch) {
  const int64_t width = shape.config.hidden_size, e = shape.compute_bytes;
  const int64_t hidden = rounded(batch.tokens) * width * (4 + e);  // residual stream, its norm
  const int64_t targets = rounded(batch.target_tokens) * width * (2 * e + 4);
  const int64_t chunk = logit_rows(shape, batch.target_tokens) * width * e;
  return hidden + targets + chunk + logits_bytes(shape, batch);
}

int64_t decode_tile_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears) {
  if (!shape.load_in_4bit && !shape.quantized) return 0;  // used as it is held
  if (shape.device == PlanDevice::kCuda) return quant::kTileMemoryBytes;
  int64_t largest = 0;
  for (const PlannedLinear& l : linears) largest = std::max(largest, l.rows * l.cols);
  return largest * shape.compute_bytes;
}

}  // namespace qlora::model
