#include "data/pre_tokenizer.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/json_members.h"
#include "data/normalizer.h"
#include "data/unicode.h"
#include "data/utf8.h"
#include "io/foreign_text.h"

namespace qlora::data {

PreTokenizer::PreTokenizer(const nlohmann::json& description, const std::string& where) {
  add(description, where, 0);
}

void PreTokenizer::add(const nlohmann::json& description, const std::string& where, int depth) {
  if (description.is_null()) return;
  const std::string type = component_type(description, where, "pre_tokenizer", depth);
  QLORA_CHECK(!byte_level_, FormatError,
              "[tokenizer] {}: the pre_tokenizer {} follows ByteLevel, which has to come last",
              where, io::quote(type));
  if (type == "Sequence") {
    for (const auto& part : member_array(description, "pretokenizers", where)) {
      add(part, where, depth + 1);
    }
  } else if (type == "ByteLevel") {
    if (member_bool(description, "add_prefix_space", true, where)) {
      steps_.push_back({.kind = Kind::kPrefixSpace, .cuts = false});
    }
    if (member_bool(description, "use_regex", true, where)) {
      steps_.push_back({.kind = Kind::kSplit, .regex = Regex(kGpt2Pattern)});
    }
    byte_level_ = true;
  } else if (type == "Digits") {
    const bool each = member_bool(description, "individual_digits", false, where);
    steps_.push_back(
        {.kind = Kind::kDigits, .behavior = each ? Behavior::kIsolated : Behavior::kContiguous});
  } else if (type == "Split") {
    add_split(description, where);
  } else if (type == "Metaspace") {
    add_metaspace(description, where);
  } else if (!add_by_class(description, type, where)) {
    refuse_component("pre_tokenizer", type,
                     "BertPreTokenizer, ByteLevel, CharDelimiterSplit, Digits, Metaspace, "
                     "Punctuation, Split, Whitespace, WhitespaceSplit, Sequence",
                     where);
  }
}

/// Those that cut by the class of a character. Returns false for another type.
bool PreTokenizer::add_by_class(const nlohmann::json& description, const std::string& type,
                                const std::string& where) {
  const bool is_bert = type == "BertPreTokenizer";
  if (type == "Whitespace") {
    steps_.push_back({.kind = Kind::kWords, .behavior = Behavior::kRemoved});
  } else if (type == "CharDelimiterSplit") {
    steps_.push_back({.kind = Kind::kSplit,
                      .behavior = Behavior::kRemoved,
                      .literal = member_string(description, "delimiter", where)});
    QLORA_CHECK(!steps_.back().literal.empty(), FormatError,
                "[tokenizer] {}: the pre_tokenizer CharDelimiterSplit has an empty delimiter",
                where);
  } else if (type == "WhitespaceSplit" || is_bert) {
    steps_.push_back({.kind = Kind::kSpaces, .behavior = Behavior::kRemoved});
  }
  if (type == "Punctuation" || is_bert) {
    const bool has_own = !is_bert && description.contains("behavior");
    steps_.push_back(
        {.kind = Kind::kPunctuation,
         .behavior = has_own ? read_behavior(description, where) : Behavior::kIsolated});
  }
  return is_bert || type == "Whitespace" || type == "CharDelimiterSplit" ||
         type == "WhitespaceSplit" || type == "Punctuation";
}

PreTokenizer::Behavior PreTokenizer::read_behavior(const nlohmann::json& description,
                                                   const std::string& where) {
  static constexpr std::pair<const char*, Behavior> kNames[] = {
      {"Removed", Behavior::kRemoved},
      {"Isolated", Behavior::kIsolated},
      {"MergedWithPrevious", Behavior::kMergedWithPrevious},
      {"MergedWithNext", Behavior::kMergedWithNext},
      {"Contiguous", Behavior::kContiguous}};
  const std::string name = member_string(description, "behavior", where);
  const auto* known = std::find_if(std::begin(kNames), std::end(kNames),
                                   [&](const auto& entry) { return name == entry.first; });
  if (known == std::end(kNames)) {
    refuse_component("behavior", name,
                     "Removed, Isolated, MergedWithPrevious, MergedWithNext, Contiguous", where);
  }
  return known->second;
}

void PreTokenizer::add_split(const nlohmann::json& description, const std::string& where) {
  Step step{.kind = Kind::kSplit};
  std::tie(step.literal, step.regex) = member_pattern(description, where);
  QLORA_CHECK(step.regex || !step.literal.empty(), FormatError,
              "[tokenizer] {}: the pre_tokenizer Split has an empty pattern", where);
  step.invert = member_bool(description, "invert", false, where);
  step.behavior = read_behavior(description, where);
  steps_.push_back(std::move(step));
}

void PreTokenizer::add_metaspace(const nlohmann::json& description, const std::string& where) {
  Step step{.kind = Kind::kMetaspace, .behavior = Behavior::kMergedWithNext};
  step.literal = member_string(description, "replacement", where);
  QLORA_CHECK(!step.literal.empty() && step.literal.size() == character_bytes(step.literal[0]),
              FormatError,
              "[tokenizer] {}: the replacement of Metaspace is {}, expected one character", where,
              io::quote(step.literal));
  // Older files say add_prefix_space where newer ones say prepend_scheme.
  const bool prefix = member_bool(description, "add_prefix_space", true, where);
  const std::string scheme = description.contains("prepend_scheme")
                                 ? member_string(description, "prepend_scheme", where)
                                 : (prefix ? "always" : "never");
  if (scheme != "always" && scheme != "first" && scheme != "never") {
    refuse_component("prepend_scheme of Metaspace", scheme, "always, first, never", where);
  }
  step.prepend = scheme == "always"  ? Prepend::kAlways
                 : scheme == "first" ? Prepend::kFirst
                                     : Prepend::kNever;
  step.cuts = member_bool(description, "split", true, where);
  steps_.push_back(std::move(step));
}

/// Runs of white space (matches), of word characters, and of others.
void PreTokenizer::find_words(std::string_view text, std::vector<Span>& spans) {
  int previous = -1;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    const int kind = is_white_space(code) ? 2 : is_word_member(code) ? 1 : 0;
    if (kind == previous) {
      spans.back().end = at;
    } else {
      spans.push_back({begin, at, kind == 2});
    }
    previous = kind;
  }
}

/// Cuts a text at the matches of a step; every byte is in one span.
void PreTokenizer::find_spans(const Step& step, std::string_view text, std::vector<Span>& spans) {
  spans.clear();
  size_t done = 0;
  const auto match = [&](size_t begin, size_t end) {
    if (done < begin) spans.push_back({done, begin, step.invert});
    spans.push_back({begin, end, !step.invert});
    done = end;
  };
  if (step.kind == Kind::kWords) return find_words(text, spans);
  const auto by_class = [&](bool (*is_member)(char32_t)) {
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (is_member(next_character(text, at))) match(begin, at);
    }
  };
  if (step.kind == Kind::kDigits) {
    by_class(is_numeric);
  } else if (step.kind == Kind::kSpaces) {
    by_class(is_white_space);
  } else if (step.kind == Kind::kPunctuation) {
    by_class(is_punctuation);
  } else if (step.regex) {
    for (Regex::Match m; done < text.size() && step.regex->find(text, done, m);) {
      match(m.begin, m.end);
    }
  } else {
    for (size_t at; (at = text.find(step.literal, done)) != std::string_view::npos;) {
      match(at, at + step.literal.size());
    }
  }
  if (done < text.size()) spans.push_back({done, text.size(), step.invert});
}

/// Joins neighbours as the behaviour asks; the rules, also the odd ones, are the reference's.
void PreTokenizer::merge_spans(Behavior behavior, std::vector<Span>& spans) {
  if (behavior == Behavior::kIsolated) return;
  if (behavior == Behavior::kRemoved) {
    std::erase_if(spans, [](const Span& s) { return s.is_match; });
    return;
  }
  const bool backwards = behavior == Behavior::kMergedWithNext;
  if (backwards) std::reverse(spans.begin(), spans.end());
  std::vector<Span> merged;
  bool previous_match = false;
  for (const Span& span : spans) {
    const bool joins = behavior == Behavior::kContiguous ? span.is_match == previous_match
                                                         : span.is_match && !previous_match;
    if (joins && !merged.empty()) {
      (backwards ? merged.back().begin : merged.back().end) = backwards ? span.begin : span.end;
    } else {
      merged.push_back(span);
    }
    previous_match = span.is_match;
  }
  if (backwards) std::reverse(merged.begin(), merged.end());
  spans = std::move(merged);
}

/// Prefixes and replacements of a step, before it cuts.
void PreTokenizer::change(const Step& step, Place place, std::string_view& text, Words& words) {
  if (step.kind == Kind::kPrefixSpace && !text.starts_with(' ') && !place.continues) {
    text = words.changed.emplace_back(" " + std::string(text));
  }
  if (step.kind == Kind::kMetaspace) {
    std::string replaced = replace_all(text, " ", step.literal);
    const bool prepends = step.prepend == Prepend::kAlways ||
                          (step.prepend == Prepend::kFirst && place.at_text_start);
    if (prepends && !place.continues && !replaced.starts_with(step.literal)) {
      replaced.insert(0, step.literal);
    }
    text = words.changed.emplace_back(std::move(replaced));
  }
}

void PreTokenizer::split(std::string_view whole, Place place, Words& words) const {
  words.words.clear();
  words.changed.clear();
  if (whole.empty()) return;
  words.words.push_back(whole);
  bool keeps_start = true;  // the first word begins where the text does
  for (const Step& step : steps_) {
    words.scratch.clear();
    bool drops_start = false;
    for (size_t i = 0; i < words.words.size(); ++i) {
      std::string_view text = words.words[i];
      change(step, i == 0 && keeps_start ? place : Place{}, text, words);
      if (!step.cuts) {
        words.scratch.push_back(text);
        continue;
      }
      find_spans(step, text, words.spans);
      merge_spans(step.behavior, words.spans);
      if (i == 0) drops_start = words.spans.empty() || words.spans.front().begin != 0;
      for (const Span& s : words.spans) {
        words.scratch.push_back(text.substr(s.begin, s.end - s.begin));
      }
    }
    std::swap(words.words, words.scratch);
    keeps_start = keeps_start && !drops_start;
  }
}

}  // namespace qlora::data
