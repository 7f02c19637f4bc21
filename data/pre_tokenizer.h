#pragma once

#include <deque>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"

namespace qlora::data {

/// GPT-2's split pattern, which ByteLevel uses.
inline constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

/// The "pre_tokenizer" of a tokenizer.json: null, ByteLevel, Split, Digits, Metaspace, Whitespace,
/// WhitespaceSplit, Punctuation, BertPreTokenizer, CharDelimiterSplit, or a Sequence of these. Cuts
/// a text into the words that are merged one by one.
///   ByteLevel  may only come last: what it yields stands for bytes; words() gives the raw bytes
class PreTokenizer {
 public:
  PreTokenizer() = default;
  /// throws FormatError for another type, or an order that is not supported
  PreTokenizer(const nlohmann::json& description, const std::string& where);

  /// The vocabulary spells bytes in GPT-2's alphabet.
  bool is_byte_level() const { return byte_level_; }

  struct Place {
    bool at_text_start = false;  // nothing stands before this text, not even an added token
    bool continues = false;      // the text goes on from an earlier piece: no prefix
  };
  struct Span {
    size_t begin, end;
    bool is_match;
  };
  /// The words of a text, and the room to find them; reused from text to text.
  struct Words {
    std::vector<std::string_view> words;  // valid until the next split(), and while the text lives
    std::vector<std::string_view> scratch;
    std::vector<Span> spans;
    std::deque<std::string> changed;  // texts that a step had to change; addresses stay
  };
  void split(std::string_view text, Place place, Words& words) const;

 private:
  enum class Kind { kSplit, kDigits, kMetaspace, kPrefixSpace, kWords, kSpaces, kPunctuation };
  enum class Behavior { kRemoved, kIsolated, kMergedWithPrevious, kMergedWithNext, kContiguous };
  enum class Prepend { kAlways, kFirst, kNever };
  struct Step {
    Kind kind = Kind::kSplit;
    Behavior behavior = Behavior::kIsolated;
    std::optional<Regex> regex{};       // kSplit
    std::string literal{};              // kSplit without regex; kMetaspace: the replacement
    bool invert = false;                // kSplit: what does not match is the delimiter
    Prepend prepend = Prepend::kNever;  // kMetaspace
    bool cuts = true;
  };
  void add(const nlohmann::json& description, const std::string& where, int depth);
  void add_split(const nlohmann::json& description, const std::string& where);
  bool add_by_class(const nlohmann::json& description, const std::string& type,
                    const std::string& where);
  void add_metaspace(const nlohmann::json& description, const std::string& where);
  static void change(const Step& step, Place place, std::string_view& text, Words& words);
  static Behavior read_behavior(const nlohmann::json& description, const std::string& where);
  static void find_words(std::string_view text, std::vector<Span>& spans);
  static void find_spans(const Step& step, std::string_view text, std::vector<Span>& spans);
  static void merge_spans(Behavior behavior, std::vector<Span>& spans);

  std::vector<Step> steps_;
  bool byte_level_ = false;
};

}  // namespace qlora::data
