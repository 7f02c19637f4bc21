#include "data/tokenizer.h"

#include <algorithm>

#include "core/error.h"
#include "data/utf8.h"

namespace qlora::data {

std::vector<int32_t> Tokenizer::encode(std::string_view text, const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  ids.reserve(text.size() / 3 + 4);
  if (valid_utf8_prefix(text) == text.size()) {
    encode_valid(text, options, ids);
  } else {
    encode_valid(replace_invalid_utf8(text), options, ids);
  }
  return ids;
}

std::string Tokenizer::decode(std::span<const int32_t> ids, bool keep_special) const {
  for (const int32_t id : ids) {
    QLORA_CHECK(id >= 0 && id < vocab_size(), ValueError,
                "[tokenizer] the token id {} is outside the vocabulary, allowed 0 to {}", id,
                vocab_size() - 1);
  }
  return decode_valid(ids, keep_special);
}

const std::string& Tokenizer::chat_template() const {
  static const std::string kNone;
  const bool has_default = !chat_templates_.empty() && chat_templates_.front().name == "default";
  return has_default ? chat_templates_.front().text : kNone;
}

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool keep_special)
    : tokenizer_(tokenizer), keep_special_(keep_special) {}

std::string StreamDecoder::push(int32_t id) {
  // The window begins with tokens whose text was shown: what a token looks like depends on those
  // before it.
  window_.push_back(id);
  const std::string text = tokenizer_.decode(window_, keep_special_);
  if (text.size() <= shown_text_.size() || text.ends_with(kReplacementCharacter)) return {};
  if (!text.starts_with(shown_text_)) return {};
  std::string fresh = text.substr(shown_text_.size());
  window_.erase(window_.begin(), window_.begin() + static_cast<int64_t>(shown_ids_));
  shown_ids_ = window_.size();
  shown_text_ = tokenizer_.decode(window_, keep_special_);
  return fresh;
}

std::string StreamDecoder::finish() {
  const std::string text = tokenizer_.decode(window_, keep_special_);
  const auto [end, shown_end] =
      std::mismatch(text.begin(), text.end(), shown_text_.begin(), shown_text_.end());
  std::string rest(end, text.end());
  window_.clear();
  shown_ids_ = 0;
  shown_text_.clear();
  return rest;
}

}  // namespace qlora::data
