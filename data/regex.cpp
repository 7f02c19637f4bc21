#include "data/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "core/error.h"
#include "data/unicode.h"
#include "data/utf8.h"

namespace qlora::data {
namespace {

// White_Space, as Oniguruma's \s; PCRE2's own has U+180E too.
constexpr std::string_view kSpaces =
    R"(\x09-\x0d\x20\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kNonSpaces =
    R"(\x00-\x08\x0e-\x1f\x21-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

constexpr std::array kCategories = {"L",  "Lu", "Ll", "Lt", "Lm", "Lo", "M",  "N",  "Nd",
                                    "Nl", "No", "P",  "Pc", "Pd", "Ps", "Pe", "Pi", "Pf",
                                    "Po", "S",  "Sm", "Sc", "Sk", "So", "Z"};

/// Rewrites a pattern from left to right.
class Translator {
 public:
  explicit Translator(std::string_view pattern) : pattern_(pattern) {}

  std::string run() {
    while (at_ < pattern_.size()) {
      const char c = pattern_[at_];
      if (c == '\\') {
        escape(false);
      } else if (c == '[') {
        character_class();
      } else {
        if (c == '{') check_interval();
        out_ += c;
        ++at_;
        if (c == '(') group();
      }
    }
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(std::string_view what) const {
    throw FormatError(fmt::format(
        "[tokenizer] the split pattern '{}' uses {} at byte {}, which is not supported; allowed "
        "are literals, classes, \\s \\S \\d \\p{{category}} \\r \\n \\t \\x, groups (?: (?i: (?! "
        "(?= (?<= (?<!, quantifiers and |",
        pattern_, what, at_));
  }

  char peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }

  /// Ruby reads {,3} as {0,3} and {1,3}+ as a repetition of the interval; PCRE2 reads neither so.
  void check_interval() const {
    size_t end = at_ + 1;
    while (end < pattern_.size() &&
           (std::isdigit(static_cast<unsigned char>(pattern_[end])) || pattern_[end] == ',')) {
      ++end;
    }
    if (peek(1) == ',') refuse("an interval without its lower bound");
    if (pattern_.substr(end).starts_with("}+")) refuse("{…}+");
  }

  void group() {
    if (peek() == '*') refuse("(*");
    if (peek() != '?') return;
    const std::string_view rest = pattern_.substr(at_ + 1);
    for (const std::string_view known : {":", "i:", "=", "!", "<=", "<!", ">"}) {
      if (rest.starts_with(known)) {
        out_ += '?';
        out_ += known;
        at_ += 1 + known.size();
        return;
      }
    }
    refuse("this kind of group");
  }

  /// One backslash sequence; `inside` a character class.
  void escape(bool inside) {
    const char c = peek(1);
    const auto as_class = [&](std::string_view members, bool negated) {
      if (inside) {
        if (negated) refuse("a negated category inside a class");
        out_ += members;
      } else {
        out_ += negated ? "[^" : "[";
        out_ += members;
        out_ += ']';
      }
    };
    switch (c) {
      case 's':
      case 'S':
        at_ += 2;
        return as_class(c == 's' ? kSpaces : kNonSpaces, false);
      case 'd':
      case 'D':
        at_ += 2;
        return as_class("\\p{Nd}" + newer_members("Nd"), c == 'D');
      case 'p':
      case 'P':
        return category(as_class);
      case 'r':
      case 'n':
      case 't':
      case 'f':
        out_ += '\\';
        out_ += c;
        at_ += 2;
        return;
      case 'x':
      case 'u':
        return code_point();
      default:
        const bool is_punctuation =
            c > ' ' && static_cast<unsigned char>(c) < 0x7F && !std::isalnum(static_cast<int>(c));
        if (!is_punctuation && c != ' ') refuse(c ? fmt::format("\\{}", c) : "a lone backslash");
        out_ += '\\';
        out_ += c;
        at_ += 2;
    }
  }

  template <class AsClass>
  void category(const AsClass& as_class) {
    bool negated = peek(1) == 'P';
    size_t name_at = at_ + 2;
    std::string_view name;
    if (peek(2) == '{') {
      const size_t end = pattern_.find('}', name_at);
      if (end == std::string_view::npos) refuse("\\p without its '}'");
      name = pattern_.substr(name_at + 1, end - name_at - 1);
      if (name.starts_with('^')) {
        negated = !negated;
        name.remove_prefix(1);
      }
      if (std::find(kCategories.begin(), kCategories.end(), name) == kCategories.end()) {
        refuse(fmt::format("the category '{}'", name));
      }
      at_ = end + 1;
    } else {
      refuse("\\p without '{'");
    }
    as_class(fmt::format("\\p{{{}}}", name) + newer_members(name), negated);
  }

  /// \xHH, \x{H…} and \uHHHH, all written \x{…}.
  void code_point() {
    const bool braces = peek(1) == 'x' && peek(2) == '{';
    const size_t most = peek(1) == 'u' ? 4 : braces ? 6 : 2;
    size_t at = at_ + 2 + braces, count = 0;
    uint32_t code = 0;
    while (count < most && at < pattern_.size() &&
           std::isxdigit(static_cast<unsigned char>(pattern_[at]))) {
      const char digit = pattern_[at];
      code = code * 16 + (digit <= '9' ? digit - '0' : (digit | 0x20) - 'a' + 10);
      ++at;
      ++count;
    }
    const bool closed = !braces || (at < pattern_.size() && pattern_[at] == '}');
    const bool enough =
        count > 0 && (peek(1) != 'u' || count == 4) && (peek(1) == 'u' || braces || count == 2);
    if (!enough || !closed || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ||
        (peek(1) == 'x' && !braces && code > 0x7F)) {
      refuse("a code point that cannot be read");
    }
    at_ = at + braces;
    out_ += fmt::format("\\x{{{:x}}}", code);
  }

  void character_class() {
    out_ += pattern_[at_++];
    if (peek() == '^') out_ += pattern_[at_++];
    bool first = true;
    while (true) {
      if (at_ >= pattern_.size()) refuse("a class without its ']'");
      const char c = pattern_[at_];
      if (c == ']' && !first) break;
      if (c == ']') refuse("a ']' at the start of a class");
      if (c == '[') refuse("a class within a class");
      if (c == '&' && peek(1) == '&') refuse("&& in a class");
      first = false;
      if (c == '\\') {
        escape(true);
      } else {
        out_ += c;
        ++at_;
      }
    }
    out_ += ']';
    ++at_;
  }

  std::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
};

struct Deleter {
  void operator()(pcre2_code* p) const { pcre2_code_free(p); }
  void operator()(pcre2_match_data* p) const { pcre2_match_data_free(p); }
  void operator()(pcre2_match_context* p) const { pcre2_match_context_free(p); }
  void operator()(pcre2_compile_context* p) const { pcre2_compile_context_free(p); }
  void operator()(pcre2_jit_stack* p) const { pcre2_jit_stack_free(p); }
};
template <class T>
using Owned = std::unique_ptr<T, Deleter>;

/// What a thread needs to match: room for the result, and a stack for compiled code.
struct Workspace {
  Owned<pcre2_match_data> data{pcre2_match_data_create(1, nullptr)};
  Owned<pcre2_match_context> context{pcre2_match_context_create(nullptr)};
  Owned<pcre2_jit_stack> stack{pcre2_jit_stack_create(size_t{32} << 10, size_t{64} << 20, nullptr)};

  Workspace() {
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
    pcre2_set_match_limit(context.get(), UINT32_MAX);
    pcre2_set_depth_limit(context.get(), UINT32_MAX);
    pcre2_set_heap_limit(context.get(), 1u << 20);  // KiB: 1 GiB
  }
};

std::string message_of(int code) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(code, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

}  // namespace

struct Regex::Code {
  Owned<pcre2_code> compiled;
  bool has_jit = false;
};

std::string translate_pattern(std::string_view pattern) {
  return Translator(pattern).run();
}

Regex::Regex(std::string_view pattern) : pattern_(pattern), code_(std::make_unique<Code>()) {
  const std::string translated = translate_pattern(pattern);
  Owned<pcre2_compile_context> context(pcre2_compile_context_create(nullptr));
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_parens_nest_limit(context.get(), 100);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_->compiled.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(translated.data()),
                                      translated.size(), PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE,
                                      &error, &offset, context.get()));
  QLORA_CHECK(code_->compiled, FormatError, "[tokenizer] the split pattern '{}' is not valid: {}",
              pattern_, message_of(error));
  uint32_t may_match_empty = 0;
  pcre2_pattern_info(code_->compiled.get(), PCRE2_INFO_MATCHEMPTY, &may_match_empty);
  QLORA_CHECK(!may_match_empty, FormatError,
              "[tokenizer] the split pattern '{}' may match the empty text, which splits nothing; "
              "every alternative has to take a character",
              pattern_);
  code_->has_jit = pcre2_jit_compile(code_->compiled.get(), PCRE2_JIT_COMPLETE) == 0;
}

Regex::~Regex() = default;
Regex::Regex(Regex&&) noexcept = default;
Regex& Regex::operator=(Regex&&) noexcept = default;

bool Regex::find(std::string_view text, size_t from, Match& match) const {
  thread_local Workspace workspace;
  const auto subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  int result = PCRE2_ERROR_JIT_STACKLIMIT;
  if (code_->has_jit) {
    result = pcre2_jit_match(code_->compiled.get(), subject, text.size(), from, 0,
                             workspace.data.get(), workspace.context.get());
  }
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) {  // the interpreter keeps its stack on the heap
    result = pcre2_match(code_->compiled.get(), subject, text.size(), from,
                         PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, workspace.data.get(),
                         workspace.context.get());
  }
  if (result == PCRE2_ERROR_NOMATCH) return false;
  QLORA_CHECK(result >= 0, ValueError,
              "[tokenizer] the split pattern '{}' failed on a text of {} bytes: {}; split the text "
              "into shorter lines",
              pattern_, text.size(), message_of(result));
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(workspace.data.get());
  match = {offsets[0], offsets[1]};
  return true;
}

bool is_word_character(char32_t code) {
  if (code < 0x80) return std::isalnum(static_cast<int>(code)) || code == '_';
  static const Regex kWord(R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9}]|)"
                           R"([\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])");
  std::string text;
  append_utf8(text, code);
  Regex::Match match;
  return kWord.find(text, 0, match);
}

}  // namespace qlora::data
