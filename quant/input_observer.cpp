#include "quant/input_observer.h"

#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "quant/affine_math.h"

namespace qlora::quant {
namespace {

constexpr int64_t kBoundAt = 0, kRangeAt = 1, kScaleAt = 2, kCountsAt = 3;
constexpr int kCandidates = 100;  // bounds that kMse tries

/// Counts of |x| in bins over [0, range].
torch::Tensor histogram(const torch::Tensor& magnitude, float range) {
  return magnitude.histc(InputObserver::kBins, 0, range);
}

/// Expected squared error of rounding a number of this size inside the bound.
double rounding_error(InputRounding rounding, double x, double bound) {
  if (rounding == InputRounding::kInt8Static) {
    const double step = bound / 127.5;
    return step * step / 12;
  }
  // E4M3: 3 bits behind the leading one, so that the step is between x / 8 and x / 16.
  constexpr double kStepOfSize = 1.0 / 11.3;
  return x * x * kStepOfSize * kStepOfSize / 12;
}

}  // namespace

InputObserver::InputObserver(const ObserverOptions& options, InputRounding rounding,
                             ScaleType scale_type)
    : options_(options),
      rounding_(rounding),
      scale_type_(scale_type),
      state_(torch::zeros({kCountsAt + kBins}, torch::kFloat32)) {}

bool InputObserver::is_ready() const {
  return scale() > 0;
}

/// Pairs of bins become one until the range is wide enough.
void InputObserver::grow(float most) {
  float& range = state_.mutable_data_ptr<float>()[kRangeAt];
  if (range == 0) range = most > 0 ? most : 1;
  while (range < most) {
    range *= 2;
    for (const torch::Tensor& counts : {state_.narrow(0, kCountsAt, kBins), pending_}) {
      if (!counts.defined()) continue;
      const torch::Tensor pairs = counts.view({kBins / 2, 2}).sum(1);
      counts.zero_().narrow(0, 0, kBins / 2).copy_(pairs);
    }
  }
}

void InputObserver::observe(const torch::Tensor& x) {
  const at::NoGradGuard no_grad;
  const torch::Tensor magnitude = x.detach().to(torch::kFloat32).abs().reshape({-1});
  const auto most = magnitude.max().item<float>();
  if (!std::isfinite(most)) return;  // the step will be skipped
  const bool counts_bins =
      options_.kind == ObserverKind::kPercentile || options_.kind == ObserverKind::kMse;
  if (counts_bins) {
    if (!pending_.defined()) pending_ = torch::zeros({kBins}, torch::kFloat32);
    grow(most);
    pending_ += histogram(magnitude, state_[kRangeAt].item<float>());
  }
  pending_most_ = std::max(pending_most_, most);
  has_pending_ = true;
}

void InputObserver::commit() {
  if (!has_pending_) return;
  float* state = state_.mutable_data_ptr<float>();
  const auto momentum = static_cast<float>(options_.momentum);
  const bool is_first = state[kBoundAt] == 0;
  if (options_.kind == ObserverKind::kMovingAverage && !is_first) {
    state[kBoundAt] = momentum * state[kBoundAt] + (1 - momentum) * pending_most_;
  } else {
    state[kBoundAt] = std::max(state[kBoundAt], pending_most_);
  }
  if (pending_.defined()) {
    state_.narrow(0, kCountsAt, kBins).mul_(momentum).add_(pending_);
    pending_.zero_();
  } else {
    state[kRangeAt] = state[kBoundAt] > 0 ? state[kBoundAt] : 1;
  }
  pending_most_ = 0;
  has_pending_ = false;
  state[kScaleAt] = rounded_scale(bound() / input_reach(rounding_), scale_type_);
}

float InputObserver::least_error() const {
  const float* counts = state_.const_data_ptr<float>() + kCountsAt;
  const double range = state_[kRangeAt].item<float>(), width = range / kBins;
  double best = -1, best_bound = range;
  for (int candidate = 1; candidate <= kCandidates; ++candidate) {
    const double bound = range * candidate / kCandidates;
    double error = 0;
    for (int64_t bin = 0; bin < kBins; ++bin) {
      const double x = (static_cast<double>(bin) + 0.5) * width, beyond = x - bound;
      error += counts[bin] * (beyond > 0 ? beyond * beyond : rounding_error(rounding_, x, bound));
    }
    if (best < 0 || error < best) {
      best = error;
      best_bound = bound;
    }
  }
  return static_cast<float>(best_bound);
}

float InputObserver::bound() const {
  const float* state = state_.const_data_ptr<float>();
  if (options_.kind == ObserverKind::kMse) return least_error();
  if (options_.kind != ObserverKind::kPercentile) return state[kBoundAt];
  const float* counts = state + kCountsAt;
  double total = 0, seen = 0;
  for (int64_t bin = 0; bin < kBins; ++bin) total += counts[bin];
  int64_t bin = 0;
  for (; bin < kBins; ++bin) {
    seen += counts[bin];
    if (seen >= options_.percentile * total) break;
  }
  const auto edge = static_cast<float>(std::min(bin + 1, kBins));
  return state[kRangeAt] * edge / static_cast<float>(kBins);
}

float InputObserver::scale() const {
  return state_.const_data_ptr<float>()[kScaleAt];
}

}  // namespace qlora::quant
