#pragma once

#include <nlohmann/json.hpp>

#include "exporter/preflight.h"
#include "quant/gptq_options.h"

namespace qlora::exporter {

/// What the loaders' configuration says beside the grid.
struct QuantizationFacts {
  quant::GptqOptions gptq;
  bool true_sequential = true;
  bool has_static_input_scales = false;    // int8, fp8: input_scale tensors are written
  bool double_quant = true;                // nf4
  std::string compute_dtype = "bfloat16";  // nf4: of matrix products
  std::string program = "qlora:0.1.0";     // who wrote it, for GPTQ's meta
};

/// `quantization_config` of config.json as transformers, vLLM, GPTQModel and AutoAWQ read it; null
/// where nothing is quantized.
///   gptq     modules that differ stand in `dynamic`; skipped ones with "-:". Asymmetric v1 files
///            name gptqmodel:0.9.0 as a second quantizer: GPTQModel reads them only where that says
///            that no zero point wraps around, and here none does
///   awq      skipped modules stand in modules_to_not_convert
///   compressed-tensors  groups by bits and group size, skipped modules in `ignore`
///   throws   ValueError for gguf, which has no config.json
nlohmann::ordered_json quantization_config(const Preflight& preflight,
                                           const QuantizationFacts& facts);

}  // namespace qlora::exporter
