#include "eval/model_comparison.h"

#include <ATen/core/grad_mode.h>
#include <ATen/ops/_log_softmax.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "core/token_batch.h"

namespace qlora::eval {
namespace {

using torch::Tensor;

constexpr int64_t kLogitBytes = 48 << 20;    // of one chunk of positions
constexpr int64_t kSliceElements = 2 << 20;  // of lm_head in FP32 at a time
constexpr int64_t kRowStep = 32;

/// log softmax(cap(hidden · lm_headᵀ)) in FP32; lm_head is widened slice by slice.  [n, V]
Tensor log_probabilities(const Tensor& hidden, const Tensor& lm_head, double softcap) {
  const Tensor x = hidden.to(torch::kFloat32);
  const int64_t vocabulary = lm_head.size(0);
  Tensor logits = at::empty({x.size(0), vocabulary}, torch::kFloat32);
  const int64_t step = std::max<int64_t>(1, kSliceElements / lm_head.size(1));
  for (int64_t begin = 0; begin < vocabulary; begin += step) {
    const int64_t count = std::min(step, vocabulary - begin);
    const Tensor slice = lm_head.narrow(0, begin, count).to(torch::kFloat32);
    logits.narrow(1, begin, count).copy_(at::mm(x, slice.t()));
  }
  if (softcap > 0) logits.div_(softcap).tanh_().mul_(softcap);
  return at::_log_softmax(logits, 1, false);
}

struct Sums {
  double nll = 0, kl = 0;
  int64_t agreeing = 0;
};

/// Row by row, each sum in double: the result does not depend on the thread count.
void add_chunk(const Tensor& reference, const Tensor& other, const int32_t* targets, Sums& sums) {
  const int64_t rows = reference.size(0), vocabulary = reference.size(1);
  const float* p = reference.const_data_ptr<float>();
  const float* q = other.const_data_ptr<float>();
  std::vector<Sums> parts(static_cast<size_t>(rows));
  parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float *pr = p + r * vocabulary, *qr = q + r * vocabulary;
      double kl = 0;
      for (int64_t v = 0; v < vocabulary; ++v) {
        const float probability = std::exp(pr[v]);
        if (probability > 0) kl += static_cast<double>(probability * (pr[v] - qr[v]));
      }
      const auto best = [&](const float* row) {
        return std::max_element(row, row + vocabulary) - row;
      };
      parts[static_cast<size_t>(r)] = {-static_cast<double>(qr[targets[r]]), kl,
                                       best(pr) == best(qr)};
    }
  });
  for (const Sums& part : parts) {
    sums.nll += part.nll;
    sums.kl += part.kl;
    sums.agreeing += part.agreeing;
  }
}

}  // namespace

ModelComparison compare_models(const OutputStates& reference, const OutputStates& other,
                               const std::vector<int32_t>& targets) {
  const at::NoGradGuard no_graph;
  const auto rows = static_cast<int64_t>(targets.size());
  const int64_t vocabulary = reference.lm_head.size(0);
  QLORA_CHECK(reference.hidden.size(0) == rows && other.hidden.size(0) == rows &&
                  other.lm_head.size(0) == vocabulary,
              ShapeError,
              "[eval] models with {} and {} positions and vocabularies of {} and {} are compared "
              "over {} targets; allowed: as many positions as targets, one vocabulary",
              reference.hidden.size(0), other.hidden.size(0), vocabulary, other.lm_head.size(0),
              rows);
  std::vector<int32_t> wanted;
  Tensor positions = at::empty({rows}, torch::kInt64);
  for (int64_t t = 0; t < rows; ++t) {
    const int32_t target = targets[static_cast<size_t>(t)];
    if (target == kIgnoreTarget) continue;
    QLORA_CHECK(target >= 0 && target < vocabulary, ValueError,
                "[eval] target token {} at position {} is outside the vocabulary of {}", target, t,
                vocabulary);
    positions.mutable_data_ptr<int64_t>()[wanted.size()] = t;
    wanted.push_back(target);
  }
  const auto count = static_cast<int64_t>(wanted.size());
  QLORA_CHECK(count > 0, ValueError, "[eval] none of {} positions has a token to predict", rows);
  positions = positions.narrow(0, 0, count);
  const Tensor p = reference.hidden.index_select(0, positions);
  const Tensor q = other.hidden.index_select(0, positions);

  const int64_t chunk = std::max(kRowStep, kLogitBytes / (4 * vocabulary) / kRowStep * kRowStep);
  Sums sums;
  for (int64_t begin = 0; begin < count; begin += chunk) {
    const int64_t n = std::min(chunk, count - begin);
    add_chunk(log_probabilities(p.narrow(0, begin, n), reference.lm_head, reference.logit_softcap),
              log_probabilities(q.narrow(0, begin, n), other.lm_head, other.logit_softcap),
              wanted.data() + begin, sums);
  }
  const auto all = static_cast<double>(count);
  return {.nll = sums.nll / all,
          .perplexity = std::exp(sums.nll / all),
          .kl_divergence = sums.kl / all,
          .top1_agreement = static_cast<double>(sums.agreeing) / all,
          .tokens = count};
}

}  // namespace qlora::eval
