#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "data/tokenizer.h"
#include "eval/generate_options.h"
#include "model/decoder.h"

namespace qlora::eval {

enum class StopReason {
  kEndOfText,      // the model wrote an end-of-text token
  kMaxNewTokens,   // the answer is as long as was asked for
  kContextIsFull,  // the model knows no further positions
};
std::string stop_reason_name(StopReason reason);

struct Generation {
  std::string text;
  std::vector<int32_t> tokens;  // of the answer, the end-of-text token not among them
  int64_t prompt_tokens = 0;
  StopReason stop = StopReason::kMaxNewTokens;
  double prompt_seconds = 0;  // until the first logits
  double seconds = 0;         // of the whole answer, the prompt included
};

/// Continues a prompt. Tokens are drawn as options.sampling says; keys and values are cached.
///   prompt    at least one id; longer than max_position_embeddings is refused
///   stops     at the tokenizer's eos and every eos id of the model's config
///   on_text   gets the answer piece by piece, each valid UTF-8; joined they are Generation::text
///   throws    ValueError for the prompt, or for logits that are no numbers
Generation generate(model::Decoder& model, const data::Tokenizer& tokenizer,
                    const std::vector<int32_t>& prompt, const GenerateOptions& options,
                    const std::function<void(std::string_view)>& on_text = {});

}  // namespace qlora::eval
