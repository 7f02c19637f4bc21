#include "model/load.h"

#include <ATen/ops/empty.h>

#include <utility>

#include "core/clock.h"
#include "core/error.h"
#include "core/progress.h"
#include "io/checkpoint.h"
#include "model/decoder.h"
#include "model/nf4_cache.h"

namespace qlora::model {

torch::ScalarType resolve_compute_dtype(ComputeDtype choice) {
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
  // Every CPU with AMX has this too. Without it BF16 products are slower than FP32 ones.
  return __builtin_cpu_supports("avx512bf16") ? torch::kBFloat16 : torch::kFloat32;
}

/// Builds a decoder tensor by tensor: what was read is quantized and dropped before the next.
class DecoderLoader {
 public:
  DecoderLoader(const ModelOptions& options, const quant::Nf4Options& quantization, RunLog& log)
      : options_(options), quantization_(quantization), log_(log), checkpoint_(options.model_path) {
    QLORA_CHECK(options.device != DeviceChoice::kCuda, DeviceError,
                "[model] device is cuda, but the decoder of this version runs on the CPU; use "
                "device cpu or auto");
    const auto& config = checkpoint_.config();
    QLORA_CHECK(config.quantization_config.empty(), ConfigError,
                "[model] {} is already quantized ({}); give the 16-bit checkpoint, or a GGUF file",
                options.model_path, config.quantization_config.substr(0, 80));
  }

  Decoder load() {
    Decoder d;
    d.config_ = checkpoint_.config();
    d.compute_dtype_ = resolve_compute_dtype(options_.compute_dtype);
    d.rope_ = RopeTable(d.config_);
    d.embedding_ = dense("model.embed_tokens.weight", d.compute_dtype_);
    d.lm_head_ =
        d.config_.tie_word_embeddings ? d.embedding_ : dense("lm_head.weight", d.compute_dtype_);
    d.final_norm_ = dense("model.norm.weight", torch::kFloat32).view({-1});
    for (int64_t i = 0; i < d.config_.num_hidden_layers; ++i) d.blocks_.push_back(block(i));
    place_weights(d);
    return d;
  }

 private:
  /// A tensor as plain numbers, read in slices so that no second copy of it is ever whole.
  torch::Tensor dense(const std::string& name, torch::ScalarType dtype) const {
    const auto& shape = checkpoint_.shape(name);
    const int64_t rows = shape.size() == 2 ? shape[0] : 1, cols = shape.back();
    torch::Tensor out = at::empty({rows, cols}, torch::TensorOptions(dtype));
    const int64_t step = std::max<int64_t>(1, kSliceElements / cols);
    for (int64_t begin = 0; begin < rows; begin += step) {
      const int64_t count = std::min(step, rows - begin);
      torch::Tensor slice = at::empty({count, cols}, torch::kFloat32);
      checkpoint_.tensor_f32_rows(name, begin, count, slice.mutable_data_ptr<float>());
      out.narrow(0, begin, count).copy_(slice);
    }
    checkpoint_.release(name);
    return out;
  }

  DecoderBlock block(int64_t index) const {
    const auto& config = checkpoint_.config();
    const std::string prefix = fmt::format("model.layers.{}.", index);
    DecoderBlock b;
    b.shape = {config.num_attention_heads, config.num_key_value_heads, config.head_dim,
               config.rms_norm_eps};
    b.input_norm = dense(prefix + "input_layernorm.weight", torch::kFloat32).view({-1});
    b.attention_norm =
        dense(prefix + "post_attention_layernorm.weight", torch::kFloat32).view({-1});
    static constexpr const char* kNames[] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};
    const auto linears = b.linears();
    for (size_t i = 0; i < linears.size(); ++i) {
      *linears[i] =
          lora::LoraLinear(prefix + kNames[i], lora::FrozenWeight(), bias(prefix + kNames[i]));
    }
    return b;
  }

  torch::Tensor bias(const std::string& module) const {
    if (!checkpoint_.has(module + ".bias")) return {};
    return dense(module + ".bias", torch::kFloat32).view({-1});
  }

  /// Gives every linear its frozen weight: plain, out of the cache, or quantized here and now.
  void place_weights(Decoder& d) {
    const auto linears = d.linears();
    std::vector<std::string> names;
    for (const auto* linear : linears) names.push_back(linear->name() + ".weight");
    if (!options_.load_in_4bit) {
      for (size_t i = 0; i < linears.size(); ++i) {
        linears[i]->set_weight(lora::FrozenWeight(dense(names[i], d.compute_dtype_)));
        report(i + 1, linears.size(), "loading");
      }
      return;
    }
    const bool cached = !options_.cache_dir.empty();
    const Nf4Cache cache(options_.cache_dir, cached ? checkpoint_.source_hash() : "",
                         quantization_);
    auto weights = cache.read(names, log_);
    if (!weights) {
      weights.emplace();
      for (size_t i = 0; i < names.size(); ++i) {
        weights->push_back(quantized(names[i]));
        report(i + 1, names.size(), "quantizing");
      }
      cache.write(names, *weights, log_);
    }
    for (size_t i = 0; i < linears.size(); ++i) {
      linears[i]->set_weight(lora::FrozenWeight(std::move((*weights)[i])));
    }
  }

  quant::Nf4Tensor quantized(const std::string& name) const {
    const auto& shape = checkpoint_.shape(name);
    torch::Tensor weight = at::empty({shape[0], shape[1]}, torch::kFloat32);
    checkpoint_.tensor_f32(name, weight.mutable_data_ptr<float>());
    checkpoint_.release(name);
    try {
      return quant::quantize_nf4(weight, quantization_);
    } catch (const ValueError& problem) {
      throw ValueError(fmt::format("[model] {} cannot be quantized: {} ({})", name, problem.what(),
                                   options_.model_path));
    }
  }

  /// Quick starts show nothing; the last matrix takes the line away.
  void report(size_t done, size_t of, const char* what) {
    const double seconds = watch_.seconds();
    if (seconds < 2) return;
    const double left = seconds * static_cast<double>(of - done) / static_cast<double>(done);
    log_.live(done == of ? ""
                         : fmt::format("{} {} of {} matrices · {} left", what, done, of,
                                       duration_text(left)));
  }

  static constexpr int64_t kSliceElements = 1 << 20;
  const ModelOptions& options_;
  const quant::Nf4Options& quantization_;
  RunLog& log_;
  Stopwatch watch_;
  io::Checkpoint checkpoint_;
};

Decoder Decoder::load(const ModelOptions& model, const quant::Nf4Options& quantization,
                      RunLog& log) {
  return DecoderLoader(model, quantization, log).load();
}

}  // namespace qlora::model
