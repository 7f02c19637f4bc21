#pragma once

#include <torch/types.h>

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "core/run_log.h"
#include "exporter/export_options.h"
#include "lora/peft_files.h"
#include "model/block_loader.h"
#include "quant/nf4_options.h"

namespace qlora::exporter {

/// The weights that are exported: those of the base, with an adapter merged into them.
///   Bases     kOriginal: the 16-bit weights; kNf4: those rounded to NF4 and back, which is what
///             the adapter was trained on
///   Memory    one matrix at a time
class MergedWeights {
 public:
  /// base      kOriginal or kNf4
  /// throws    ShapeError, FormatError where the adapter is of another base
  MergedWeights(const model::BlockLoader& loader, const lora::PeftAdapter* adapter, MergeBase base,
                const quant::Nf4Options& four_bit);

  /// The merged weight of a linear.  [N, K] f32
  torch::Tensor weight(const std::string& module) const;
  /// s·B·A; undefined where the adapter leaves the module alone.  [N, K] f32
  torch::Tensor change(const std::string& module) const;
  /// A block whose linears hold the merged weights in the compute dtype.
  model::DecoderBlock block(int64_t index) const;
  bool has_adapter() const { return adapter_ != nullptr; }
  MergeBase base() const { return base_; }

 private:
  torch::Tensor base_weight(const std::string& module) const;

  const model::BlockLoader& loader_;
  const lora::PeftAdapter* adapter_;
  MergeBase base_;
  quant::Nf4Options four_bit_;
};

/// The adapter of one module as merging takes it: the numbers of the file, not rounded again.
std::optional<lora::Adapter> adapter_of(const lora::PeftAdapter& file, const std::string& module);

/// The SHA-256 of all that an adapter adds.
std::string adapter_hash(const lora::PeftAdapter& adapter);

/// throws FormatError where the adapter changes a module that the model does not have; ShapeError
///        where a shape does not fit
void check_adapter(const lora::PeftAdapter& adapter, const model::BlockLoader& loader);

/// throws FormatError where the adapter's run recorded other weights than the base's
/// cost   reads the base's files once where there is a record
void check_base(const std::filesystem::path& adapter, const io::Checkpoint& base);

}  // namespace qlora::exporter
