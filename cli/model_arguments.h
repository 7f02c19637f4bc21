#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "configs/run_config.h"
#include "core/run_log.h"
#include "model/decoder.h"

namespace CLI {
class App;
}

namespace qlora::cli {

/// Options that every subcommand with a model has.
struct ModelArguments {
  std::string model_path;  // empty: the base model that the adapter names
  std::string adapter;
  bool load_in_4bit = false;
  std::string compute_dtype;           // empty: the default
  std::string device;                  // the same
  int64_t threads = 0;                 // 0: the default
  std::vector<std::string> overrides;  // --set
  bool json = false;
};

/// Warns where an adapter's run recorded other weights than those of the model.
///   cost      nothing where the model lies where it lay then, else reads it once
void warn_of_other_base(const std::string& adapter, const std::string& model_path, RunLog& log);

void add_model_options(CLI::App& command, ModelArguments& arguments);
/// `--set a.b=value`, may be given several times.
void add_set_option(CLI::App& command, std::vector<std::string>& overrides);
void add_device_option(CLI::App& command, std::string& device);
void add_json_option(CLI::App& command, bool& json);

/// The configuration that the options stand for; --set has the last word.
///   throws    ConfigError for an unknown key or a value out of range, or where no model is named
configs::RunConfig resolve_config(const ModelArguments& arguments, RunLog& log);

/// Loads the model, with the adapter if one is named. Says so through the log.
model::Decoder load_model(const configs::RunConfig& config, const ModelArguments& arguments,
                          RunLog& log);

/// Facts about the model for --json.
Json model_facts(const model::Decoder& model, const configs::RunConfig& config,
                 const ModelArguments& arguments);

}  // namespace qlora::cli
