#include "model/decoder.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "core/device.h"
#include "core/error.h"
#include "core/rng.h"
#include "lora/fit_grid.h"
#include "lora/peft_files.h"
#include "lora/targets.h"
#include "model/loss_head.h"
#include "model/neftune.h"
#include "model/rms_norm.h"
#include "model/token_pass.h"

namespace qlora::model {

namespace {

using torch::Tensor;

torch::ScalarType adapter_scalar(lora::AdapterDtype dtype) {
  switch (dtype) {
    case lora::AdapterDtype::kFloat16:
      return torch::kFloat16;
    case lora::AdapterDtype::kBFloat16:
      return torch::kBFloat16;
    case lora::AdapterDtype::kFloat32:
      return torch::kFloat32;
  }
  return torch::kFloat32;
}

/// PEFT's start: A as torch's Linear (Kaiming uniform with a = sqrt(5): ±1/sqrt(K)), B zero.
lora::Adapter fresh_adapter(const lora::LoraLinear& linear, const lora::LoraOptions& options,
                            uint64_t seed) {
  const auto shape = lora::adapter_shape(linear.name(), options);
  const int64_t k = linear.weight().cols(), n = linear.weight().rows();
  lora::Adapter adapter{.a = at::empty({shape.r, k}, torch::kFloat32),
                        .b = at::zeros({n, shape.r}, torch::kFloat32),
                        .alpha = shape.alpha,
                        .scale = shape.scale,
                        .dropout = options.lora_dropout,
                        .dtype = adapter_scalar(options.adapter_dtype)};
  Rng rng(seed, lora::dropout_stream(linear.name()));
  const double bound = 1.0 / std::sqrt(static_cast<double>(k));
  float* a = adapter.a.mutable_data_ptr<float>();
  for (int64_t i = 0; i < shape.r * k; ++i) {
    a[i] = static_cast<float>((2 * rng.uniform() - 1) * bound);
  }
  return adapter;
}

/// The masters as leaves, in memory of their own on the device.
void place(lora::Adapter& adapter, torch::Device device) {
  for (Tensor* master : {&adapter.a, &adapter.b}) {
    *master = master->to(device).requires_grad_(true);
  }
}

/// Gives the linears the adapters of a PEFT folder.
void place_all(const lora::PeftAdapter& file, const std::string& where, lora::AdapterDtype dtype,
               double dropout, const std::vector<lora::LoraLinear*>& linears,
               torch::Device device) {
  std::map<std::string, lora::LoraLinear*> by_name;
  for (auto* linear : linears) by_name[linear->name()] = linear;
  for (const auto& [module, matrices] : file.modules) {
    const auto found = by_name.find(module);
    QLORA_CHECK(found != by_name.end(), FormatError,
                "[model] the adapter changes {}, which is no linear of this model ({}); is it the "
                "adapter of another base?",
                module, where);
    lora::Adapter adapter{.a = matrices.a.clone(),
                          .b = matrices.b.clone(),
                          .alpha = matrices.alpha,
                          .scale = matrices.scale,
                          .dropout = dropout,
                          .dtype = adapter_scalar(dtype)};
    place(adapter, device);
    found->second->set_adapter(std::move(adapter));
  }
}

/// The adapter to start from decides what is trained; a section that names targets has to agree.
void check_targets(const lora::PeftAdapter& file, const std::vector<std::string>& linears,
                   const lora::LoraOptions& options) {
  if (options.target_modules == lora::LoraOptions().target_modules) return;
  const auto asked = lora::select_targets(linears, options);
  for (const auto& name : asked) {
    QLORA_CHECK(file.modules.contains(name), ConfigError,
                "[lora] lora.target_modules selects {}, for which {} has no adapter; name the "
                "adapter's modules, or leave target_modules out",
                name, options.init_adapter);
  }
  for (const auto& [module, matrices] : file.modules) {
    QLORA_CHECK(std::find(asked.begin(), asked.end(), module) != asked.end(), ConfigError,
                "[lora] {} has an adapter for {}, which lora.target_modules does not select; name "
                "the adapter's modules, or leave target_modules out",
                options.init_adapter, module);
  }
}

BlockAngles moved_to(const BlockAngles& angles, torch::Device device) {
  const auto moved = [&](const Tensor& t) { return t.defined() ? t.to(device) : t; };
  return {{moved(angles.global.cos), moved(angles.global.sin)},
          {moved(angles.local.cos), moved(angles.local.sin)}};
}

}  // namespace

void Decoder::add_adapters(const lora::LoraOptions& options, uint64_t seed) {
  std::map<std::string, lora::LoraLinear*> by_name;
  std::vector<std::string> names;
  for (auto* linear : linears()) {
    by_name[linear->name()] = linear;
    names.push_back(linear->name());
  }
  if (!options.init_adapter.empty()) {
    const auto file = lora::read_peft_adapter(options.init_adapter);
    lora::check_init_adapter(file, options);
    place_all(file, options.init_adapter, options.adapter_dtype, options.lora_dropout, linears(),
              device_);
    check_targets(file, names, options);
    return;
  }
  for (const auto& name : lora::select_targets(names, options)) {
    lora::Adapter adapter = fresh_adapter(*by_name[name], options, seed);
    place(adapter, device_);
    by_name[name]->set_adapter(std::move(adapter));
  }
}

void Decoder::load_adapter(const std::string& peft_directory, lora::AdapterDtype dtype,
                           double dropout) {
  place_all(lora::read_peft_adapter(peft_directory), peft_directory, dtype, dropout, linears(),
            device_);
}

void Decoder::set_grids(std::map<std::string, lora::LinearGrid> grids) {
  QLORA_CHECK(grids.empty() || device_.is_cpu(), ConfigError,
              "[model] the model is on {}, where weights are not rounded to a grid in training; "
              "allowed cpu: set device to cpu, or leave section qat out",
              device_.str());
  for (const auto* linear : linears()) {
    if (grids.contains(linear->name())) lora::check_can_be_rounded(linear->weight());
  }
  grids_ = std::move(grids);
}

void Decoder::fit_grids() {
  for (auto* linear : linears()) {
    const auto found = grids_.find(linear->name());
    if (found == grids_.end() || found->second.held == nullptr) continue;
    lora::fit_held_grid(linear->name(), linear->weight(),
                        linear->adapter() ? &*linear->adapter() : nullptr, found->second);
  }
}

void Decoder::end_grid_step() {
  for (auto& [module, grid] : grids_) {
    if (grid.observer != nullptr) grid.observer->commit();
    if (grid.held != nullptr) lora::keep_in_range(module, *grid.held);
  }
}

void Decoder::set_fake_quant(bool on) {
  is_rounding_ = on && (!grids_.empty() || kv_rounding_ != KvRounding::kNone);
  active_kv_rounding_ = on ? kv_rounding_ : KvRounding::kNone;
  for (auto* linear : linears()) {
    const auto found = grids_.find(linear->name());
    if (found == grids_.end()) continue;
    linear->set_grid(on ? std::optional(found->second) : std::nullopt);
  }
}

void Decoder::hold_rounded_weights() {
  const at::NoGradGuard no_graph;
  for (auto* linear : linears()) linear->hold_rounded_weight();
}

std::vector<lora::LoraLinear*> Decoder::linears() {
  std::vector<lora::LoraLinear*> all;
  for (auto& block : blocks_) {
    for (auto* linear : block.linears()) all.push_back(linear);
  }
  return all;
}

std::vector<lora::NamedAdapter> Decoder::adapters() const {
  std::vector<lora::NamedAdapter> named;
  for (const auto& block : blocks_) {
    for (const auto* linear : block.linears()) {
      if (linear->adapter()) named.push_back({linear->name(), *linear->adapter()});
    }
  }
  return named;
}

std::vector<Tensor> Decoder::trainable_parameters() const {
  std::vector<Tensor> parameters;
  for (const auto& named : adapters()) {
    parameters.push_back(named.adapter.a);
    parameters.push_back(named.adapter.b);
  }
  for (const auto& [module, grid] : grids_) {
    if (grid.held != nullptr && grid.held->factor.defined()) {
      parameters.push_back(grid.held->factor);
    }
  }
  return parameters;
}

Tensor Decoder::hidden_states(const TokenBatch& batch, const ForwardContext& context) const {
  PassLayout layout{.segment_starts = batch.segment_starts,
                    .rope = moved_to(rope_.angles(batch.segment_starts), device_),
                    .compute_dtype = compute_dtype_,
                    .dropout = {context.training, context.seed, context.draw},
                    .kv_rounding = active_kv_rounding_};
  Tensor h = embed_tokens(embedding_, batch.tokens, config_.arch.embedding_scale);
  if (context.training && context.neftune_noise_alpha > 0) {
    add_neftune_noise(h, batch.segment_starts, context.neftune_noise_alpha, context.seed,
                      context.draw);
  }
  const bool keeps_inputs = context.gradient_checkpointing && at::GradMode::is_enabled();
  if (keeps_inputs && context.activation_offloading) {
    layout.offload = std::make_shared<ActivationOffload>(device_);
  }
  for (const auto& block : blocks_) {
    h = keeps_inputs ? block.forward_checkpointed(h, layout) : block.forward(h, layout);
  }
  return rms_norm(h, final_norm_, config_.rms_norm_eps, compute_dtype_);
}

Tensor Decoder::loss_sum(const TokenBatch& batch, const ForwardContext& context) const {
  check_segments(batch);
  const TokenBatch rounded = rounded_up(batch);
  return target_loss_sum(hidden_states(rounded, context), lm_head_, rounded.targets,
                         config_.arch.logit_softcap);
}

Tensor Decoder::target_nll(const TokenBatch& batch) const {
  const at::NoGradGuard no_graph;
  check_segments(batch);
  const TokenBatch rounded = rounded_up(batch);
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  return target_losses(hidden_states(rounded, {}), lm_head_, rounded.targets,
                       config_.arch.logit_softcap)
      .narrow(0, 0, tokens);
}

Tensor Decoder::logits(const TokenBatch& batch) const {
  const at::NoGradGuard no_graph;
  check_segments(batch);
  const auto tokens = static_cast<int64_t>(batch.tokens.size());
  const Tensor hidden = hidden_states(rounded_up(batch), {}).narrow(0, 0, tokens);
  return all_logits(hidden, lm_head_, config_.arch.logit_softcap);
}

KvCache Decoder::new_cache(int64_t capacity_tokens) const {
  KvCache cache{.capacity = capacity_tokens};
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto make = [&] {
      return at::empty({config_.num_key_value_heads, capacity_tokens, config_.head_dim},
                       torch::TensorOptions(device_).dtype(compute_dtype_));
    };
    cache.layers.push_back({make(), make()});
  }
  return cache;
}

Tensor Decoder::next_logits(const std::vector<int32_t>& new_tokens, KvCache& cache) const {
  const at::NoGradGuard no_graph;
  const int64_t n = static_cast<int64_t>(new_tokens.size());
  QLORA_CHECK(n >= 1 && cache.length + n <= cache.capacity, ValueError,
              "[model] {} new tokens behind {} do not fit a cache of {}; allowed at least 1 and at "
              "most what is left",
              n, cache.length, cache.capacity);
  PassLayout layout{.segment_starts = {0, static_cast<int32_t>(n)},
                    .rope = moved_to(rope_.angles_from(cache.length, n, cache.capacity), device_),
                    .compute_dtype = compute_dtype_,
                    .kv_rounding = active_kv_rounding_};
  Tensor h = embed_tokens(embedding_, new_tokens, config_.arch.embedding_scale);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    h = blocks_[i].forward_cached(h, layout, cache.layers[i], cache.length);
  }
  cache.length += n;
  const Tensor last =
      rms_norm(h.narrow(0, n - 1, 1), final_norm_, config_.rms_norm_eps, compute_dtype_);
  return all_logits(last, lm_head_, config_.arch.logit_softcap).view({-1});
}

int64_t Decoder::parameter_count() const {
  int64_t count = embedding_.numel() + final_norm_.numel();
  if (!lm_head_.is_alias_of(embedding_)) count += lm_head_.numel();
  for (const auto& block : blocks_) {
    for (const Tensor* norm : block.norms()) count += norm->numel();
    if (block.router.defined()) count += block.router.numel();
    for (const auto* linear : block.linears()) {
      count += linear->weight().rows() * linear->weight().cols();
      if (linear->bias().defined()) count += linear->bias().numel();
    }
  }
  return count;
}

int64_t Decoder::trainable_parameter_count() const {
  int64_t count = 0;
  for (const auto& parameter : trainable_parameters()) count += parameter.numel();
  return count;
}

int64_t Decoder::base_bytes() const {
  int64_t bytes = static_cast<int64_t>(embedding_.nbytes() + final_norm_.nbytes());
  if (!lm_head_.is_alias_of(embedding_)) bytes += static_cast<int64_t>(lm_head_.nbytes());
  for (const auto& block : blocks_) {
    for (const Tensor* norm : block.norms()) bytes += static_cast<int64_t>(norm->nbytes());
    if (block.router.defined()) bytes += static_cast<int64_t>(block.router.nbytes());
    for (const auto* linear : block.linears()) {
      bytes += linear->weight().bytes();
      if (linear->bias().defined()) bytes += static_cast<int64_t>(linear->bias().nbytes());
    }
  }
  return bytes;
}

std::string Decoder::trainable_summary() const {
  return lora::trainable_summary(trainable_parameter_count(), parameter_count());
}

}  // namespace qlora::model
