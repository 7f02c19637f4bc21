#include "eval/sampling.h"

#include <algorithm>
#include <cassert>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace qlora::eval {
namespace {

struct Scored {
  int32_t token;
  double logit;
};

/// Heap order: the top is the most likely token, of equals the lowest id.
bool is_less_likely(const Scored& a, const Scored& b) {
  return a.logit != b.logit ? a.logit < b.logit : a.token > b.token;
}

std::vector<Scored> read_logits(std::span<const float> logits) {
  QLORA_CHECK(!logits.empty(), ValueError, "[sampling] there are no logits to choose from");
  std::vector<Scored> scored;
  scored.reserve(logits.size());
  bool any_finite = false;
  for (size_t i = 0; i < logits.size(); ++i) {
    QLORA_CHECK(!std::isnan(logits[i]) && logits[i] != std::numeric_limits<float>::infinity(),
                ValueError,
                "[sampling] the logit of token {} is {}, has to be finite or -inf; the model's "
                "weights or the compute type give overflows: try compute_dtype fp32",
                i, logits[i]);
    any_finite |= std::isfinite(logits[i]);
    scored.push_back({static_cast<int32_t>(i), static_cast<double>(logits[i])});
  }
  QLORA_CHECK(any_finite, ValueError, "[sampling] all {} logits are -inf, no token can come",
              logits.size());
  return scored;
}

void penalise(std::vector<Scored>& scored, double penalty, std::span<const int32_t> history) {
  if (penalty == 1) return;
  std::vector<int32_t> seen(history.begin(), history.end());
  std::sort(seen.begin(), seen.end());
  seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
  for (const int32_t token : seen) {
    QLORA_CHECK(token >= 0 && static_cast<size_t>(token) < scored.size(), ValueError,
                "[sampling] token {} of the text so far is outside the {} logits", token,
                scored.size());
    double& logit = scored[token].logit;
    logit = logit < 0 ? logit * penalty : logit / penalty;
  }
}

/// Pops the heap's most likely tokens: k of them, or the share top_p of all that k leaves.
std::vector<Candidate> take_most_likely(std::vector<Scored>& heap, const SamplingOptions& options) {
  const size_t k = options.top_k > 0
                       ? std::min<size_t>(static_cast<size_t>(options.top_k), heap.size())
                       : heap.size();
  if (k < heap.size()) {
    std::nth_element(heap.begin(), heap.begin() + static_cast<int64_t>(k) - 1, heap.end(),
                     [](const Scored& a, const Scored& b) { return is_less_likely(b, a); });
    heap.resize(k);
  }
  const double highest = std::max_element(heap.begin(), heap.end(), is_less_likely)->logit;
  double total = 0;
  for (const Scored& s : heap) total += std::exp((s.logit - highest) / options.temperature);

  std::make_heap(heap.begin(), heap.end(), is_less_likely);
  std::vector<Candidate> kept;
  double share = 0;
  while (!heap.empty()) {
    const Scored top = heap.front();
    const double probability = std::exp((top.logit - highest) / options.temperature) / total;
    if (!kept.empty() && (probability == 0 || (options.top_p < 1 && share >= options.top_p))) break;
    std::pop_heap(heap.begin(), heap.end(), is_less_likely);
    heap.pop_back();
    kept.push_back({top.token, probability});
    share += probability;
  }
  for (Candidate& candidate : kept) candidate.probability /= share;
  return kept;
}

}  // namespace

std::vector<Candidate> next_token_distribution(std::span<const float> logits,
                                               const SamplingOptions& options,
                                               std::span<const int32_t> history) {
  std::vector<Scored> scored = read_logits(logits);
  penalise(scored, options.repetition_penalty, history);
  if (options.temperature == 0) {
    const auto best = std::max_element(scored.begin(), scored.end(), is_less_likely);
    return {{best->token, 1.0}};
  }
  return take_most_likely(scored, options);
}

int32_t draw_token(std::span<const Candidate> candidates, double uniform) {
  assert(!candidates.empty() && "a distribution has at least one candidate");
  double share = 0;
  for (const Candidate& candidate : candidates) {
    share += candidate.probability;
    if (uniform < share) return candidate.token;
  }
  return candidates.back().token;  // the sum may end a rounding error below 1
}

}  // namespace qlora::eval
