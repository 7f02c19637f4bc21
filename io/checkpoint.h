#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "io/gguf.h"
#include "io/hf_config.h"
#include "io/quantization_config.h"
#include "io/quantized_module.h"
#include "io/safetensors.h"

namespace qlora::io {

struct ExpectedTensor;

/// Proves that a file or folder is where a model is looked for.
///   area      of the message, "io"
///   throws    IoError saying that only local paths are read, or what the system says
void check_model_path(const std::filesystem::path& path, std::string_view area);

enum class GgufRounding {
  kBf16,  // each dequantized weight is rounded to BF16: what a converted checkpoint would hold
  kNone,  // the dequantized float as it is
};

/// Where the weights of a quantized folder are: the folder itself where they have the usual names,
/// else its only safetensors file ("gptq_model-4bit-128g.safetensors" of AutoGPTQ).
std::filesystem::path weights_path(const std::filesystem::path& folder);

/// In hexadecimal digits.
struct SourceHashes {
  std::string source;   // every byte of config and weights, and the rounding
  std::string weights;  // the weights' files alone
};

/// One view over the weights of a model, wherever they come from: a Hugging Face directory
/// (config.json and safetensors) or a GGUF file. Tensors go by their Hugging Face names and rows,
/// are floats when read, and are never held as a whole: read rows, use them, release.
///   Quantized  linears of a folder that is quantized are handed out as their raw tensors
///              (quantized_module); model/weight_source.h decodes them
///   Checked    at opening: every tensor of the architecture is there with the shape of the config
///              and a type that can be read, and no weights lie there that it has no place for
///   Threads    const calls may run in parallel
class Checkpoint {
 public:
  /// path      a folder with config.json, a GGUF file, or a folder with one GGUF file
  /// throws    IoError, FormatError; ShapeError naming tensor, actual and expected shape
  explicit Checkpoint(const std::filesystem::path& path,
                      GgufRounding rounding = GgufRounding::kBf16);

  const HfConfig& config() const { return config_; }
  const std::filesystem::path& path() const { return path_; }  // the folder, or the GGUF file
  const GgufReader* gguf() const { return gguf_.get(); }       // nullptr for a directory

  /// Names of the architecture's tensors, embedding first, blocks in order, then norm and lm_head;
  /// lm_head.weight only where the embeddings are not tied.
  const std::vector<std::string>& names() const { return names_; }
  bool has(std::string_view name) const;
  const std::vector<int64_t>& shape(std::string_view name) const;  // throws ValueError if absent

  /// What the folder says of its quantization; nothing for plain folders and GGUF files.
  const std::optional<QuantizationConfig>& quantization() const { return quantization_; }
  /// True for the weight of a quantized linear: it has a shape, but no floats to read.
  bool is_quantized(std::string_view name) const;  // throws ValueError if absent
  /// The raw tensors of a quantized linear, "model.layers.0.mlp.up_proj".
  ///   throws    ValueError where there is none of that name
  const QuantizedModule& quantized_module(std::string_view module) const;

  /// out = rows [row_begin, row_begin + row_count) as float; a vector is one row.
  ///   throws    ValueError for an unknown name, rows outside the tensor or a quantized linear
  void tensor_f32_rows(std::string_view name, int64_t row_begin, int64_t row_count,
                       float* out) const;

  /// The whole tensor, split over the threads of core/parallel.h.
  void tensor_f32(std::string_view name, float* out) const;

  /// Tells the system that the tensor's pages are no longer needed.
  void release(std::string_view name) const;

  /// Where the embeddings are tied, a file may hold the output matrix all the same; it has to be
  /// the embedding then.
  ///   throws    FormatError where it holds other numbers
  ///   cost      reads both matrices where both are there, else nothing
  void check_tied_weights() const;

  /// What this source is told from others by.
  ///   cost      reads all files once, on all threads (about 1.5 GB/s a thread with SHA
  ///             instructions)
  SourceHashes source_hashes() const;
  /// Key for caches made from this source.
  std::string source_hash() const { return source_hashes().source; }

 private:
  struct Entry {
    std::vector<int64_t> shape;
    const TensorView* hf = nullptr;  // one of the three is set
    const GgufTensor* gguf = nullptr;
    bool rope_permuted = false;
    double offset = 0;  // GGUF files hold the norms with it
    std::shared_ptr<const QuantizedModule> quantized = nullptr;
  };

  void open_directory();
  void add_directory_tensor(ExpectedTensor expected);
  /// The name in the files: checkpoints that hold an image part too put a prefix before it.
  std::string stored_name(const std::string& name) const;
  void open_gguf();
  const Entry& entry(std::string_view name) const;

  std::filesystem::path path_;
  GgufRounding rounding_;
  HfConfig config_;
  std::optional<QuantizationConfig> quantization_;
  std::unique_ptr<SafetensorsReader> safetensors_;
  std::unique_ptr<GgufReader> gguf_;
  std::vector<std::string> names_;
  std::unordered_map<std::string, Entry> entries_;
};

}  // namespace qlora::io
