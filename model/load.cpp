#include "model/load.h"

#include <utility>

#include "core/clock.h"
#include "core/progress.h"
#include "lora/weight_device.h"
#include "model/block_loader.h"
#include "model/decoder.h"
#include "model/device_choice.h"
#include "model/nf4_cache.h"

namespace qlora::model {

torch::ScalarType resolve_compute_dtype(ComputeDtype choice, bool is_cuda) {
  switch (choice) {
    case ComputeDtype::kBFloat16:
      return torch::kBFloat16;
    case ComputeDtype::kFloat16:
      return torch::kFloat16;
    case ComputeDtype::kFloat32:
      return torch::kFloat32;
    case ComputeDtype::kAuto:
      break;
  }
  if (is_cuda) return torch::kBFloat16;  // every device that kernels are made for multiplies it
  // Every CPU with AMX has this too. Without it BF16 products are slower than FP32 ones.
  return __builtin_cpu_supports("avx512bf16") ? torch::kBFloat16 : torch::kFloat32;
}

/// Builds a decoder tensor by tensor: what was read is quantized and dropped before the next.
class DecoderLoader {
 public:
  DecoderLoader(const ModelOptions& options, const quant::Nf4Options& quantization, RunLog& log)
      : options_(options),
        quantization_(quantization),
        log_(log),
        place_(choose_device(options.device)),
        parts_(options, quantization, place_.device) {}

  Decoder load() {
    if (place_.notice) log_.notice(*place_.notice);
    tell_quantization();
    const torch::Device device = place_.device;
    Decoder d;
    d.config_ = parts_.config();
    d.compute_dtype_ = parts_.compute_dtype();
    d.device_ = device;
    d.rope_ = RopeTables(d.config_);
    d.embedding_ = parts_.embedding().to(device);
    d.lm_head_ = parts_.lm_head(d.embedding_).to(device);
    d.final_norm_ = parts_.final_norm().to(device);
    for (int64_t i = 0; i < parts_.block_count(); ++i) {
      d.blocks_.push_back(parts_.block_without_weights(i));
      move_block(d.blocks_.back(), device);
    }
    place_weights(d.linears());
    return d;
  }

 private:
  /// Gives every linear its frozen weight: out of the cache, or read (and quantized) here and now.
  void place_weights(const std::vector<lora::LoraLinear*>& linears) {
    std::vector<std::string> names;
    for (const auto* linear : linears) names.push_back(linear->name() + ".weight");
    const bool cached = parts_.quantizes() && !options_.cache_dir.empty();
    const Nf4Cache cache(cached ? options_.cache_dir : "",
                         cached ? parts_.checkpoint().source_hash() : "", quantization_);
    if (auto weights = cache.read(names, log_)) {
      for (size_t i = 0; i < linears.size(); ++i) {
        place(*linears[i], lora::FrozenWeight(std::move((*weights)[i])));
      }
      return;
    }
    std::vector<quant::Nf4Tensor> kept;  // for the cache; on the CPU it shares the linears' memory
    for (size_t i = 0; i < linears.size(); ++i) {
      const lora::FrozenWeight weight = parts_.weight(linears[i]->name());
      if (cache.enabled()) kept.push_back(weight.quantized());
      place(*linears[i], weight);
      report(i + 1, linears.size());
    }
    if (cache.enabled()) cache.write(names, kept, log_);
  }

  void place(lora::LoraLinear& linear, const lora::FrozenWeight& weight) const {
    linear.set_weight(lora::moved_to(weight, place_.device));
  }

  /// Norms, router and biases; the linears' weights come later.
  static void move_block(DecoderBlock& block, torch::Device device) {
    if (device.is_cpu()) return;
    for (torch::Tensor* t :
         {&block.input_norm, &block.attention_out_norm, &block.attention_norm, &block.mlp_out_norm,
          &block.query_norm, &block.key_norm, &block.router}) {
      if (t->defined()) *t = t->to(device);
    }
    for (lora::LoraLinear* linear : block.linears()) {
      if (!linear->bias().defined()) continue;
      *linear = lora::LoraLinear(linear->name(), lora::FrozenWeight(), linear->bias().to(device));
    }
  }

  void tell_quantization() const {
    const auto& quantization = parts_.checkpoint().quantization();
    if (!quantization) return;
    for (const auto& notice : quantization->notices()) {
      log_.warn(fmt::format("{}: {}", options_.model_path, notice));
    }
    if (options_.load_in_4bit) {
      log_.notice(
          fmt::format("{} is quantized ({}) and stays as it is; load_in_4bit changes nothing",
                      options_.model_path, io::describe(quantization->common_form())));
    }
  }

  /// Quick starts show nothing; the last matrix takes the line away.
  void report(size_t done, size_t of) {
    const double seconds = watch_.seconds();
    if (seconds < 2) return;
    const double left = seconds * static_cast<double>(of - done) / static_cast<double>(done);
    log_.live(done == of ? ""
                         : fmt::format("{} {} of {} matrices · {} left",
                                       parts_.quantizes() ? "quantizing" : "loading", done, of,
                                       duration_text(left)));
  }

  const ModelOptions& options_;
  const quant::Nf4Options& quantization_;
  RunLog& log_;
  Stopwatch watch_;
  ChosenDevice place_;
  BlockLoader parts_;
};

Decoder Decoder::load(const ModelOptions& model, const quant::Nf4Options& quantization,
                      RunLog& log) {
  return DecoderLoader(model, quantization, log).load();
}

}  // namespace qlora::model
