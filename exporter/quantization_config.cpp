#include "exporter/quantization_config.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "core/error.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;
using Json = nlohmann::ordered_json;

std::vector<std::string> skipped(const Preflight& p) {
  std::vector<std::string> names;
  for (const ModuleGrid& m : p.modules) {
    if (!m.is_quantized()) names.push_back(m.name);
  }
  return names;
}

/// The regular expression of one name.
std::string exactly(const std::string& name) {
  std::string pattern = "^";
  for (const char c : name) pattern += c == '.' ? "\\." : std::string(1, c);
  return pattern + "$";
}

Json gptq_dynamic(const Preflight& p) {
  Json dynamic = Json::object();
  for (const ModuleGrid& m : p.modules) {
    if (m.name == "lm_head" && !m.is_quantized()) continue;  // "lm_head": false says so
    if (!m.is_quantized()) {
      dynamic["-:" + exactly(m.name)] = Json::object();
    } else if (m.bits != p.grid.bits || m.group_size != p.group_size) {
      dynamic["+:" + exactly(m.name)] = {{"bits", m.bits}, {"group_size", m.group_size}};
    }
  }
  return dynamic;
}

Json gptq_config(const Preflight& p, const QuantizationFacts& facts) {
  const bool is_v1 = p.grid.format == F::kGptq;
  const char* format = is_v1 ? "gptq" : "gptq_v2";
  const bool by_gptq = p.grid.type == QuantizationType::kGptq;
  const bool has_head =
      !p.modules.empty() && p.modules.back().name == "lm_head" && p.modules.back().is_quantized();
  Json quantizers = Json::array({facts.program});
  if (is_v1 && !p.grid.symmetric) quantizers.push_back("gptqmodel:0.9.0");
  Json config = {
      {"quant_method", "gptq"},
      {"bits", p.grid.bits},
      {"group_size", p.group_size},
      {"desc_act", by_gptq && facts.gptq.desc_act},
      {"sym", p.grid.symmetric},
      {"checkpoint_format", format},
      {"format", format},
      {"lm_head", has_head},
      {"pack_dtype", "int32"},
      {"damp_percent", facts.gptq.damp_percent},
      {"static_groups", by_gptq && facts.gptq.static_groups},
      {"true_sequential", facts.true_sequential},
      {"meta",
       {{"quantizer", quantizers},
        {"damp_percent", facts.gptq.damp_percent},
        {"act_group_aware", by_gptq && facts.gptq.act_group_aware && !facts.gptq.desc_act},
        {"method", name_of(p.grid.type)}}}};
  const Json dynamic = gptq_dynamic(p);
  if (!dynamic.empty()) config["dynamic"] = dynamic;
  return config;
}

Json awq_config(const Preflight& p) {
  std::vector<std::string> names = skipped(p);
  const bool only_head = names == std::vector<std::string>{"lm_head"};  // what null means as well
  return {{"quant_method", "awq"},
          {"bits", p.grid.bits},
          {"group_size", p.group_size},
          {"zero_point", true},
          {"version", "gemm"},
          {"modules_to_not_convert", names.empty() || only_head ? Json() : Json(names)}};
}

/// Arguments of one kind of tensor in compressed-tensors' terms.
Json scheme(const char* type, int64_t bits, const char* strategy, int64_t group_size,
            bool dynamic) {
  return {{"num_bits", bits},
          {"type", type},
          {"symmetric", true},
          {"strategy", strategy},
          {"group_size", group_size > 0 ? Json(group_size) : Json()},
          {"dynamic", dynamic},
          {"actorder", nullptr},
          {"block_structure", nullptr},
          {"observer", dynamic ? Json() : Json("minmax")},
          {"observer_kwargs", Json::object()}};
}

Json weight_scheme(const Preflight& p, int64_t bits, int64_t group_size) {
  if (p.grid.type == QuantizationType::kFp8) {
    return scheme("float", 8, p.grid.static_fp8 ? "tensor" : "channel", -1, false);
  }
  const bool by_row = group_size < 1;
  return scheme("int", bits, by_row ? "channel" : "group", group_size, false);
}

Json input_scheme(const Preflight& p, const QuantizationFacts& facts) {
  if (p.grid.type == QuantizationType::kSmoothquant) {
    return facts.has_static_input_scales ? scheme("int", 8, "tensor", -1, false)
                                         : scheme("int", 8, "token", -1, true);
  }
  if (p.grid.type != QuantizationType::kFp8) return nullptr;
  return facts.has_static_input_scales ? scheme("float", 8, "tensor", -1, false)
                                       : scheme("float", 8, "token", -1, true);
}

const char* compression_format(const ResolvedGrid& grid) {
  if (grid.type == QuantizationType::kFp8) return "float-quantized";
  return grid.type == QuantizationType::kSmoothquant ? "int-quantized" : "pack-quantized";
}

Json compressed_config(const Preflight& p, const QuantizationFacts& facts) {
  // Modules by (bits, group size). The first group holds the usual ones, by their class.
  std::map<std::pair<int64_t, int64_t>, std::vector<std::string>> others;
  for (const ModuleGrid& m : p.modules) {
    if (m.is_quantized() && (m.bits != p.grid.bits || m.group_size != p.group_size)) {
      others[{m.bits, m.group_size}].push_back(m.name);
    }
  }
  const char* format = compression_format(p.grid);
  const auto group = [&](const Json& targets, int64_t bits, int64_t group_size) {
    return Json{{"targets", targets},
                {"format", format},
                {"weights", weight_scheme(p, bits, group_size)},
                {"input_activations", input_scheme(p, facts)},
                {"output_activations", nullptr}};
  };
  Json groups = Json::object();
  groups["group_0"] = group(Json::array({"Linear"}), p.grid.bits, p.group_size);
  for (const auto& [key, names] : others) {
    groups["group_" + std::to_string(groups.size())] = group(names, key.first, key.second);
  }
  std::vector<std::string> ignored = skipped(p);
  if (p.modules.empty() || p.modules.back().name != "lm_head") ignored.push_back("lm_head");
  return {{"quant_method", "compressed-tensors"},
          {"format", format},
          {"quantization_status", "compressed"},
          {"config_groups", groups},
          {"ignore", ignored},
          {"kv_cache_scheme", nullptr},
          {"global_compression_ratio", nullptr},
          {"sparsity_config", Json::object()},
          {"version", "0.17.0"}};
}

Json nf4_config(const Preflight& p, const QuantizationFacts& facts) {
  const std::vector<std::string> names = skipped(p);
  return {{"quant_method", "bitsandbytes"},
          {"_load_in_4bit", true},
          {"_load_in_8bit", false},
          {"load_in_4bit", true},
          {"load_in_8bit", false},
          {"bnb_4bit_quant_type", "nf4"},
          {"bnb_4bit_use_double_quant", facts.double_quant},
          {"bnb_4bit_compute_dtype", facts.compute_dtype},
          {"bnb_4bit_quant_storage", "uint8"},
          {"llm_int8_enable_fp32_cpu_offload", false},
          {"llm_int8_has_fp16_weight", false},
          {"llm_int8_skip_modules", names.empty() ? Json() : Json(names)},
          {"llm_int8_threshold", 6.0}};
}

}  // namespace

Json quantization_config(const Preflight& p, const QuantizationFacts& facts) {
  switch (p.grid.format) {
    case F::kGptq:
    case F::kGptqV2:
      return gptq_config(p, facts);
    case F::kAwq:
      return awq_config(p);
    case F::kCompressedTensors:
      return compressed_config(p, facts);
    case F::kNf4:
      return nf4_config(p, facts);
    case F::kHf:
      return nullptr;
    default:
      throw ValueError(
          fmt::format("[export] the format {} has no quantization_config", name_of(p.grid.format)));
  }
}

}  // namespace qlora::exporter
