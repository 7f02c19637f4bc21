#include "model/rope.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <cmath>
#include <numbers>

#include "core/device.h"
#include "model/rope_backend.h"
#include "quant/checks.h"
#include "quant/one_device.h"

namespace qlora::model {

namespace {

using torch::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

std::vector<double> plain_frequencies(double theta, int64_t dim) {
  std::vector<double> frequencies(static_cast<size_t>(dim / 2));
  for (int64_t i = 0; i < dim / 2; ++i) {
    frequencies[static_cast<size_t>(i)] =
        std::pow(theta, -2.0 * static_cast<double>(i) / static_cast<double>(dim));
  }
  return frequencies;
}

/// Llama 3.1: long waves are slowed by factor, short ones kept, a smooth ramp between.
void scale_llama3(std::vector<double>& frequencies, const io::RopeParameters& p) {
  const double length = static_cast<double>(p.original_max_position_embeddings);
  for (double& f : frequencies) {
    const double wave = 2 * std::numbers::pi / f;
    if (wave > length / p.low_freq_factor) {
      f /= p.factor;
    } else if (wave >= length / p.high_freq_factor) {
      const double smooth =
          (length / wave - p.low_freq_factor) / (p.high_freq_factor - p.low_freq_factor);
      f = (1 - smooth) * f / p.factor + smooth * f;
    }
  }
}

/// Dimension that turns `rotations` times within the original length: YaRN, eq. 17 solved for d.
double yarn_dimension(double rotations, int64_t dim, const io::RopeParameters& p) {
  const double length = static_cast<double>(p.original_max_position_embeddings);
  return static_cast<double>(dim) * std::log(length / (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(p.theta));
}

/// YaRN, section 3.2 ("NTK-by-parts"): a ramp from kept to interpolated dimensions.
void scale_yarn(std::vector<double>& frequencies, int64_t dim, const io::RopeParameters& p) {
  double low = yarn_dimension(p.beta_fast, dim, p), high = yarn_dimension(p.beta_slow, dim, p);
  if (p.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(dim - 1));
  if (low == high) high += 0.001;  // as transformers: no division by zero
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    frequencies[i] = frequencies[i] / p.factor * ramp + frequencies[i] * (1 - ramp);
  }
}

/// YaRN, section 3.4: the temperature on attention, applied to cos and sin.
double yarn_attention_factor(const io::RopeParameters& p) {
  if (p.attention_factor) return *p.attention_factor;
  const auto temperature = [&](double mscale) {
    return p.factor <= 1 ? 1.0 : 0.1 * mscale * std::log(p.factor) + 1.0;
  };
  const bool both = p.mscale.value_or(0) != 0 && p.mscale_all_dim.value_or(0) != 0;
  return both ? temperature(*p.mscale) / temperature(*p.mscale_all_dim) : temperature(1);
}

/// LongRoPE's temperature: Ding et al., section 3.4, as published Phi-3 models use it.
double longrope_attention_factor(const io::RopeParameters& p) {
  if (p.attention_factor) return *p.attention_factor;
  if (p.factor <= 1) return 1;
  const double length = static_cast<double>(p.original_max_position_embeddings);
  return std::sqrt(1 + std::log(p.factor) / std::log(length));
}

Tensor rotate(const Tensor& x, const Tensor& cos, const Tensor& sin, int64_t head_dim, float sign) {
  const Tensor in = x.contiguous();
  quant::check_one_device("model", in, {&cos, &sin});
  Tensor y = at::empty_like(in);
  const RopeArgs args{.x = in.const_data_ptr(),
                      .cos = cos.const_data_ptr<float>(),
                      .sin = sin.const_data_ptr<float>(),
                      .y = y.mutable_data_ptr(),
                      .tokens = in.size(0),
                      .heads = in.size(1) / head_dim,
                      .head_dim = head_dim,
                      .rotary_dim = 2 * cos.size(1),
                      .sin_sign = sign,
                      .kind = float_kind(in.scalar_type()),
                      .stream = quant::stream_of(in)};
  in.is_cuda() ? cuda::rope(args) : cpu::rope(args);
  return y;
}

struct RopeFunction : torch::autograd::Function<RopeFunction> {
  static Tensor forward(AutogradContext* ctx, const Tensor& x, const Tensor& cos, const Tensor& sin,
                        int64_t head_dim) {
    ctx->save_for_backward({cos, sin});
    ctx->saved_data["head_dim"] = head_dim;
    return rotate(x, cos, sin, head_dim, 1);
  }

  static variable_list backward(AutogradContext* ctx, variable_list gradients) {
    const auto saved = ctx->get_saved_variables();
    const int64_t head_dim = ctx->saved_data["head_dim"].toInt();
    return {rotate(gradients[0], saved[0], saved[1], head_dim, -1), Tensor(), Tensor(), Tensor()};
  }
};

}  // namespace

RopeTable::RopeTable(const io::RopeParameters& parameters, int64_t head_dim, int64_t max_positions)
    : parameters_(parameters),
      rotary_dim_(parameters.rotary_dim(head_dim)),
      max_positions_(max_positions) {
  if (parameters_.type == io::RopeType::kYarn) {
    attention_factor_ = yarn_attention_factor(parameters_);
  } else if (parameters_.type == io::RopeType::kLongrope) {
    attention_factor_ = longrope_attention_factor(parameters_);
  }
}

bool RopeTable::depends_on_length() const {
  return parameters_.type == io::RopeType::kDynamic || parameters_.type == io::RopeType::kLongrope;
}

std::vector<double> RopeTable::inverse_frequencies(int64_t length) const {
  double theta = parameters_.theta;
  if (parameters_.type == io::RopeType::kDynamic) {
    const double positions = static_cast<double>(max_positions_);
    const double longest = static_cast<double>(std::max(length, max_positions_));
    const double dim = static_cast<double>(rotary_dim_);
    theta *= std::pow(parameters_.factor * longest / positions - (parameters_.factor - 1),
                      dim / (dim - 2));
  }
  auto frequencies = plain_frequencies(theta, rotary_dim_);
  switch (parameters_.type) {
    case io::RopeType::kLinear:
      for (double& f : frequencies) f /= parameters_.factor;
      break;
    case io::RopeType::kLlama3:
      scale_llama3(frequencies, parameters_);
      break;
    case io::RopeType::kYarn:
      scale_yarn(frequencies, rotary_dim_, parameters_);
      break;
    case io::RopeType::kLongrope: {
      const bool is_long = length > parameters_.original_max_position_embeddings;
      const auto& factors = is_long ? parameters_.long_factor : parameters_.short_factor;
      for (size_t i = 0; i < frequencies.size(); ++i) frequencies[i] /= factors[i];
      break;
    }
    case io::RopeType::kDefault:
    case io::RopeType::kDynamic:
      break;
  }
  return frequencies;
}

void RopeTable::fill(int64_t first, int64_t count, int64_t length, float* cos, float* sin) const {
  const auto frequencies = inverse_frequencies(length);
  for (int64_t t = 0; t < count; ++t) {
    for (const double frequency : frequencies) {
      // transformers multiplies position and frequency in FP32; so does this.
      const float angle = static_cast<float>(first + t) * static_cast<float>(frequency);
      *cos++ = static_cast<float>(std::cos(static_cast<double>(angle)) * attention_factor_);
      *sin++ = static_cast<float>(std::sin(static_cast<double>(angle)) * attention_factor_);
    }
  }
}

RopeAngles RopeTable::angles(const std::vector<int32_t>& segment_starts) const {
  const int64_t tokens = segment_starts.back(), half = rotary_dim_ / 2;
  RopeAngles angles{at::empty({tokens, half}, torch::kFloat32),
                    at::empty({tokens, half}, torch::kFloat32)};
  float* cos = angles.cos.mutable_data_ptr<float>();
  float* sin = angles.sin.mutable_data_ptr<float>();
  for (size_t s = 0; s + 1 < segment_starts.size(); ++s) {
    const int64_t begin = segment_starts[s], length = segment_starts[s + 1] - begin;
    if (s > 0 && !depends_on_length() &&
        length <= segment_starts[1]) {  // the same rows as the first segment's
      std::copy_n(cos, length * half, cos + begin * half);
      std::copy_n(sin, length * half, sin + begin * half);
    } else {
      fill(0, length, length, cos + begin * half, sin + begin * half);
    }
  }
  return angles;
}

RopeAngles RopeTable::angles_from(int64_t first, int64_t count, int64_t capacity) const {
  const int64_t half = rotary_dim_ / 2;
  RopeAngles angles{at::empty({count, half}, torch::kFloat32),
                    at::empty({count, half}, torch::kFloat32)};
  const bool is_longrope = parameters_.type == io::RopeType::kLongrope;
  fill(first, count, is_longrope ? capacity : first + count, angles.cos.mutable_data_ptr<float>(),
       angles.sin.mutable_data_ptr<float>());
  return angles;
}

RopeTables::RopeTables(const io::HfConfig& config)
    : global_(config.rope, config.head_dim, config.max_position_embeddings) {
  if (config.local_rope) {
    local_.emplace(*config.local_rope, config.head_dim, config.max_position_embeddings);
  }
}

BlockAngles RopeTables::angles(const std::vector<int32_t>& segment_starts) const {
  return {global_.angles(segment_starts), local_ ? local_->angles(segment_starts) : RopeAngles{}};
}

BlockAngles RopeTables::angles_from(int64_t first, int64_t count, int64_t capacity) const {
  return {global_.angles_from(first, count, capacity),
          local_ ? local_->angles_from(first, count, capacity) : RopeAngles{}};
}

torch::Tensor apply_rope(const torch::Tensor& x, const RopeAngles& angles, int64_t head_dim) {
  return RopeFunction::apply(x, angles.cos, angles.sin, head_dim);
}

}  // namespace qlora::model
