#pragma once

#include <torch/types.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "model/block_loader.h"

namespace qlora::model {

/// Gives block `index` of a model, with whatever weights are to be tried.
using BlockSource = std::function<DecoderBlock(int64_t index)>;

/// Activations after the last block and the final norm, walking the blocks one at a time: a model
/// larger than memory can be measured.
///   loader    gives embedding, final norm, positions and the number of blocks
///   blocks    each asked for once, in order
///   batches   activations of all of them are held: 4 C bytes a token
///   label     names the work on the live line, which appears after 2 seconds
///   kv        what attention reads is rounded as an engine's cache does
///   returns   [T, C] in the compute dtype, the tokens of all batches one after another; no graph
torch::Tensor streamed_hidden_states(const BlockLoader& loader, const BlockSource& blocks,
                                     const std::vector<TokenBatch>& batches, RunLog& log,
                                     const std::string& label, KvRounding kv = KvRounding::kNone);

}  // namespace qlora::model
