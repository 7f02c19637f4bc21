#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::io {

/// How the tensors of a quantized linear lie in a checkpoint (docs/formats.md).
enum class PackedForm {
  kGptq,            // qweight, qzeros less one, scales, g_idx
  kGptqV2,          // the same, zero points as they are
  kAwqGemm,         // qweight, qzeros, scales
  kPackQuantized,   // compressed-tensors: weight_packed, weight_scale, weight_shape …
  kIntQuantized,    // compressed-tensors: weight i8, weight_scale, input_scale
  kFloatQuantized,  // compressed-tensors: weight f8, weight_scale, input_scale
  kBnbFourBit,      // bitsandbytes: weight u8, weight.absmax, weight.quant_state …
  kBnbInt8,         // bitsandbytes: weight i8, SCB
};

/// What an engine does to the inputs of a linear before it multiplies.
enum class InputForm {
  kPlain,
  kInt8PerToken,      // scale of each token from its greatest |x|
  kInt8WithOutliers,  // the same, but columns with |x| >= outlier_threshold stay as they are
  kFp8PerToken,
  kFp8Static,   // one scale, input_scale
  kInt8Static,  // the same
};

/// How one linear is stored.
struct QuantizedForm {
  PackedForm form = PackedForm::kGptq;
  int64_t bits = 4;
  int64_t group_size = 128;  // columns that share a scale; -1: the whole row; of the GPTQ and AWQ
                             // forms (the others show it in their shapes)
  InputForm inputs = InputForm::kPlain;
  double outlier_threshold = 6;  // of kInt8WithOutliers; 0: no column is one
};

/// "GPTQ v2, 4 bits, groups of 128": for messages and `inspect`.
std::string describe(const QuantizedForm& form);

/// What a checkpoint's quantization_config says of its modules.
class QuantizationConfig {
 public:
  /// json    the member quantization_config of config.json, or a whole quantize_config.json
  /// where   name of the file for messages
  /// throws  FormatError where it is damaged, contradicts itself, or asks for what is not read: the
  ///         message names key, value and what is allowed
  static QuantizationConfig parse(const nlohmann::json& json, const std::string& where);

  const std::string& method() const { return method_; }  // "gptq", "awq", …
  /// What most modules have.
  const QuantizedForm& common_form() const { return common_; }
  /// The form of "model.layers.0.mlp.up_proj"; nothing where the module is not quantized.
  ///   throws    FormatError where a pattern of the file takes too long
  std::optional<QuantizedForm> form_of(const std::string& module) const;
  /// What was read but changes nothing here, one line each: for a warning.
  const std::vector<std::string>& notices() const { return notices_; }

 private:
  struct Rule;
  friend class QuantizationConfigReader;
  std::string method_;
  QuantizedForm common_;
  std::shared_ptr<const std::vector<Rule>> rules_;  // the first that matches decides
  bool unmatched_is_common_ = true;
  std::vector<std::string> notices_;
};

/// The configuration of a Hugging Face folder: in config.json (its text is given), else beside it
/// in quantize_config.json (AutoGPTQ) or quant_config.json (AutoAWQ). Nothing where there is none.
///   throws    as QuantizationConfig::parse; IoError
std::optional<QuantizationConfig> find_quantization_config(const std::filesystem::path& folder,
                                                           std::string_view config_member);

}  // namespace qlora::io
