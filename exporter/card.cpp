#include "exporter/card.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/text.h"

namespace qlora::exporter {
namespace {

using F = ExportFormat;

/// A word for a shell command: what a name may hold, the rest as '-'.
std::string shell_word(const std::string& text) {
  std::string word;
  for (const char c : text) {
    const bool is_plain =
        std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.' || c == '/';
    word += is_plain ? c : '-';
  }
  return word.empty() || word[0] == '-' ? "model" + word : word;
}

std::string quoted(const std::string& text) {
  return "\"" + table_text(text) + "\"";
}

bool is_hub_name(const std::string& name) {
  const size_t slash = name.find('/');
  return slash != std::string::npos && slash > 0 && slash + 1 < name.size() &&
         name.find('/', slash + 1) == std::string::npos && name[0] != '.';
}

std::vector<std::string> tags(const Preflight& p) {
  std::vector<std::string> tags = {"qlora"};
  if (p.grid.is_quantized()) {
    tags.push_back(name_of(p.grid.type));
    tags.push_back(fmt::format("{}-bit", p.grid.bits));
  }
  const std::string format = name_of(p.grid.format);
  if (std::find(tags.begin(), tags.end(), format) == tags.end()) tags.push_back(format);
  return tags;
}

std::string front_matter(const Preflight& p, const CardFacts& facts) {
  const bool is_gguf = p.grid.format == F::kGguf;
  std::string text = "---\n";
  if (is_hub_name(facts.base_model)) {
    text += fmt::format("base_model: {}\nbase_model_relation: {}\n", quoted(facts.base_model),
                        p.grid.is_quantized() ? "quantized" : "finetune");
  }
  if (!facts.licence.empty()) text += fmt::format("license: {}\n", quoted(facts.licence));
  text += fmt::format("library_name: {}\npipeline_tag: text-generation\ntags:\n",
                      is_gguf ? "gguf" : "transformers");
  for (const std::string& tag : tags(p)) text += fmt::format("- {}\n", tag);
  if (p.grid.is_quantized()) {
    text += fmt::format(
        "quantization:\n  method: {}\n  bits: {}\n  group_size: {}\n"
        "  symmetric: {}\n  format: {}\n",
        name_of(p.grid.type), p.grid.bits, p.group_size, p.grid.symmetric, name_of(p.grid.format));
  }
  return text + "---\n";
}

std::string loading(const Preflight& p, const CardFacts& facts) {
  if (p.grid.format == F::kGguf) return "";
  std::string needs = "transformers";
  if (p.grid.format == F::kAwq || p.grid.format == F::kGptq || p.grid.format == F::kGptqV2) {
    needs += " gptqmodel optimum";
  } else if (p.grid.format == F::kCompressedTensors) {
    needs += " compressed-tensors";
  } else if (p.grid.format == F::kNf4) {
    needs += " bitsandbytes";
  }
  return fmt::format(
      "\n## Load\n\n```python\n# pip install {}\nfrom transformers import AutoModelForCausalLM, "
      "AutoTokenizer\nmodel = AutoModelForCausalLM.from_pretrained(\"{}\")\ntokenizer = "
      "AutoTokenizer.from_pretrained(\"{}\")\n```\n",
      needs, shell_word(facts.name), shell_word(facts.name));
}

std::string numbers(const ExportReport& report) {
  std::string text = "\n## Numbers\n\n" + stages_markdown(report);
  if (!report.protocol.empty()) {
    text += fmt::format(
        "\nPerplexity on {}. KL and top-1 agreement are against the model with its "
        "unmerged adapter. GB is 1e9 bytes.\n",
        table_text(report.protocol));
  }
  if (!report.calibration.empty()) {
    text += fmt::format("Calibrated on {}.\n", table_text(report.calibration));
  }
  if (report.gate) {
    text += fmt::format("Gate: perplexity ratio {:.4f}, allowed at most {:.4f}: {}.\n",
                        report.gate->ratio, report.gate->max_ratio,
                        report.gate->passed ? "passed" : "not passed");
  }
  return text + "\nLayers and settings: [report.html](report.html), [report.json](report.json).\n";
}

}  // namespace

std::string serve_command(const Preflight& p, const CardFacts& facts) {
  const std::string name = shell_word(facts.name);
  switch (p.grid.format) {
    case F::kGguf:
      return fmt::format("llama-server -m {}/{}", name, shell_word(facts.gguf_file));
    case F::kGptqV2:
      return "";
    case F::kNf4:
      return fmt::format("vllm serve ./{} --quantization bitsandbytes", name);
    case F::kAwq:
    case F::kGptq:
      // Their scales are FP16, and so are vLLM's kernels for them.
      return fmt::format("vllm serve ./{} --dtype float16", name);
    default:
      return fmt::format("vllm serve ./{}", name);
  }
}

std::string upload_command(const CardFacts& facts) {
  return fmt::format("hf upload {} . --repo-type model", shell_word(facts.name));
}

std::string model_card(const Preflight& p, const ExportReport& report, const CardFacts& facts) {
  std::string text = front_matter(p, facts);
  text += fmt::format("\n# {}\n\n", table_text(facts.name));
  text += fmt::format("{}{}. Written by qlora.\n",
                      facts.base_model.empty() ? "A language model" : table_text(facts.base_model),
                      facts.dataset.empty() ? ""
                                            : fmt::format(", fine-tuned on {} and merged",
                                                          table_text(facts.dataset)));
  if (p.grid.is_quantized()) {
    text += fmt::format("Quantized: {}, group size {}.\n", describe(p.grid), p.group_size);
  }
  text += numbers(report);
  const std::string command = serve_command(p, facts);
  if (!command.empty()) {
    text +=
        fmt::format("\n## Serve\n\nFrom the folder above this one:\n\n```sh\n{}\n```\n", command);
  }
  text += loading(p, facts);
  text += fmt::format("\n## Upload\n\nIn this folder:\n\n```sh\n{}\n```\n", upload_command(facts));
  if (!report.warnings.empty()) {
    text += "\n## Warnings\n\n";
    for (const std::string& warning : report.warnings) {
      text += fmt::format("- {}\n", table_text(warning));
    }
  }
  return text;
}

}  // namespace qlora::exporter
