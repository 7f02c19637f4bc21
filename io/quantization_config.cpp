#include "io/quantization_config.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/json_object.h"
#include "io/name_pattern.h"
#include "io/strict_json.h"

namespace qlora::io {
namespace {

using Json = nlohmann::json;

constexpr int64_t kMaxGroupSize = 1 << 20;
constexpr size_t kMaxRules = 100'000;  // names and patterns in one file
constexpr size_t kFileLimitBytes = 16 << 20;

}  // namespace

/// One entry of a file that says which modules it is about.
struct QuantizationConfig::Rule {
  std::string text;                    // a whole name, or a part of one
  std::optional<NamePattern> pattern;  // instead of text
  bool part_of_name = false;
  bool every_linear = false;          // compressed-tensors' class name "Linear"
  std::optional<QuantizedForm> form;  // nothing: the module is left as it is

  bool matches(const std::string& module) const {
    if (every_linear) return true;
    if (pattern) return pattern->matches(module);
    return part_of_name ? module.find(text) != std::string::npos : module == text;
  }
};

/// Reads the dialects of the programs that write quantized checkpoints.
class QuantizationConfigReader {
 public:
  QuantizationConfigReader(const Json& json, const std::string& where) : object_(json, where) {}

  QuantizationConfig read() {
    config_.method_ = object_.text("quant_method").value_or("");
    // Files of AutoGPTQ and AutoAWQ from before the key was common.
    if (config_.method_.empty() && object_.find("bits") != nullptr && object_.find("desc_act")) {
      config_.method_ = "gptq";
    } else if (config_.method_.empty() && object_.find("w_bit") != nullptr) {
      config_.method_ = "awq";
    }
    if (config_.method_ == "gptq") {
      read_gptq();
    } else if (config_.method_ == "awq") {
      read_awq();
    } else if (config_.method_ == "compressed-tensors") {
      read_compressed();
    } else if (config_.method_ == "bitsandbytes") {
      read_bitsandbytes();
    } else {
      throw FormatError(fmt::format(
          "[io] {}: the weights are quantized ({}); gptq, awq, compressed-tensors and bitsandbytes "
          "are read, else give the 16-bit model that they were made of",
          object_.where(), config_.method_.empty() ? "unknown method" : quote(config_.method_)));
    }
    config_.rules_ = std::make_shared<const std::vector<Rule>>(std::move(rules_));
    return std::move(config_);
  }

 private:
  using Rule = QuantizationConfig::Rule;

  template <class... Args>
  [[noreturn]] void refuse(fmt::format_string<Args...> text, Args&&... args) const {
    throw FormatError(fmt::format("[io] {}: {}", object_.where(),
                                  fmt::format(text, std::forward<Args>(args)...)));
  }

  Rule& add_rule() {
    if (rules_.size() >= kMaxRules) refuse("more than {} module names", kMaxRules);
    return rules_.emplace_back();
  }

  static void check_bits(const JsonObject& o, const char* key, int64_t bits,
                         std::initializer_list<int64_t> allowed) {
    if (std::find(allowed.begin(), allowed.end(), bits) != allowed.end()) return;
    o.fail(key, bits, fmt::format("one of {}", fmt::join(allowed, ", ")));
  }

  static int64_t group_size_of(const JsonObject& o, const char* key, int64_t otherwise) {
    const int64_t size = o.integer(key).value_or(otherwise);
    if ((size < 1 && size != -1) || size > kMaxGroupSize) {
      o.fail(key, size, fmt::format("-1 or 1 to {}", kMaxGroupSize));
    }
    return size;
  }

  void read_gptq() {
    // GPTQModel writes AWQ checkpoints under the same keys with a method of their own.
    QuantizedForm& form = config_.common_;
    form.form = gptq_form(object_);
    form.bits = object_.required_integer("bits");
    check_bits(object_, "bits", form.bits, {2, 3, 4, 8});
    form.group_size = group_size_of(object_, "group_size", 128);
    object_.boolean("desc_act");
    object_.boolean("sym");
    if (const auto type = object_.text("pack_dtype"); type && *type != "int32") {
      object_.fail("pack_dtype", *type, "int32");
    }
    if (const Json* dynamic = object_.find("dynamic")) read_dynamic(*dynamic);
  }

  static PackedForm gptq_form(const JsonObject& o) {
    const char* key = o.find("checkpoint_format") != nullptr ? "checkpoint_format" : "format";
    const std::string format = o.text(key).value_or("gptq");
    if (format == "gptq") return PackedForm::kGptq;
    if (format != "gptq_v2") o.fail(key, format, "gptq or gptq_v2");
    return PackedForm::kGptqV2;
  }

  /// GPTQModel's overrides: "+:regex" or "regex" with other values, "-:regex" leaves modules alone.
  void read_dynamic(const Json& dynamic) {
    if (!dynamic.is_object()) object_.fail("dynamic", dynamic, "an object of patterns");
    for (const auto& [key, value] : dynamic.items()) {
      Rule& rule = add_rule();
      const bool skips = key.starts_with("-:");
      rule.pattern.emplace(skips || key.starts_with("+:") ? key.substr(2) : key,
                           object_.where() + ": dynamic");
      if (skips) continue;
      const JsonObject override(value, object_.where() + ": dynamic " + quote(key));
      rule.form = config_.common_;
      rule.form->bits = override.integer("bits").value_or(config_.common_.bits);
      check_bits(override, "bits", rule.form->bits, {2, 3, 4, 8});
      rule.form->group_size = group_size_of(override, "group_size", config_.common_.group_size);
    }
  }

  void read_awq() {
    QuantizedForm& form = config_.common_;
    form.form = PackedForm::kAwqGemm;
    const char* bits = object_.find("bits") != nullptr ? "bits" : "w_bit";
    form.bits = object_.integer(bits).value_or(4);
    check_bits(object_, bits, form.bits, {4});
    const char* size = object_.find("group_size") != nullptr ? "group_size" : "q_group_size";
    form.group_size = group_size_of(object_, size, 128);
    // Three names for one thing, of AutoAWQ, transformers and GPTQModel.
    for (const char* key : {"version", "format", "checkpoint_format"}) {
      std::string version = object_.text(key).value_or("gemm");
      std::transform(version.begin(), version.end(), version.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      if (version != "gemm") object_.fail(key, version, "gemm (no other AWQ layout is read)");
    }
    if (!object_.boolean("zero_point").value_or(true)) {
      object_.fail("zero_point", false, "true");
    }
    add_skipped_parts("modules_to_not_convert");
    if (const Json* dynamic = object_.find("dynamic"); dynamic && !dynamic->empty()) {
      object_.fail("dynamic", *dynamic, "nothing for awq");
    }
  }

  /// Names whose appearance inside a module's name leaves the module alone.
  void add_skipped_parts(const char* key) {
    const Json* list = object_.find(key);
    if (list == nullptr) return;
    if (!list->is_array()) object_.fail(key, *list, "a list of names");
    for (const Json& name : *list) {
      if (!name.is_string()) object_.fail(key, name, "names");
      Rule& rule = add_rule();
      rule.text = name.get<std::string>();
      rule.part_of_name = true;
    }
  }

  void read_bitsandbytes() {
    const bool four = object_.boolean("load_in_4bit").value_or(false) ||
                      object_.boolean("_load_in_4bit").value_or(false);
    const bool eight = object_.boolean("load_in_8bit").value_or(false) ||
                       object_.boolean("_load_in_8bit").value_or(false);
    if (four == eight) refuse("neither or both of load_in_4bit and load_in_8bit are set");
    QuantizedForm& form = config_.common_;
    form.form = four ? PackedForm::kBnbFourBit : PackedForm::kBnbInt8;
    form.bits = four ? 4 : 8;
    form.group_size = -1;
    if (four) {
      const std::string type = object_.text("bnb_4bit_quant_type").value_or("fp4");
      if (type != "nf4" && type != "fp4") object_.fail("bnb_4bit_quant_type", type, "nf4 or fp4");
    }
    if (eight) {
      form.inputs = InputForm::kInt8WithOutliers;
      form.outlier_threshold = object_.number("llm_int8_threshold").value_or(6.0);
      if (!(form.outlier_threshold >= 0)) {
        object_.fail("llm_int8_threshold", form.outlier_threshold, "0 or more");
      }
    }
    add_skipped_parts("llm_int8_skip_modules");
  }

  void read_compressed() {
    const std::string status = object_.text("quantization_status").value_or("compressed");
    if (status != "compressed") {
      object_.fail("quantization_status", status, "compressed (weights as they are served)");
    }
    for (const char* key : {"sparsity_config", "transform_config"}) {
      const Json* value = object_.find(key);
      if (value != nullptr && !value->empty() && !is_dense(*value)) {
        object_.fail(key, *value, "nothing (sparse and transformed weights are not read)");
      }
    }
    if (object_.find("kv_cache_scheme") != nullptr) {
      config_.notices_.push_back(
          "kv_cache_scheme: the checkpoint has scales for an 8-bit cache of keys and values, which "
          "are not used here");
    }
    read_ignore();
    read_groups();
    config_.unmatched_is_common_ = false;
  }

  static bool is_dense(const Json& sparsity) {
    return sparsity.is_object() && sparsity.contains("format") && sparsity["format"] == "dense";
  }

  void set_target(Rule& rule, const Json& target, const char* key) {
    if (!target.is_string()) object_.fail(key, target, "names and re: patterns");
    const auto text = target.get<std::string>();
    if (text.starts_with("re:")) {
      rule.pattern.emplace(text.substr(3), object_.where() + ": " + key);
    } else if (text == "Linear") {
      rule.every_linear = true;
    } else {
      rule.text = text;
    }
  }

  void read_ignore() {
    const Json* ignore = object_.find("ignore");
    if (ignore == nullptr) return;
    if (!ignore->is_array()) object_.fail("ignore", *ignore, "a list of names");
    for (const Json& target : *ignore) set_target(add_rule(), target, "ignore");
  }

  void read_groups() {
    const Json* groups = object_.find("config_groups");
    if (groups == nullptr || !groups->is_object() || groups->empty()) {
      refuse("config_groups is missing or empty");
    }
    const size_t ignored = rules_.size();
    bool first = true;
    for (const auto& [name, group] : groups->items()) {
      const JsonObject object(group, object_.where() + ": config_groups " + quote(name));
      const QuantizedForm form = compressed_form(object);
      if (first) config_.common_ = form;
      first = false;
      const Json* targets = object.find("targets");
      if (targets == nullptr || !targets->is_array()) {
        refuse("config_groups {}: targets is no list", quote(name));
      }
      for (const Json& target : *targets) {
        Rule& rule = add_rule();
        set_target(rule, target, "targets");
        rule.form = form;
      }
    }
    // Whole names first, then patterns, then the class of all linears.
    std::stable_sort(rules_.begin() + static_cast<ptrdiff_t>(ignored), rules_.end(),
                     [](const Rule& a, const Rule& b) { return rank(a) < rank(b); });
  }

  static int rank(const Rule& rule) { return rule.every_linear ? 2 : rule.pattern ? 1 : 0; }

  /// Symmetric or not, the tensors show; what they cannot show is checked here.
  QuantizedForm compressed_form(const JsonObject& group) {
    const Json* json = group.find("weights");
    if (json == nullptr) refuse("{} has no weights", group.where());
    const JsonObject weights(*json, group.where() + ": weights");
    QuantizedForm form;
    form.bits = weights.integer("num_bits").value_or(8);
    const std::string type = weights.text("type").value_or("int");
    if (type != "int" && type != "float") weights.fail("type", type, "int or float");
    const char* key = group.find("format") != nullptr ? "format" : nullptr;
    const std::string format =
        key != nullptr ? *group.text(key) : object_.text("format").value_or("");
    form.form = compressed_layout(group, format, type);
    if (type == "float" || form.form == PackedForm::kIntQuantized) {
      check_bits(weights, "num_bits", form.bits, {8});
    } else {
      check_bits(weights, "num_bits", form.bits, {2, 3, 4, 8});
    }
    const std::string strategy = weights.text("strategy").value_or("tensor");
    if (strategy != "tensor" && strategy != "channel" && strategy != "group") {
      weights.fail("strategy", strategy, "tensor, channel or group");
    }
    form.group_size = strategy == "group" ? group_size_of(weights, "group_size", 128) : -1;
    if (type == "float" && strategy == "group")
      weights.fail("strategy", strategy, "tensor, channel");
    if (const Json* output = group.find("output_activations")) {
      group.fail("output_activations", *output, "nothing");
    }
    if (const Json* inputs = group.find("input_activations")) {
      form.inputs = input_form({*inputs, group.where() + ": input_activations"});
    }
    return form;
  }

  PackedForm compressed_layout(const JsonObject& group, const std::string& format,
                               const std::string& type) {
    if (format == "pack-quantized" && type == "int") return PackedForm::kPackQuantized;
    if (format == "int-quantized" && type == "int") return PackedForm::kIntQuantized;
    if (format == "float-quantized" && type == "float") return PackedForm::kFloatQuantized;
    if (format == "naive-quantized") {
      return type == "int" ? PackedForm::kIntQuantized : PackedForm::kFloatQuantized;
    }
    group.fail("format", format,
               fmt::format("pack-quantized and int-quantized for int, float-quantized for float "
                           "(type is {})",
                           type));
  }

  static InputForm input_form(const JsonObject& inputs) {
    const int64_t bits = inputs.integer("num_bits").value_or(8);
    if (bits == 16) return InputForm::kPlain;
    check_bits(inputs, "num_bits", bits, {8});
    const std::string type = inputs.text("type").value_or("int");
    const std::string strategy = inputs.text("strategy").value_or("tensor");
    if (!inputs.boolean("symmetric").value_or(true)) inputs.fail("symmetric", false, "true");
    const Json* flag = inputs.find("dynamic");
    const bool dynamic = flag != nullptr && flag->is_boolean() && flag->get<bool>();
    if (flag != nullptr && !flag->is_boolean()) inputs.fail("dynamic", *flag, "true or false");
    if (dynamic && strategy == "token" && type == "int") return InputForm::kInt8PerToken;
    if (dynamic && strategy == "token" && type == "float") return InputForm::kFp8PerToken;
    if (!dynamic && strategy == "tensor" && type == "float") return InputForm::kFp8Static;
    if (!dynamic && strategy == "tensor" && type == "int") return InputForm::kInt8Static;
    inputs.fail("strategy", fmt::format("{} {} {}", dynamic ? "dynamic" : "static", strategy, type),
                "dynamic token int or float, or static tensor int or float");
  }

  JsonObject object_;
  QuantizationConfig config_;
  std::vector<Rule> rules_;
};

QuantizationConfig QuantizationConfig::parse(const Json& json, const std::string& where) {
  return QuantizationConfigReader(json, where).read();
}

std::optional<QuantizedForm> QuantizationConfig::form_of(const std::string& module) const {
  for (const Rule& rule : *rules_) {
    if (rule.matches(module)) return rule.form;
  }
  return unmatched_is_common_ ? std::optional(common_) : std::nullopt;
}

std::string describe(const QuantizedForm& form) {
  const std::string groups =
      form.group_size == -1 ? "a scale a row" : fmt::format("groups of {}", form.group_size);
  const char* inputs = form.inputs == InputForm::kInt8PerToken  ? ", inputs int8 a token"
                       : form.inputs == InputForm::kFp8PerToken ? ", inputs fp8 a token"
                       : form.inputs == InputForm::kFp8Static   ? ", inputs fp8, fixed scale"
                       : form.inputs == InputForm::kInt8Static  ? ", inputs int8, fixed scale"
                                                                : "";
  switch (form.form) {
    case PackedForm::kGptq:
      return fmt::format("GPTQ, {} bits, {}", form.bits, groups);
    case PackedForm::kGptqV2:
      return fmt::format("GPTQ v2, {} bits, {}", form.bits, groups);
    case PackedForm::kAwqGemm:
      return fmt::format("AWQ GEMM, {} bits, {}", form.bits, groups);
    case PackedForm::kPackQuantized:
    case PackedForm::kIntQuantized:
      return fmt::format("compressed-tensors, {} bits, {}{}", form.bits, groups, inputs);
    case PackedForm::kFloatQuantized:
      return fmt::format("compressed-tensors, FP8{}", inputs);
    case PackedForm::kBnbFourBit:
      return "bitsandbytes, 4 bits";
    case PackedForm::kBnbInt8:
      break;
  }
  return "bitsandbytes, LLM.int8";
}

std::optional<QuantizationConfig> find_quantization_config(const std::filesystem::path& folder,
                                                           std::string_view config_member) {
  if (!config_member.empty()) {
    return QuantizationConfig::parse(Json::parse(config_member),
                                     (folder / "config.json").string() + ": quantization_config");
  }
  for (const char* name : {"quantize_config.json", "quant_config.json"}) {
    const auto file = folder / name;
    std::error_code error;
    if (!std::filesystem::exists(file, error)) continue;
    return QuantizationConfig::parse(
        parse_strict_json(read_file(file, kFileLimitBytes), file.string()), file.string());
  }
  return std::nullopt;
}

}  // namespace qlora::io
