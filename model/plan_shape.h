#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/hf_config.h"
#include "io/quantization_config.h"
#include "lora/lora_options.h"
#include "quant/nf4_options.h"

namespace qlora::model {

enum class PlanDevice { kCpu, kCuda };
enum class OptimizerStates { k8bit, k32bit };

/// Rows that go through the model together; they do not see each other and are not padded.
struct MicroBatch {
  int64_t rows = 1;
  int64_t tokens = 0;         // T, of all rows
  int64_t longest_row = 0;    // tokens
  int64_t target_tokens = 0;  // of these, learnt
};

/// What decides how much memory a training run takes. It comes from config.json and the run's
/// configuration alone: nothing is loaded.
struct PlanShape {
  io::HfConfig config;
  std::optional<io::QuantizedForm> quantized;  // a base that comes in few bits stays so
  bool load_in_4bit = true;
  quant::Nf4Options four_bit;
  lora::LoraOptions lora;
  std::vector<int64_t> held_groups;  // of each matrix whose grid is kept between steps
  bool learns_scales = false;        // one for each of these groups
  int64_t compute_bytes = 2;         // e, of a number of the compute type: 2 or 4
  MicroBatch train;                  // the largest of the run
  MicroBatch evaluation;             // the same; no tokens: the run evaluates nothing
  bool uneven_batches = false;       // micro-batches of the run differ in size
  bool gradient_checkpointing = false;
  bool activation_offloading = false;  // what checkpointing keeps waits in pinned host memory
  OptimizerStates states = OptimizerStates::k8bit;
  PlanDevice device = PlanDevice::kCpu;
};

/// One linear of a decoder block. [N, K]
struct PlannedLinear {
  std::string module;  // "model.layers.0.mlp.up_proj"
  int64_t rows = 0;    // N
  int64_t cols = 0;    // K
  int64_t rank = 0;    // R of its adapter; 0: it has none
};

/// All linears, block by block, with the adapters that the options select.
///   throws    ConfigError where target_modules or a pattern matches nothing
std::vector<PlannedLinear> planned_linears(const PlanShape& shape);

/// Parameters of the base, tied weights once.
int64_t base_parameters(const io::HfConfig& config);

/// Parameters of the adapters: the sum of R·(N + K).
int64_t adapter_parameters(const std::vector<PlannedLinear>& linears);

/// All that is trained: these, and scales that are learned.
int64_t trained_parameters(const PlanShape& shape, const std::vector<PlannedLinear>& linears);

/// NF4 or FP4 as it is held: half a byte a weight; a scale for every G weights of 4 bytes, or of 1
/// with 4 more for every 256 scales.
///   Source    Dettmers et al., QLoRA, arXiv:2305.14314, section 3 (0.127 bits at G = 64)
int64_t four_bit_bytes(int64_t weights, const quant::Nf4Options& options);

/// A matrix in 2 to 8 bits with FP16 scales and 8-bit zero points, as quant::PackedAffine holds it.
///   bits      up to 4 take half a byte, 8 a byte
///   group     columns that share a scale; -1: the row
int64_t packed_affine_bytes(int64_t rows, int64_t cols, int64_t bits, int64_t group);

/// The frozen matrices of all blocks, as they are held.
int64_t frozen_matrix_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears);

/// Embedding and, unless tied, head in the compute type; norms and biases in FP32.
int64_t embedding_bytes(const PlanShape& shape);

/// States of AdamW for A and B of every adapter, and for scales that are learned.
///   8 bits    2 bytes a number and 8 for every block of 256; tensors under 4,096 numbers 8 bytes a
///             number
///   32 bits   8 bytes a number
int64_t optimizer_bytes(const PlanShape& shape, const std::vector<PlannedLinear>& linears);

}  // namespace qlora::model
