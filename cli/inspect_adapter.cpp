#include "cli/inspect_adapter.h"

#include "core/error.h"
#include "core/json_file.h"
#include "lora/peft_files.h"

namespace qlora::cli {

Json inspect_adapter(const std::filesystem::path& directory, TensorList tensors) {
  const Json config = read_json_file(directory / "adapter_config.json");
  Json facts = {{"kind", "PEFT adapter"}, {"path", directory.string()}};
  for (const char* key : {"base_model_name_or_path", "peft_type", "task_type", "r", "lora_alpha",
                          "lora_dropout", "use_rslora", "target_modules"}) {
    if (config.contains(key)) facts[key] = config[key];
  }
  const Json files = inspect_safetensors(directory / "adapter_model.safetensors", tensors);
  for (const char* key : {"tensors", "parameters", "size_bytes", "types", "tensor_list"}) {
    if (files.contains(key)) facts[key] = files[key];
  }
  try {
    facts["adapted_linears"] = lora::read_peft_adapter(directory).modules.size();
  } catch (const Error& error) {
    facts["not_supported"] = error.what();
  }
  return facts;
}

}  // namespace qlora::cli
