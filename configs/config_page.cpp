// The texts of `qlora config`.
#include "configs/run_config.h"

namespace qlora::configs {
namespace {

constexpr const char* kTitle = "Configuration keys";

constexpr const char* kIntroduction = R"(
This page is written by `qlora config docs`; a test fails where it is stale.

A configuration is one JSON file; `//` and `/* */` comments are allowed. Every key has a default:
a file holds what differs. Keys that do not exist, values of a wrong type or out of range, and keys
given twice are refused with the path and the nearest name. `--set key=value` overrides a key for
one run: `--set lora.r=8`, `--set lora.target_modules=q_proj,v_proj`,
`--set lora.rank_pattern.q_proj=4`; `none` unsets what may be null.

- `qlora config explain KEY` says what a key means, `qlora config validate FILE` checks a file
  without running it, `qlora config schema` prints a JSON Schema: name its file in `"$schema"`, and
  an editor completes and checks keys.
- Every run writes all its keys, with the values that counted, to `config.resolved.json` in its
  output directory.
- Common synonyms (`lr`, `lora_r`, `batch_size`, …) are read with a notice.

## Which setting wins

- **Number type of matrix products.** `compute_dtype`, or `quantization.bnb_4bit_compute_dtype`,
  which is the same setting under its bitsandbytes name (two different values are refused). Where it
  is `auto`, `fp16: true` makes it FP16 and `bf16: true` makes it BF16 (both are refused). So `fp16`
  over a BF16 compute type, as many QLoRA recipes have it, computes in BF16: forward and backward
  products, and what flows between them. A notice says so.
- **FP16 and loss scaling.** The loss is scaled only where products are FP16
  (`loss_scaling.kind: auto`); BF16 and FP32 have the exponents to do without.
- **Adapters.** `lora.adapter_dtype` is the type of A and B in the forward pass and in files, whatever
  computes. The masters that the optimizer updates, norms, softmax, the residual stream and the loss
  are FP32 always; there are no keys for these.
- **Length of a run.** `max_steps` above 0 counts, and passes over the data repeat as needed; else
  `num_train_epochs`.
- **Warmup.** `warmup_steps` above 0 counts, else `warmup_ratio` of all steps, rounded up.
  `lr_scheduler_type: constant` has none.
- **Batch.** One optimizer step sees `per_device_train_batch_size` x `gradient_accumulation_steps`
  examples; its loss is the mean over all their learnt tokens together.

## Keys at the top
)";

}  // namespace

std::string config_page() {
  const std::string page = document_fields<RunConfig>(kTitle);
  const std::string heading = std::string("# ") + kTitle + "\n";
  return heading + kIntroduction + page.substr(heading.size());
}

Json config_schema() {
  return schema_fields<RunConfig>(kTitle);
}

std::string explain_key(const std::string& path) {
  return explain_field<RunConfig>(path);
}

Json explain_key_json(const std::string& path) {
  return explain_field_json<RunConfig>(path);
}

}  // namespace qlora::configs
