#include "eval/generate.h"

#include <algorithm>
#include <set>
#include <span>

#include "core/clock.h"
#include "core/error.h"
#include "core/rng.h"
#include "eval/sampling.h"

namespace qlora::eval {
namespace {

std::set<int64_t> stop_tokens(const model::Decoder& model, const data::Tokenizer& tokenizer) {
  const auto& ids = model.config().eos_token_ids;
  std::set<int64_t> stops(ids.begin(), ids.end());
  if (tokenizer.special().eos) stops.insert(*tokenizer.special().eos);
  return stops;
}

void check_prompt(const std::vector<int32_t>& prompt, const io::HfConfig& config) {
  QLORA_CHECK(!prompt.empty(), ValueError,
              "[generate] the prompt has no token; give at least one character");
  QLORA_CHECK(static_cast<int64_t>(prompt.size()) < config.max_position_embeddings, ValueError,
              "[generate] the prompt has {} tokens, the model knows {} positions; shorten it",
              prompt.size(), config.max_position_embeddings);
  for (const int32_t token : prompt) {
    QLORA_CHECK(token >= 0 && token < config.vocab_size, ValueError,
                "[generate] prompt token {} is outside the model's vocabulary of {}; do tokenizer "
                "and model belong together?",
                token, config.vocab_size);
  }
}

/// Logits of one position as a span that lives as long as `holder`.
std::span<const float> as_span(const torch::Tensor& holder) {
  return {holder.const_data_ptr<float>(), static_cast<size_t>(holder.numel())};
}

}  // namespace

std::string stop_reason_name(StopReason reason) {
  switch (reason) {
    case StopReason::kEndOfText:
      return "end_of_text";
    case StopReason::kMaxNewTokens:
      return "max_new_tokens";
    case StopReason::kContextIsFull:
      return "context_is_full";
  }
  return "unknown";
}

Generation generate(model::Decoder& model, const data::Tokenizer& tokenizer,
                    const std::vector<int32_t>& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text) {
  check_prompt(prompt, model.config());
  const Stopwatch watch;
  const std::set<int64_t> stops = stop_tokens(model, tokenizer);
  const auto prompt_tokens = static_cast<int64_t>(prompt.size());
  const int64_t room = model.config().max_position_embeddings - prompt_tokens;
  const int64_t limit = std::min(options.max_new_tokens, room);

  Generation result{.prompt_tokens = prompt_tokens,
                    .stop = limit < options.max_new_tokens ? StopReason::kContextIsFull
                                                           : StopReason::kMaxNewTokens};
  Rng rng(options.seed);
  data::StreamDecoder decoder(tokenizer);
  const auto emit = [&](const std::string& piece) {
    result.text += piece;
    if (on_text && !piece.empty()) on_text(piece);
  };

  model::KvCache cache = model.new_cache(prompt_tokens + limit);
  std::vector<int32_t> history = prompt;
  std::vector<int32_t> fresh = prompt;
  for (int64_t n = 0; n < limit; ++n) {
    const torch::Tensor logits =
        model.next_logits(fresh, cache).to(torch::kCPU, torch::kFloat32).contiguous();  // [V]
    if (n == 0) result.prompt_seconds = watch.seconds();
    const auto candidates = next_token_distribution(as_span(logits), options.sampling, history);
    const int32_t token = draw_token(candidates, rng.uniform());
    if (stops.contains(token)) {
      result.stop = StopReason::kEndOfText;
      break;
    }
    result.tokens.push_back(token);
    history.push_back(token);
    fresh = {token};
    if (token < tokenizer.vocab_size()) emit(decoder.push(token));
  }
  emit(decoder.finish());
  result.seconds = watch.seconds();
  return result;
}

}  // namespace qlora::eval
