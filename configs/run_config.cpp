#include "configs/run_config.h"

#include <algorithm>

#include "core/error.h"
#include "core/json_file.h"

namespace qlora::configs {

LoadedConfig load_run_config(const std::string& path, const std::vector<std::string>& overrides) {
  LoadedConfig loaded;
  ReadNotes notes = read_fields(read_json_file(path), loaded.config, path);
  for (const std::string& assignment : overrides) {
    notes.merge(override_field(loaded.config, assignment));
  }
  const bool has_export = std::any_of(notes.given.begin(), notes.given.end(),
                                      [](const auto& key) { return key.starts_with("export."); });
  auto& after_training = loaded.config.exporting.after_training;
  if (!after_training) after_training = has_export;  // the resolved file says what was meant
  loaded.notices = std::move(notes.notices);
  for (std::string& text : resolve(loaded.config)) {
    loaded.notices.push_back(std::move(text));
  }
  return loaded;
}

model::ModelOptions model_options(const RunConfig& config) {
  // Weights are rounded to a grid on the CPU alone: auto means that then.
  const bool is_left_open = config.device == model::DeviceChoice::kAuto;
  const auto device =
      config.qat.is_on() && is_left_open ? model::DeviceChoice::kCpu : config.device;
  return {.model_path = config.model_name_or_path,
          .compute_dtype = config.compute_dtype,
          .device = device,
          .load_in_4bit = config.quantization.load_in_4bit,
          .cache_dir = config.quantization.cache_dir,
          .exact_base = config.qat.is_on()};
}

}  // namespace qlora::configs
