#pragma once

#include <string>
#include <vector>

#include "exporter/preflight.h"
#include "exporter/report.h"

namespace qlora::exporter {

/// What a model card says beside the report's numbers.
struct CardFacts {
  std::string name;        // of the folder: title, and the name in the upload command
  std::string base_model;  // as the hub or the user calls it; empty: unknown
  std::string licence;     // "apache-2.0"; empty: unknown
  std::string gguf_file;   // name of the file, where format is gguf
  std::string dataset;     // training data of the adapter; empty: no adapter
};

/// The command that serves the folder with vLLM, or with llama.cpp where the format is gguf. Empty
/// for what vLLM does not read (gptq_v2).
std::string serve_command(const Preflight& preflight, const CardFacts& facts);

/// "hf upload NAME . --repo-type model", run in the folder.
std::string upload_command(const CardFacts& facts);

/// README.md: YAML front matter as model hubs read it, what it is, the table of numbers, how to
/// serve, load and upload it.
std::string model_card(const Preflight& preflight, const ExportReport& report,
                       const CardFacts& facts);

}  // namespace qlora::exporter
