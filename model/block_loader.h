#pragma once

#include <torch/types.h>

#include <cstdint>
#include <string>
#include <vector>

#include "io/checkpoint.h"
#include "lora/frozen_weight.h"
#include "model/decoder_block.h"
#include "model/model_options.h"
#include "model/weight_source.h"
#include "quant/nf4_options.h"

namespace qlora::model {

/// Reads the parts of a decoder from a checkpoint, one at a time: what a model that does not fit
/// into memory is walked through with, and what Decoder::load puts together.
///   Memory    holds no weights itself; the source's pages are given back after each tensor
///   Threads   const calls may run in parallel
class BlockLoader {
 public:
  /// quantization is used where options.load_in_4bit is set: each linear becomes NF4 or FP4. The
  /// linears of a checkpoint that is quantized already stay as they are.
  ///   place     where the model will be computed: says what compute_dtype auto means. What is read
  ///             lies on the CPU all the same
  ///   throws    as io::Checkpoint; DeviceError for a device that is not there
  BlockLoader(const ModelOptions& options, const quant::Nf4Options& quantization,
              torch::Device place = torch::kCPU);

  const WeightSource& source() const { return source_; }
  const io::Checkpoint& checkpoint() const { return source_.checkpoint(); }
  const io::HfConfig& config() const { return checkpoint().config(); }
  torch::ScalarType compute_dtype() const { return compute_dtype_; }
  /// True where the linears are rounded to NF4 or FP4 while they are read.
  bool quantizes() const { return options_.load_in_4bit && !source_.is_quantized(); }
  int64_t block_count() const { return config().num_hidden_layers; }

  torch::Tensor embedding() const;   // [V, C] compute dtype
  torch::Tensor final_norm() const;  // [C] f32, with the family's offset
  /// The embedding itself where the weights are tied.  [V, C] compute dtype
  torch::Tensor lm_head(const torch::Tensor& embedding) const;

  /// Block `index` with its weights in the form that the options ask for.
  ///   throws    ValueError for an index outside the model; FormatError, ValueError naming a tensor
  DecoderBlock block(int64_t index) const;
  /// The same with empty linears: norms, biases and names alone.
  DecoderBlock block_without_weights(int64_t index) const;
  /// The frozen weight of one linear, "model.layers.0.self_attn.q_proj".
  lora::FrozenWeight weight(const std::string& module) const;

  /// Modules of a block's linears, in the order of DecoderBlock::linears().
  std::vector<std::string> linear_names(int64_t index) const;

 private:
  torch::Tensor bias(const std::string& module) const;
  torch::Tensor norm(const std::string& module) const;
  quant::Nf4Tensor quantized(const std::string& name) const;

  ModelOptions options_;
  quant::Nf4Options quantization_;
  torch::ScalarType compute_dtype_;
  WeightSource source_;
};

}  // namespace qlora::model
