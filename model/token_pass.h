#pragma once

#include <torch/types.h>

#include <cstdint>
#include <vector>

#include "core/token_batch.h"
#include "model/decoder_block.h"

namespace qlora::model {

/// throws ShapeError unless there are as many targets as tokens and the starts rise from 0 to the
///        number of tokens
void check_segments(const TokenBatch& batch);

/// Appends segments without targets, so that the number of tokens is a multiple of 32: the
/// products' code is made for each new number of rows and kept. The added tokens are seen by no
/// other and their gradients are zero. They repeat the batch's beginning, so that what observes
/// activations sees none that the data do not give.
TokenBatch rounded_up(TokenBatch batch);

/// Rows of the embedding [V, C], times scale.  [T, C] f32
///   throws    ValueError for a token outside the vocabulary, with its position
torch::Tensor embed_tokens(const torch::Tensor& embedding, const std::vector<int32_t>& tokens,
                           double scale = 1);

/// What the blocks share in a pass without dropout.
PassLayout pass_layout(const TokenBatch& batch, const RopeTables& rope, torch::ScalarType dtype);

}  // namespace qlora::model
