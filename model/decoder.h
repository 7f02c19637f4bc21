#pragma once

#include <torch/types.h>

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "core/token_batch.h"
#include "io/hf_config.h"
#include "lora/lora_linear.h"
#include "lora/lora_options.h"
#include "model/decoder_block.h"
#include "model/model_options.h"
#include "quant/nf4_options.h"

namespace qlora::model {

/// How one forward pass behaves beyond its tokens.
struct ForwardContext {
  bool training = false;                // dropout and NEFTune noise are on
  bool gradient_checkpointing = false;  // keep one tensor a block, recompute the rest in backward
  bool activation_offloading = false;   // and keep that one in pinned host memory; CUDA alone
  double neftune_noise_alpha = 0;       // Jain et al., arXiv:2310.05914; 0: off
  uint64_t seed = 0;                    // of dropout and noise,
  uint64_t draw = 0;                    // counted up by the caller for each micro-batch
};

/// A causal language model with a frozen base and trainable adapters; io/architecture.h says in
/// what the families differ.
///   Layout    every activation is flat, [T, C], without padding; segments keep samples apart
///   Numbers   residual stream, norms, adapter sums, softmax and loss FP32; products compute_dtype
///   Source    Touvron et al., arXiv:2302.13971; adapters Hu et al., arXiv:2106.09685
class Decoder {
 public:
  /// Streams the checkpoint tensor by tensor: each linear is quantized and its source dropped.
  ///   throws    FormatError, ShapeError, ConfigError, IoError, ValueError (a weight that is not
  ///             finite) with the tensor's name
  ///   cost      peak memory is the result plus one tensor in FP32
  static Decoder load(const ModelOptions& model, const quant::Nf4Options& quantization,
                      RunLog& log);

  /// Adds adapters to the linears that options select: A uniform as torch's Linear, B zero, or
  /// the PEFT folder init_adapter.
  void add_adapters(const lora::LoraOptions& options, uint64_t seed);
  /// Adapters as the PEFT folder says: rank, alpha and targets come from it, dtype and dropout from
  /// the caller.
  ///   throws    FormatError, ShapeError where the folder does not fit this model
  void load_adapter(const std::string& peft_directory, lora::AdapterDtype dtype,
                    double dropout = 0);

  /// Grids by module, which merged weights and inputs are rounded to while set_fake_quant is on.
  ///   throws    ConfigError for a base whose weights are neither plain nor NF4
  void set_grids(std::map<std::string, lora::LinearGrid> grids);
  void set_kv_rounding(KvRounding rounding) { kv_rounding_ = rounding; }
  void set_fake_quant(bool on);
  /// While rounding: each linear with a grid holds the codes that ship from now on, instead of
  /// weight, adapter and grid. For inference: no pass rounds again, and the base's memory is free.
  void hold_rounded_weights();
  bool is_rounding() const { return is_rounding_; }
  /// Fits held grids to the merged weights as they are now; learned factors become 1.
  void fit_grids();
  /// After an optimizer step: what observers saw begins to count.
  ///   throws    ValueError naming the module whose learned scales left their range
  void end_grid_step();
  const std::map<std::string, lora::LinearGrid>& grids() const { return grids_; }

  /// Names and FP32 masters of all adapters, in the order of the layers: the autograd leaves.
  std::vector<lora::NamedAdapter> adapters() const;
  /// A, B, A, B, …, then the factors of learned scales.
  std::vector<torch::Tensor> trainable_parameters() const;

  /// Sum of the negative log likelihoods of all targets, with its graph.  scalar f32
  torch::Tensor loss_sum(const TokenBatch& batch, const ForwardContext& context) const;
  /// Negative log likelihood of each target, 0 where there is none; no graph.  [T] f32
  torch::Tensor target_nll(const TokenBatch& batch) const;
  /// All logits, for tests and small inputs; no graph.  [T, V] f32
  torch::Tensor logits(const TokenBatch& batch) const;
  /// Feeds new tokens of one sequence behind what the cache holds; logits of the last.  [V] f32
  torch::Tensor next_logits(const std::vector<int32_t>& new_tokens, KvCache& cache) const;
  KvCache new_cache(int64_t capacity_tokens) const;

  const io::HfConfig& config() const { return config_; }
  torch::ScalarType compute_dtype() const { return compute_dtype_; }
  torch::Device device() const { return device_; }
  int64_t parameter_count() const;  // of the base, tied weights once
  int64_t trainable_parameter_count() const;
  int64_t base_bytes() const;  // memory of the frozen weights as they are held
  /// "trainable params: 39,976,960 || all params: 6,778,392,576 || trainable%: 0.5898", as PEFT.
  std::string trainable_summary() const;

 private:
  friend class DecoderLoader;
  Decoder() = default;
  /// After the final norm, in the compute dtype.  [T, C]
  torch::Tensor hidden_states(const TokenBatch& batch, const ForwardContext& context) const;
  std::vector<lora::LoraLinear*> linears();

  io::HfConfig config_;
  torch::ScalarType compute_dtype_ = torch::kFloat32;
  torch::Device device_ = torch::kCPU;
  torch::Tensor embedding_;   // [V, C] 16-bit or f32
  torch::Tensor lm_head_;     // [V, C] the embedding itself where the weights are tied
  torch::Tensor final_norm_;  // [C] f32
  RopeTables rope_;
  std::vector<DecoderBlock> blocks_;
  std::map<std::string, lora::LinearGrid> grids_;
  bool is_rounding_ = false;
  KvRounding kv_rounding_ = KvRounding::kNone;
  KvRounding active_kv_rounding_ = KvRounding::kNone;
};

}  // namespace qlora::model
