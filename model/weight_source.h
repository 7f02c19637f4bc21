#pragma once

#include <torch/types.h>

#include <filesystem>
#include <string>

#include "io/checkpoint.h"
#include "lora/frozen_weight.h"

namespace qlora::model {

/// The weights of a checkpoint of any format as tensors: what is packed (GPTQ, AWQ,
/// compressed-tensors, bitsandbytes) is decoded, or handed over in the form that memory holds.
///   Threads   const calls may run in parallel
class WeightSource {
 public:
  /// throws    as io::Checkpoint
  explicit WeightSource(const std::filesystem::path& path) : checkpoint_(path) {}

  const io::Checkpoint& checkpoint() const { return checkpoint_; }
  bool is_quantized() const { return checkpoint_.quantization().has_value(); }
  /// True where the linear "model.layers.0.mlp.up_proj" is packed.
  bool is_packed(const std::string& module) const {
    return checkpoint_.is_quantized(module + ".weight");
  }

  /// A matrix [N, K], or a vector as one row [1, N], as plain numbers; read in slices, so that no
  /// second copy of it is ever whole. The source's pages are given back.
  ///   name      the tensor's Hugging Face name, "model.layers.0.mlp.up_proj.weight"
  ///   throws    ValueError naming the tensor and the first number that is not finite
  torch::Tensor dense(const std::string& name, torch::ScalarType dtype) const;
  torch::Tensor tensor_f32(const std::string& name) const { return dense(name, torch::kFloat32); }

  /// A packed linear in the form that is held in memory, with the rounding of inputs that its
  /// engine does. Nothing of it is shared with the file.
  ///   throws    FormatError naming the module and what is wrong with its tensors
  lora::FrozenWeight packed(const std::string& module) const;

 private:
  io::Checkpoint checkpoint_;
};

}  // namespace qlora::model
