#include "lora/peft_files.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/isfinite.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "core/error.h"
#include "core/json_file.h"
#include "io/atomic_file.h"
#include "io/safetensors.h"
#include "lora/targets.h"
#include "lora/tensor_view.h"

namespace qlora::lora {

namespace {

using json = nlohmann::ordered_json;  // peft tries patterns in the order of the file
namespace fs = std::filesystem;

constexpr const char* kPrefix = "base_model.model.";
constexpr const char* kConfigFile = "adapter_config.json";
constexpr const char* kWeightsFile = "adapter_model.safetensors";

/// Absent, null, false, empty or "none": a feature that the file does not use.
bool is_off(const json& config, const char* key) {
  const auto found = config.find(key);
  if (found == config.end() || found->is_null()) return true;
  if (found->is_boolean()) return !found->get<bool>();
  if (found->is_array() || found->is_object()) return found->empty();
  const auto* text = found->get_ptr<const std::string*>();
  return text != nullptr && (text->empty() || *text == "none");
}

/// Every key that changes what an adapter computes and that this program does not know how to.
void refuse_unsupported(const json& config, const std::string& where) {
  const auto type = config.value("peft_type", json());
  QLORA_CHECK(type == "LORA", FormatError, "[lora] peft_type is {}, allowed \"LORA\" ({})",
              type.dump(), where);
  static constexpr const char* kUnsupported[] = {"modules_to_save",
                                                 "use_dora",
                                                 "bias",
                                                 "lora_bias",
                                                 "fan_in_fan_out",
                                                 "layer_replication",
                                                 "trainable_token_indices",
                                                 "target_parameters",
                                                 "use_qalora",
                                                 "use_bdlora",
                                                 "alora_invocation_tokens",
                                                 "arrow_config",
                                                 "kasa_config",
                                                 "monteclora_config",
                                                 "velora_config",
                                                 "megatron_config"};
  for (const char* key : kUnsupported) {
    QLORA_CHECK(is_off(config, key), FormatError,
                "[lora] the adapter uses {} = {}, which is not supported; allowed: plain LoRA of "
                "linears ({})",
                key, config.at(key).dump().substr(0, 80), where);
  }
}

/// Refuses adapters that begin with a part of the base taken out of it (PiSSA, OLoRA, CorDA,
/// LoRA-GA) or over a rounded one (LoftQ): they belong to that residual. peft's own conversion on
/// saving writes true; the names that pass change A and B alone.
void refuse_changed_base(const json& config, const std::string& where) {
  const auto found = config.find("init_lora_weights");
  if (found == config.end() || found->is_null() || found->is_boolean()) return;
  std::string name = found->is_string() ? found->get<std::string>() : "";
  std::transform(name.begin(), name.end(), name.begin(),
                 [](unsigned char c) { return std::tolower(c); });  // as peft compares
  for (const char* keeps_base : {"gaussian", "eva", "orthogonal", "mica"}) {
    if (name == keeps_base) return;
  }
  throw FormatError(fmt::format(
      "[lora] init_lora_weights is {}, which is not supported: such adapters belong to a base that "
      "peft changed when they began; allowed true, false, gaussian, eva, orthogonal, mica; save "
      "the adapter with peft's path_initial_model_for_weight_conversion ({})",
      found->dump().substr(0, 80), where));
}

template <class T>
T required(const json& config, const char* key, const std::string& where) {
  try {
    return config.at(key).get<T>();
  } catch (const json::exception&) {
    const auto found = config.find(key);
    throw FormatError(fmt::format("[lora] {} is {}, but a {} is needed ({})", key,
                                  found == config.end() ? "missing" : found->dump().substr(0, 80),
                                  std::is_arithmetic_v<T> ? "number" : "list or text", where));
  }
}

template <class T>
OrderedPatterns<T> patterns(const json& config, const char* key, const std::string& where) {
  OrderedPatterns<T> ordered;
  if (is_off(config, key)) return ordered;
  const json& object = config.at(key);
  QLORA_CHECK(object.is_object(), FormatError, "[lora] {} is a {}, allowed an object ({})", key,
              object.type_name(), where);
  for (const auto& [name, value] : object.items()) {
    QLORA_CHECK(value.is_number(), FormatError, "[lora] {}.{} is {}, allowed a number ({})", key,
                name, value.dump().substr(0, 80), where);
    ordered.emplace_back(name, value.template get<T>());
  }
  return ordered;
}

LoraOptions options_of(const json& config, const std::string& where) {
  LoraOptions options;
  options.r = required<int64_t>(config, "r", where);
  options.lora_alpha = required<double>(config, "lora_alpha", where);
  QLORA_CHECK(options.r >= 1 && options.r <= 1024, FormatError,
              "[lora] r is {}, allowed 1 to 1024 ({})", options.r, where);
  QLORA_CHECK(std::isfinite(options.lora_alpha) && options.lora_alpha > 0, FormatError,
              "[lora] lora_alpha is {}, allowed above 0 ({})", options.lora_alpha, where);
  options.lora_dropout =
      config.contains("lora_dropout") ? required<double>(config, "lora_dropout", where) : 0;
  QLORA_CHECK(options.lora_dropout >= 0 && options.lora_dropout < 1, FormatError,
              "[lora] lora_dropout is {}, allowed 0 to below 1 ({})", options.lora_dropout, where);
  options.use_rslora = !is_off(config, "use_rslora");
  const auto ranks = patterns<int64_t>(config, "rank_pattern", where);
  const auto alphas = patterns<double>(config, "alpha_pattern", where);
  options.rank_pattern = {ranks.begin(), ranks.end()};
  options.alpha_pattern = {alphas.begin(), alphas.end()};
  const auto targets = config.find("target_modules");
  if (targets != config.end() && targets->is_string()) {
    options.target_modules = {targets->get<std::string>()};
  } else {
    options.target_modules = required<std::vector<std::string>>(config, "target_modules", where);
  }
  return options;
}

torch::Tensor matrix(const io::TensorView& view, const std::string& where) {
  QLORA_CHECK(io::is_float(view.dtype), FormatError,
              "[lora] {} is of type {}, allowed F16, BF16, F32, F64, F8_E4M3, F8_E5M2 ({})",
              view.name, io::dtype_name(view.dtype), where);
  QLORA_CHECK(view.shape.size() == 2 && view.element_count() > 0, FormatError,
              "[lora] {} has shape {}, allowed two dimensions ({})", view.name,
              io::shape_text(view.shape), where);
  torch::Tensor out = at::empty({view.shape[0], view.shape[1]}, torch::kFloat32);
  io::read_f32(view, 0, out.numel(), out.mutable_data_ptr<float>());
  QLORA_CHECK(at::isfinite(out).all().item<bool>(), FormatError,
              "[lora] {} holds a number that is not finite ({})", view.name, where);
  return out;
}

/// Splits "base_model.model.<module>.lora_A.weight"; anything else is a feature not supported.
std::pair<std::string, char> module_and_half(const std::string& name, const std::string& where) {
  const std::string prefix = kPrefix;
  for (const char half : {'A', 'B'}) {
    const std::string ending = fmt::format(".lora_{}.weight", half);
    if (name.starts_with(prefix) && name.ends_with(ending) &&
        name.size() > prefix.size() + ending.size()) {
      return {name.substr(prefix.size(), name.size() - prefix.size() - ending.size()), half};
    }
  }
  throw FormatError(
      fmt::format("[lora] tensor {} is no LoRA matrix of a linear; allowed: "
                  "{}<module>.lora_A.weight and lora_B.weight. Adapters that also hold whole "
                  "modules (a resized vocabulary, modules_to_save, DoRA) are not supported ({})",
                  name, kPrefix, where));
}

void check_module(const std::string& module, const PeftAdapter::Matrices& m, int64_t r,
                  const std::string& where) {
  QLORA_CHECK(m.a.defined() && m.b.defined(), FormatError, "[lora] {} has no lora_{} ({})", module,
              m.a.defined() ? 'B' : 'A', where);
  QLORA_CHECK(m.a.size(0) == r && m.b.size(1) == r, FormatError,
              "[lora] {} has A {} and B {}, but its rank is {} in {} ({})", module,
              c10::str(m.a.sizes()), c10::str(m.b.sizes()), r, kConfigFile, where);
}

/// The value that most adapters share: what `r` and `lora_alpha` say, patterns list the others.
template <class T, class F>
T most_common(const std::vector<NamedAdapter>& adapters, const F& value_of) {
  std::map<T, int64_t> counts;
  for (const auto& named : adapters) ++counts[value_of(named.adapter)];
  return std::max_element(counts.begin(), counts.end(),
                          [](const auto& x, const auto& y) { return x.second < y.second; })
      ->first;
}

/// Whether name endings select what the options selected. A regex, a longer name or an adapter to
/// start from may take some layers only: then the file lists full names.
bool endings_suffice(const LoraOptions& options) {
  const auto is_ending = [](const std::string& target) {
    return target == "all-linear" || std::all_of(target.begin(), target.end(), [](unsigned char c) {
             return std::isalnum(c) != 0 || c == '_';
           });
  };
  return options.init_adapter.empty() &&
         std::all_of(options.target_modules.begin(), options.target_modules.end(), is_ending);
}

/// What the adapters compute with, which an adapter to start from decides, not the options.
bool uses_rslora(const std::vector<NamedAdapter>& adapters) {
  return std::any_of(adapters.begin(), adapters.end(), [](const NamedAdapter& named) {
    const Adapter& a = named.adapter;
    return std::abs(a.scale * static_cast<double>(a.rank()) - a.alpha) > 1e-6 * a.alpha;
  });
}

json config_of(const std::vector<NamedAdapter>& adapters, const LoraOptions& options,
               const std::string& base_model) {
  const auto rank_of = [](const Adapter& a) { return a.rank(); };
  const auto alpha_of = [](const Adapter& a) { return a.alpha; };
  const int64_t r = most_common<int64_t>(adapters, rank_of);
  const double alpha = most_common<double>(adapters, alpha_of);
  json ranks = json::object(), alphas = json::object();
  std::set<std::string> targets;
  for (const auto& [module, adapter] : adapters) {
    targets.insert(module.substr(module.rfind('.') + 1));
    if (adapter.rank() != r) ranks[module] = adapter.rank();
    if (adapter.alpha != alpha) alphas[module] = adapter.alpha;
  }
  std::set<std::string> names;
  for (const auto& named : adapters) names.insert(named.module);
  return {
      {"peft_type", "LORA"},
      {"task_type", "CAUSAL_LM"},
      {"base_model_name_or_path", base_model},
      {"r", r},
      {"lora_alpha", alpha == std::floor(alpha) ? json(static_cast<int64_t>(alpha)) : json(alpha)},
      {"lora_dropout", options.lora_dropout},
      {"target_modules", endings_suffice(options) ? json(targets) : json(names)},
      {"rank_pattern", ranks},
      {"alpha_pattern", alphas},
      {"use_rslora", uses_rslora(adapters)},
      {"bias", "none"},
      {"fan_in_fan_out", false},
      {"init_lora_weights", true},
      {"inference_mode", true},
      {"modules_to_save", nullptr}};
}

}  // namespace

PeftAdapter read_peft_adapter(const fs::path& directory) {
  const std::string where = directory.string();
  const json config = read_json_file(directory / kConfigFile);
  QLORA_CHECK(config.is_object(), FormatError, "[lora] {} holds a {}, allowed an object ({})",
              kConfigFile, config.type_name(), where);
  refuse_unsupported(config, where);
  refuse_changed_base(config, where);
  PeftAdapter adapter;
  adapter.options = options_of(config, where);
  const auto base = config.find("base_model_name_or_path");
  if (base != config.end() && base->is_string()) adapter.base_model = base->get<std::string>();

  const fs::path weights = directory / kWeightsFile;
  const io::SafetensorsReader reader(weights);
  for (const auto& view : reader.tensors()) {
    const auto [module, half] = module_and_half(view.name, where);
    auto& matrices = adapter.modules[module];
    (half == 'A' ? matrices.a : matrices.b) = matrix(view, weights.string());
  }
  QLORA_CHECK(!adapter.modules.empty(), FormatError, "[lora] {} holds no tensors ({})",
              kWeightsFile, where);
  const auto ranks = patterns<int64_t>(config, "rank_pattern", where);
  const auto alphas = patterns<double>(config, "alpha_pattern", where);
  for (auto& [module, matrices] : adapter.modules) {
    const AdapterShape shape = adapter_shape(module, adapter.options, ranks, alphas);
    check_module(module, matrices, shape.r, where);
    matrices.alpha = shape.alpha;
    matrices.scale = shape.scale;
  }
  return adapter;
}

std::optional<std::string> check_init_adapter(const PeftAdapter& adapter,
                                              const LoraOptions& section) {
  std::vector<std::string> modules;
  for (const auto& entry : adapter.modules) modules.push_back(entry.first);
  check_patterns(section, modules);
  const LoraOptions usual;
  const bool says_nothing = section.r == usual.r && section.lora_alpha == usual.lora_alpha &&
                            section.use_rslora == usual.use_rslora &&
                            section.rank_pattern.empty() && section.alpha_pattern.empty();
  for (const auto& [module, matrices] : adapter.modules) {
    const AdapterShape asked = adapter_shape(module, section);
    const int64_t r = matrices.a.size(0);
    if (asked.r == r && asked.alpha == matrices.alpha && asked.scale == matrices.scale) continue;
    const LoraOptions& own = adapter.options;
    std::string text = fmt::format(
        "{} has r {}, lora_alpha {} and use_rslora {} at {}, section lora says {}, {} and {}",
        section.init_adapter, r, matrices.alpha, own.use_rslora, module, asked.r, asked.alpha,
        section.use_rslora);
    const std::string to_do = fmt::format(
        "lora.r={} lora.lora_alpha={} lora.use_rslora={}{}", own.r, own.lora_alpha, own.use_rslora,
        own.rank_pattern.empty() && own.alpha_pattern.empty() ? "" : " and its patterns");
    QLORA_CHECK(says_nothing, ConfigError,
                "[lora] {}; set {} as the adapter has them, or leave all of them out", text, to_do);
    return fmt::format(
        "{}; the adapter decides, and the plan counts what the section says (set {})", text, to_do);
  }
  return std::nullopt;
}

void write_peft_adapter(const fs::path& directory, const std::vector<NamedAdapter>& adapters,
                        const LoraOptions& options, const std::string& base_model) {
  QLORA_CHECK(!adapters.empty(), ValueError, "[lora] there is no adapter to write to {}",
              directory.string());
  std::vector<torch::Tensor> halves;  // keeps the bytes alive until they are written
  std::vector<io::TensorView> views;
  for (const auto& [module, adapter] : adapters) {
    for (const auto& [half, master] : {std::pair{'A', adapter.a}, std::pair{'B', adapter.b}}) {
      const torch::Tensor stored = master.detach().to(torch::kCPU).to(adapter.dtype).contiguous();
      QLORA_CHECK(at::isfinite(stored).all().item<bool>(), ValueError,
                  "[lora] {} of {} is not finite as {}; train with a lower learning rate or "
                  "lora.adapter_dtype fp32",
                  half, module, c10::toString(adapter.dtype));
      halves.push_back(stored);
      views.push_back(
          tensor_view(fmt::format("{}{}.lora_{}.weight", kPrefix, module, half), stored));
    }
  }
  fs::create_directories(directory);
  io::write_file_atomic(directory / kConfigFile,
                        config_of(adapters, options, base_model).dump(2) + "\n");
  io::write_safetensors(directory / kWeightsFile, views, {{"format", "pt"}});
}

}  // namespace qlora::lora
