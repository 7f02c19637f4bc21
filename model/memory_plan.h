#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "model/plan_shape.h"

namespace qlora::model {

enum class MemoryKind {
  kBase,         // frozen matrices
  kEmbedding,    // embedding, head, norms
  kAdapters,     // FP32 masters of A and B
  kGradients,    // FP32, of A and B
  kOptimizer,    // states
  kActivations,  // kept for the backward, and the block that is at work
  kLogits,       // the chunk of the loss
  kWorkspace,    // the decoded matrix, attention scores, the products' packed operands
  kProgram,      // code, tokenizer, data; on a GPU the context
};

const char* memory_kind_name(MemoryKind kind);

struct MemoryPart {
  MemoryKind kind;
  int64_t bytes = 0;
  std::string formula;  // with numbers, for people
};

/// When a run holds most.
enum class PeakPhase { kLoading, kStep, kEvaluation };

const char* peak_phase_text(PeakPhase phase);

/// Memory of a training run at its peak: parts add up to the total.
struct MemoryPlan {
  PeakPhase peak = PeakPhase::kStep;
  std::vector<MemoryPart> parts;

  int64_t total() const;
  int64_t bytes(MemoryKind kind) const;
};

/// Memory at the peak, part by part: the most of loading, a step and an evaluation.
///   Step      what its moments need (loss, backward, update) is added up, because allocators do
///   not
///             have whole again, when the next asks, what the one before has freed in pieces
///   Error     on the CPU within 10% of the measured peak (docs/memory.md); on a GPU the program's
///             own part is an assumption
///   throws    as planned_linears
MemoryPlan plan_memory(const PlanShape& shape);

/// What the program takes before a model is there: on the CPU measured (`qlora train --dry-run`),
/// on a GPU an assumption for context, kernels and cuBLAS's workspace.
int64_t program_bytes(PlanDevice device);

/// One setting that takes less.
struct MemorySaving {
  std::string setting;      // "gradient_checkpointing=true"
  std::string cost;         // what it costs: "a third slower"
  int64_t saved_bytes = 0;  // of the total at the peak
};

/// Settings that lower the peak, the most effective first. Those that are already as low as they go
/// or that save nothing are left out.
std::vector<MemorySaving> memory_savings(const PlanShape& shape);

/// The first of these by name and bytes, for one line: "gradient_checkpointing=true (-412 MB), …".
std::string advice_text(const std::vector<MemorySaving>& savings, size_t count = 3);

}  // namespace qlora::model
