#include "model/memory_plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/text.h"
#include "model/activation_plan.h"

namespace qlora::model {
namespace {

/// On a CPU: 141 MB with tokenizer and data (`qlora train --dry-run` of the quickstart), and what
/// libtorch and oneDNN touch of their code and make of it in the first steps.
constexpr int64_t kCpuProgramBytes = 165'000'000;
/// A CUDA context with libtorch's kernels and cuBLAS's workspace: assumed, not measured.
constexpr int64_t kCudaProgramBytes = 500'000'000;

/// Where micro-batches differ in size, what one has freed seldom fits the next: the quickstart's
/// peak creeps up by this share of its activations in 30 steps.
constexpr double kUnevenShare = 0.2;

/// Block inputs on the device where the others are offloaded: in work, leaving, arriving.
constexpr int64_t kInputsOnDevice = 3;

/// What is held between two steps, and what a step is made of.
struct Pieces {
  std::vector<PlannedLinear> linears;
  int64_t weights = 0, largest = 0;  // of all linears, of one
  int64_t base = 0, embedding = 0, masters = 0, optimizer = 0, program = 0;
  int64_t tile = 0;
  int64_t stream = 0;                            // the residual stream of the micro-batch, T C f32
  int64_t kept = 0;                              // for the backward, by all blocks
  int64_t widest_kept = 0, widest_backward = 0;  // of one block
};

/// What is held beside base and embedding while the run does one thing.
struct Phase {
  PeakPhase phase;
  int64_t adapters = 0, gradients = 0, optimizer = 0;
  int64_t activations = 0, logits = 0, workspace = 0;
  int64_t total() const {
    return adapters + gradients + optimizer + activations + logits + workspace;
  }
};

/// An f32 scale and an 8-bit zero point of each group.
int64_t held_grid_bytes(const PlanShape& shape) {
  return 5 * std::accumulate(shape.held_groups.begin(), shape.held_groups.end(), int64_t{0});
}

Pieces pieces_of(const PlanShape& shape) {
  Pieces p;
  p.linears = planned_linears(shape);
  for (const PlannedLinear& l : p.linears) {
    p.weights += l.rows * l.cols;
    p.largest = std::max(p.largest, l.rows * l.cols);
  }
  p.base = frozen_matrix_bytes(shape, p.linears) + held_grid_bytes(shape);
  p.embedding = embedding_bytes(shape);
  p.masters = 4 * trained_parameters(shape, p.linears);
  p.optimizer = optimizer_bytes(shape, p.linears);
  p.program = program_bytes(shape.device);
  p.tile = decode_tile_bytes(shape, p.linears);
  p.stream = stream_bytes(shape, shape.train);
  for (const BlockAdapters& adapters : block_adapters(shape, p.linears)) {
    const BlockActivations block = block_activations(shape, shape.train, adapters);
    p.kept += shape.gradient_checkpointing ? p.stream : block.kept;
    p.widest_kept = std::max(p.widest_kept, block.kept);
    p.widest_backward = std::max(p.widest_backward, block.backward);
  }
  const bool offloads = shape.gradient_checkpointing && shape.activation_offloading &&
                        shape.device == PlanDevice::kCuda;
  if (offloads) p.kept = std::min(p.kept, kInputsOnDevice * p.stream);
  return p;
}

/// The largest matrix on its way from the file (16 bits, mapped) through FP32 into its codes.
Phase loading(const Pieces& p) {
  return {.phase = PeakPhase::kLoading, .workspace = 6 * p.largest};
}

/// A step's needs at different moments, added up: what is freed in pieces between them is not whole
/// again when the next one asks for it.
Phase step(const PlanShape& shape, const Pieces& p) {
  const int64_t logits = logits_bytes(shape, shape.train);
  const int64_t recomputed = shape.gradient_checkpointing ? p.widest_kept : 0;
  const int64_t head = loss_head_bytes(shape, shape.train) - logits;
  const int64_t activations = p.kept + std::max(head, recomputed + p.widest_backward);
  const double lost = shape.uneven_batches ? kUnevenShare : 0;
  return {.phase = PeakPhase::kStep,
          .adapters = p.masters,
          .gradients = p.masters,
          .optimizer = p.optimizer,
          .activations = activations,
          .logits = logits,
          .workspace = p.tile + attention_workspace(shape, shape.train) +
                       static_cast<int64_t>(lost * static_cast<double>(activations + logits))};
}

Phase evaluation(const PlanShape& shape, const Pieces& p) {
  Phase phase = {.phase = PeakPhase::kEvaluation, .adapters = p.masters, .optimizer = p.optimizer};
  if (shape.evaluation.tokens == 0) return phase;
  phase.logits = logits_bytes(shape, shape.evaluation);
  phase.activations = std::max(block_activations(shape, shape.evaluation, {}).forward,
                               loss_head_bytes(shape, shape.evaluation) - phase.logits);
  phase.workspace = p.tile + attention_workspace(shape, shape.evaluation);
  return phase;
}

Phase highest(const PlanShape& shape, const Pieces& p) {
  const Phase phases[] = {step(shape, p), loading(p), evaluation(shape, p)};
  return *std::max_element(std::begin(phases), std::end(phases),
                           [](const Phase& a, const Phase& b) { return a.total() < b.total(); });
}

std::string activation_formula(const PlanShape& shape) {
  return fmt::format("{} tokens in {} rows, {} blocks{}", count_text(shape.train.tokens),
                     count_text(shape.train.rows), shape.config.num_hidden_layers,
                     shape.gradient_checkpointing ? " of which one is computed again" : "");
}

}  // namespace

const char* memory_kind_name(MemoryKind kind) {
  switch (kind) {
    case MemoryKind::kBase:
      return "base";
    case MemoryKind::kEmbedding:
      return "embedding";
    case MemoryKind::kAdapters:
      return "adapters";
    case MemoryKind::kGradients:
      return "gradients";
    case MemoryKind::kOptimizer:
      return "optimizer";
    case MemoryKind::kActivations:
      return "activations";
    case MemoryKind::kLogits:
      return "logits";
    case MemoryKind::kWorkspace:
      return "workspace";
    case MemoryKind::kProgram:
      break;
  }
  return "program";
}

const char* peak_phase_text(PeakPhase phase) {
  switch (phase) {
    case PeakPhase::kLoading:
      return "while the base is loaded";
    case PeakPhase::kStep:
      return "in a training step";
    case PeakPhase::kEvaluation:
      break;
  }
  return "in an evaluation";
}

int64_t program_bytes(PlanDevice device) {
  return device == PlanDevice::kCpu ? kCpuProgramBytes : kCudaProgramBytes;
}

int64_t MemoryPlan::total() const {
  return std::accumulate(parts.begin(), parts.end(), int64_t{0},
                         [](int64_t sum, const MemoryPart& part) { return sum + part.bytes; });
}

int64_t MemoryPlan::bytes(MemoryKind kind) const {
  const auto found = std::find_if(parts.begin(), parts.end(),
                                  [&](const MemoryPart& part) { return part.kind == kind; });
  return found == parts.end() ? 0 : found->bytes;
}

MemoryPlan plan_memory(const PlanShape& shape) {
  const Pieces p = pieces_of(shape);
  const Phase at = highest(shape, p);
  const std::string trained = count_text(p.masters / 4) + " numbers";
  const double bits = 8.0 * static_cast<double>(p.base) / static_cast<double>(p.weights);
  const bool is_8bit = shape.states == OptimizerStates::k8bit;
  return {.peak = at.phase,
          .parts = {{MemoryKind::kBase, p.base,
                     fmt::format("{} weights at {:.3f} bits", count_text(p.weights), bits)},
                    {MemoryKind::kEmbedding, p.embedding,
                     fmt::format("embedding, head and norms, {} bits", 8 * shape.compute_bytes)},
                    {MemoryKind::kAdapters, at.adapters, "FP32 masters of " + trained},
                    {MemoryKind::kGradients, at.gradients, "FP32, of the same"},
                    {MemoryKind::kOptimizer, at.optimizer,
                     fmt::format("{}-bit states of {}", is_8bit ? 8 : 32, trained)},
                    {MemoryKind::kActivations, at.activations, activation_formula(shape)},
                    {MemoryKind::kLogits, at.logits, "one chunk of the loss"},
                    {MemoryKind::kWorkspace, at.workspace, "decoded matrix, attention scores"},
                    {MemoryKind::kProgram, p.program,
                     shape.device == PlanDevice::kCpu ? "code, tokenizer, data" : "CUDA context"}}};
}

}  // namespace qlora::model
