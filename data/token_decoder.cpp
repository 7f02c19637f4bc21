#include "data/token_decoder.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/bpe.h"
#include "data/json_members.h"
#include "data/normalizer.h"
#include "data/utf8.h"

namespace qlora::data {
namespace {

/// Bytes of a piece in GPT-2's alphabet; a piece with other characters stands for itself.
std::string byte_level_bytes(const std::string& piece) {
  std::string bytes;
  for (size_t at = 0; at < piece.size();) {
    const auto byte = byte_level_byte(next_character(piece, at));
    if (!byte) return piece;
    bytes.push_back(static_cast<char>(*byte));
  }
  return bytes;
}

/// The byte of a piece "<0xHH>", or -1.
int fallback_byte(const std::string& piece) {
  if (piece.size() != 6 || !piece.starts_with("<0x") || piece[5] != '>') return -1;
  int value = 0;
  for (const char c : {piece[3], piece[4]}) {
    if (!std::isxdigit(static_cast<unsigned char>(c))) return -1;
    value = value * 16 + (c <= '9' ? c - '0' : (c | 0x20) - 'a' + 10);
  }
  return value;
}

/// Runs of byte pieces become their text, or one U+FFFD a byte where they are not UTF-8.
void join_fallback_bytes(std::vector<std::string>& pieces) {
  std::vector<std::string> out;
  std::string bytes;
  const auto flush = [&] {
    if (bytes.empty()) return;
    if (valid_utf8_prefix(bytes) == bytes.size()) {
      out.push_back(bytes);
    } else {
      out.insert(out.end(), bytes.size(), std::string(kReplacementCharacter));
    }
    bytes.clear();
  };
  for (std::string& piece : pieces) {
    const int byte = fallback_byte(piece);
    if (byte >= 0) {
      bytes.push_back(static_cast<char>(byte));
    } else {
      flush();
      out.push_back(std::move(piece));
    }
  }
  flush();
  pieces = std::move(out);
}

std::string strip(std::string_view piece, std::string_view character, int64_t start, int64_t stop) {
  for (int64_t i = 0; i < start && piece.starts_with(character); ++i) {
    piece.remove_prefix(character.size());
  }
  for (int64_t i = 0; i < stop && piece.ends_with(character); ++i) {
    piece.remove_suffix(character.size());
  }
  return std::string(piece);
}

int64_t member_count(const nlohmann::json& object, const char* key, const std::string& where) {
  const auto at = object.find(key);
  QLORA_CHECK(at != object.end() && at->is_number_unsigned() && *at <= 1'000'000u, FormatError,
              "[tokenizer] {}: the decoder Strip lacks its count '{}'", where, key);
  return at->get<int64_t>();
}

}  // namespace

TokenDecoder::TokenDecoder(const nlohmann::json& description, const std::string& where)
    : is_null_(description.is_null()) {
  add(description, where, 0);
}

void TokenDecoder::add(const nlohmann::json& description, const std::string& where, int depth) {
  if (description.is_null()) return;
  const std::string type = component_type(description, where, "decoder", depth);
  if (type == "Sequence") {
    for (const auto& part : member_array(description, "decoders", where)) {
      add(part, where, depth + 1);
    }
  } else if (type == "ByteLevel") {
    steps_.push_back({.kind = Kind::kByteLevel});
  } else if (type == "Replace") {
    Step step{.kind = Kind::kReplace};
    std::tie(step.from, step.regex) = member_pattern(description, where);
    step.to = member_string(description, "content", where);
    steps_.push_back(std::move(step));
  } else if (type == "ByteFallback") {
    steps_.push_back({.kind = Kind::kByteFallback});
  } else if (type == "Fuse") {
    steps_.push_back({.kind = Kind::kFuse});
  } else if (type == "Strip") {
    steps_.push_back({.kind = Kind::kStrip,
                      .from = member_string(description, "content", where),
                      .start = member_count(description, "start", where),
                      .stop = member_count(description, "stop", where)});
    QLORA_CHECK(!steps_.back().from.empty(), FormatError,
                "[tokenizer] {}: the decoder Strip has no character to strip", where);
  } else if (type == "Metaspace") {
    const bool prefix = member_bool(description, "add_prefix_space", true, where);
    const std::string scheme = description.contains("prepend_scheme")
                                   ? member_string(description, "prepend_scheme", where)
                                   : (prefix ? "always" : "never");
    steps_.push_back({.kind = Kind::kMetaspace,
                      .from = member_string(description, "replacement", where),
                      .prepends = scheme != "never"});
  } else {
    refuse_component("decoder", type,
                     "ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip, Sequence", where);
  }
}

void TokenDecoder::apply(const Step& step, std::vector<std::string>& pieces) {
  switch (step.kind) {
    case Kind::kByteLevel:
    case Kind::kFuse: {
      std::string all;
      for (const std::string& piece : pieces) {
        all += step.kind == Kind::kFuse ? piece : byte_level_bytes(piece);
      }
      pieces.assign(1, replace_invalid_utf8(all));
      break;
    }
    case Kind::kReplace:
      for (std::string& piece : pieces) {
        piece = step.regex ? replace_all(piece, *step.regex, step.to)
                           : replace_all(piece, step.from, step.to);
      }
      break;
    case Kind::kByteFallback:
      join_fallback_bytes(pieces);
      break;
    case Kind::kStrip:
      for (std::string& piece : pieces) piece = strip(piece, step.from, step.start, step.stop);
      break;
    case Kind::kMetaspace:
      for (size_t i = 0; i < pieces.size(); ++i) {
        pieces[i] = replace_all(pieces[i], step.from, i == 0 && step.prepends ? "" : " ");
      }
      break;
  }
}

std::string TokenDecoder::decode(std::vector<std::string> pieces) const {
  std::string text;
  if (is_null_) {
    for (size_t i = 0; i < pieces.size(); ++i) text += (i ? " " : "") + pieces[i];
    return text;
  }
  for (const Step& step : steps_) apply(step, pieces);
  for (const std::string& piece : pieces) text += piece;
  return replace_invalid_utf8(text);
}

}  // namespace qlora::data
