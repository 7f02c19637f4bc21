#pragma once

#include <torch/types.h>

#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/run_log.h"
#include "quant/nf4.h"

namespace qlora::model {

/// The quantized linears of a checkpoint in one safetensors file, so that a second start skips the
/// quantization. The file's name is a hash of the source's bytes and the options: a changed source
/// never meets an old file.
///   Layout    bitsandbytes' tensors per weight (quant/nf4.h, to_tensors)
class Nf4Cache {
 public:
  /// directory empty: a cache that is always empty and keeps nothing.
  ///   source_hash   Checkpoint::source_hash(), asked for only where there is a directory
  Nf4Cache(const std::string& directory, const std::string& source_hash,
           const quant::Nf4Options& options);

  bool enabled() const { return !file_.empty(); }
  const std::filesystem::path& file() const { return file_; }
  /// All linears, or nothing where there is no such file or it is damaged (with a warning).
  std::optional<std::vector<quant::Nf4Tensor>> read(const std::vector<std::string>& names,
                                                    RunLog& log) const;
  /// Keeps them; a disk that is full or read-only is a warning, not an error.
  void write(const std::vector<std::string>& names, const std::vector<quant::Nf4Tensor>& weights,
             RunLog& log) const;

 private:
  std::filesystem::path file_;
};

}  // namespace qlora::model
