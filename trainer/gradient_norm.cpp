#include "trainer/gradient_norm.h"

#include <ATen/ops/linalg_vector_norm.h>
#include <ATen/ops/stack.h>

#include <array>
#include <cmath>

#include "core/parallel.h"

namespace qlora::trainer {
namespace {

constexpr double kNormEpsilon = 1e-6;  // as torch: a norm of 0 must not divide

double cpu_norm(const std::vector<torch::Tensor>& gradients) {
  std::vector<double> squares(gradients.size());
  parallel_for(static_cast<int64_t>(gradients.size()), 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      squares[i] = sum_of_squares(gradients[i].const_data_ptr<float>(), gradients[i].numel());
    }
  });
  double sum = 0;
  for (const double square : squares) sum += square;
  return std::sqrt(sum);
}

}  // namespace

double sum_of_squares(const float* x, int64_t count) {
  std::array<double, 8> sums{};  // eight chains: the order is the same with any vector width
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    for (int64_t lane = 0; lane < 8; ++lane) {
      const double value = x[i + lane];
      sums[lane] += value * value;
    }
  }
  for (; i < count; ++i) sums[i % 8] += static_cast<double>(x[i]) * x[i];
  double sum = 0;
  for (const double lane : sums) sum += lane;
  return sum;
}

StepStats clip_gradient_norm(const std::vector<torch::Tensor>& parameters, double max_norm,
                             const torch::Tensor& loss, StepStats stats) {
  std::vector<torch::Tensor> gradients;
  for (const torch::Tensor& parameter : parameters) {
    if (parameter.grad().defined()) gradients.push_back(parameter.grad().contiguous());
  }
  if (gradients.empty() || gradients.front().is_cpu()) {
    stats.loss = loss.item<double>();
    stats.gradient_norm = cpu_norm(gradients);
  } else {
    std::vector<torch::Tensor> norms;
    for (const torch::Tensor& gradient : gradients)
      norms.push_back(at::linalg_vector_norm(gradient));
    const torch::Tensor norm = at::linalg_vector_norm(at::stack(norms));
    const torch::Tensor both = at::stack({loss.to(norm.dtype()), norm}).cpu();
    stats.loss = both[0].item<double>();
    stats.gradient_norm = both[1].item<double>();
  }
  if (max_norm > 0 && std::isfinite(stats.gradient_norm) && stats.gradient_norm > max_norm) {
    const double factor = max_norm / (stats.gradient_norm + kNormEpsilon);
    for (const torch::Tensor& parameter : parameters) {
      if (parameter.grad().defined()) parameter.grad().mul_(factor);
    }
  }
  return stats;
}

}  // namespace qlora::trainer
