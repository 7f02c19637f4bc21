#include "data/jinja/lexer.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>

#include "core/error.h"
#include "data/jinja/text_tools.h"
#include "data/utf8.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

constexpr std::array<std::string_view, 26> kOperators = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

bool is_digit(char c) {
  return c >= '0' && c <= '9';
}
bool is_name_character(char c) {
  return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_';
}

/// Line ends as \n, and without the last one: what Jinja2 does to a template first.
std::string with_plain_line_ends(std::string_view text, bool drops_last) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const bool is_pair = text[i] == '\r' && i + 1 < text.size() && text[i + 1] == '\n';
    if (!is_pair) out += text[i] == '\r' ? '\n' : text[i];
  }
  if (drops_last && out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  Lexer(std::string_view text, const std::string& name)
      : name_(name), text_(with_plain_line_ends(text, true)) {}

  std::vector<Token> run() {
    while (at_ < text_.size()) data();
    push(Token::Kind::kEnd, "");
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void fail(const std::string& what) const { fail_at(what, line_); }
  [[noreturn]] void fail_at(const std::string& what, int line) const {
    throw FormatError(fmt::format("[template] {}, line {}: {}", name_, line, what));
  }
  bool at(std::string_view what, size_t ahead = 0) const {
    return std::string_view(text_).substr(std::min(at_ + ahead, text_.size())).starts_with(what);
  }
  void push(Token::Kind kind, std::string text) {
    tokens_.push_back({.kind = kind, .text = std::move(text), .line = line_});
  }
  /// Moves on by `count` bytes and counts their lines.
  void take(size_t count) {
    line_ += static_cast<int>(std::count(text_.begin() + static_cast<int64_t>(at_),
                                         text_.begin() + static_cast<int64_t>(at_ + count), '\n'));
    at_ += count;
  }
  void take_space() { take(space_prefix(std::string_view(text_).substr(at_))); }

  /// Text up to the next tag, and the tag.
  void data() {
    size_t end = at_;
    while (true) {
      end = text_.find('{', end);
      if (end == std::string::npos || end + 1 >= text_.size()) break;
      const char next = text_[end + 1];
      if (next == '{' || next == '%' || next == '#') break;
      ++end;
    }
    const bool is_last = end == std::string::npos || end + 1 >= text_.size();
    if (is_last) end = text_.size();
    const std::string_view all = std::string_view(text_).substr(at_, end - at_);
    if (is_last) {
      if (!all.empty()) push(Token::Kind::kData, std::string(all));
      take(all.size());
      return;
    }
    const char tag = text_[end + 1];
    const char sign = end + 2 < text_.size() ? text_[end + 2] : '\0';
    emit_data(all, sign, tag != '{');
    take(all.size());
    take(2 + (sign == '-' || sign == '+'));
    if (tag == '#') return comment();
    if (tag == '{') return expression(Token::Kind::kPrintBegin, Token::Kind::kPrintEnd, "}}");
    if (!raw()) expression(Token::Kind::kTagBegin, Token::Kind::kTagEnd, "%}");
  }

  /// Pushes text before a tag with the sign that the tag begins with.
  void emit_data(std::string_view all, char sign, bool strips_line) {
    std::string_view kept = all;
    if (sign == '-') {
      kept = all.substr(0, all.size() - space_suffix(all));
    } else if (sign != '+' && strips_line) {
      const size_t line = all.rfind('\n') == std::string_view::npos ? 0 : all.rfind('\n') + 1;
      const bool starts_line = line > 0 || starts_line_;
      const std::string_view tail = all.substr(line);
      if (starts_line && !tail.empty() && space_prefix(tail) == tail.size()) {
        kept = all.substr(0, line);
      }
    }
    if (!kept.empty()) push(Token::Kind::kData, std::string(kept));
  }

  /// Behind the closing mark of a tag: what it takes with it.
  void close(size_t mark, char sign, bool trims) {
    const size_t begin = at_;
    take(mark);
    if (sign == '-') {
      take_space();
    } else if (sign != '+' && trims && at("\n")) {
      take(1);
    }
    starts_line_ = at_ > begin && text_[at_ - 1] == '\n';
  }

  void comment() {
    const int line = line_;
    if (at_ == text_.size()) return;  // Jinja2 takes a comment that begins at the very end
    const size_t end = text_.find("#}", at_);
    if (end == std::string::npos) fail_at("a comment is not closed, expected '#}'", line);
    const char sign = end > at_ ? text_[end - 1] : '\0';
    take(end - at_);
    close(2, sign, true);
  }

  /// {% raw %} … {% endraw %}, behind the "{%" and its sign.
  ///   returns   false, and moves nothing, where another tag stands
  bool raw() {
    const int line = line_;
    size_t open = 0;
    if (!raw_tag(at_, "raw", open)) return false;
    const char open_sign = text_[open - 3];
    take(open - 2 - at_);
    close(2, open_sign == '-' ? '-' : '+', false);
    for (size_t begin = at_; (begin = text_.find("{%", begin)) != std::string::npos; ++begin) {
      const char sign = begin + 2 < text_.size() ? text_[begin + 2] : '\0';
      size_t end = 0;
      if (!raw_tag(begin + 2 + (sign == '-' || sign == '+'), "endraw", end)) continue;
      const std::string_view all = std::string_view(text_).substr(at_, begin - at_);
      emit_data(all, sign, true);
      take(end - 2 - at_);
      close(2, text_[end - 3], true);
      return true;
    }
    fail_at("a raw block is not closed, expected '{% endraw %}'", line);
  }

  /// Whether `word` and the end of the tag follow; `end` is then behind the "%}".
  bool raw_tag(size_t from, std::string_view word, size_t& end) const {
    const auto skip_space = [&] { from += space_prefix(std::string_view(text_).substr(from)); };
    from = std::min(from, text_.size());
    skip_space();
    if (!std::string_view(text_).substr(from).starts_with(word)) return false;
    from += word.size();
    skip_space();
    const bool may_keep = word == "endraw";
    if (from < text_.size() && (text_[from] == '-' || (text_[from] == '+' && may_keep))) ++from;
    if (!std::string_view(text_).substr(from).starts_with("%}")) return false;
    end = from + 2;
    return true;
  }

  /// What stands in a tag, up to its end: brackets are counted, so that {{ {'a': {}} }} is read.
  void expression(Token::Kind begin, Token::Kind end, std::string_view mark) {
    const int line = line_;
    push(begin, "");
    std::string open;  // the closing brackets that are waited for
    while (true) {
      take_space();
      if (at_ >= text_.size())
        fail_at(fmt::format("a tag is not closed, expected '{}'", mark), line);
      if (open.empty()) {
        const char sign = text_[at_];
        const bool is_signed = (sign == '-' || (sign == '+' && mark == "%}")) && at(mark, 1);
        if (is_signed || at(mark)) {
          push(end, "");
          take(is_signed);
          return close(mark.size(), is_signed ? sign : '\0', mark == "%}");
        }
      }
      token(open);
    }
  }

  void token(std::string& open) {
    const char c = text_[at_];
    if (is_digit(c)) return number();
    if (is_name_character(c)) return name();
    if (c == '\'' || c == '"') return string(c);
    const auto* op = std::find_if(kOperators.begin(), kOperators.end(),
                                  [this](std::string_view o) { return at(o); });
    if (op == kOperators.end()) {
      fail(fmt::format("unexpected {}", io::quote(text_.substr(at_, character_bytes(c)))));
    }
    if (*op == "(" || *op == "[" || *op == "{") {
      open += *op == "(" ? ')' : *op == "[" ? ']' : '}';
    } else if (*op == ")" || *op == "]" || *op == "}") {
      if (open.empty()) fail(fmt::format("unexpected '{}'", *op));
      if (open.back() != op->front()) {
        fail(fmt::format("unexpected '{}', expected '{}'", *op, open.back()));
      }
      open.pop_back();
    }
    push(Token::Kind::kOperator, std::string(*op));
    take(op->size());
  }

  void name() {
    size_t end = at_;
    while (end < text_.size() && is_name_character(text_[end])) ++end;
    if (end < text_.size() && static_cast<unsigned char>(text_[end]) >= 0x80) {
      fail("a name with characters beyond ASCII");
    }
    push(Token::Kind::kName, text_.substr(at_, end - at_));
    take(end - at_);
  }

  /// Digits with single underscores between them, from `from`; returns their end.
  size_t digits(size_t from) const {
    size_t end = from;
    while (end < text_.size() &&
           (is_digit(text_[end]) || (text_[end] == '_' && end > from && text_[end - 1] != '_' &&
                                     end + 1 < text_.size() && is_digit(text_[end + 1])))) {
      ++end;
    }
    return end;
  }

  void number() {
    const size_t whole = digits(at_);
    size_t end = whole;
    const bool after_dot = at_ > 0 && text_[at_ - 1] == '.';
    if (!after_dot) {
      if (end + 1 < text_.size() && text_[end] == '.' && is_digit(text_[end + 1])) {
        end = digits(end + 1);
      }
      if (end < text_.size() && (text_[end] == 'e' || text_[end] == 'E')) {
        const size_t sign =
            end + 1 < text_.size() && (text_[end + 1] == '+' || text_[end + 1] == '-');
        const size_t exponent = digits(end + 1 + sign);
        if (exponent > end + 1 + sign) end = exponent;
      }
    }
    if (end > whole) return real(end);
    integer(whole);
  }

  void real(size_t end) {
    std::string text = text_.substr(at_, end - at_);
    std::erase(text, '_');
    Token token{.kind = Token::Kind::kFloat, .text = {}, .line = line_};
    const auto [rest, error] = std::from_chars(text.data(), text.data() + text.size(), token.real);
    if (error == std::errc::result_out_of_range) {
      // "1e999" is Python's inf, "1e-999" its 0.
      token.real = text.find("e-") != std::string::npos || text.find("E-") != std::string::npos
                       ? 0.0
                       : HUGE_VAL;
    }
    tokens_.push_back(std::move(token));
    take(end - at_);
  }

  void integer(size_t whole) {
    int base = 10;
    size_t begin = at_, end = whole;
    const char mark =
        at("0") && at_ + 1 < text_.size() ? static_cast<char>(text_[at_ + 1] | 0x20) : '\0';
    if (mark == 'x' || mark == 'o' || mark == 'b') {
      base = mark == 'x' ? 16 : mark == 'o' ? 8 : 2;
      begin = end = at_ + 2;
      const auto is_of_base = [base](char c) {
        const int value = is_digit(c) ? c - '0' : (c | 0x20) >= 'a' ? (c | 0x20) - 'a' + 10 : 99;
        return value < base;
      };
      while (end < text_.size() &&
             (is_of_base(text_[end]) ||
              (text_[end] == '_' && end + 1 < text_.size() && is_of_base(text_[end + 1])))) {
        ++end;
      }
      if (end == begin) fail("a number that cannot be read");
    } else if (at("0") && end - at_ > 1 && text_.find_first_not_of("0_", at_) < end) {
      fail("a number that begins with 0");
    }
    std::string text = text_.substr(begin, end - begin);
    std::erase(text, '_');
    Token token{.kind = Token::Kind::kInt, .text = {}, .line = line_};
    const auto [rest, error] =
        std::from_chars(text.data(), text.data() + text.size(), token.number, base);
    if (error != std::errc()) fail("a number beyond 64 bits");
    tokens_.push_back(std::move(token));
    take(end - at_);
  }

  void string(char quote) {
    const int line = line_;
    std::string out;
    for (size_t i = at_ + 1; i < text_.size();) {
      const char c = text_[i];
      if (c == quote) {
        push(Token::Kind::kText, std::move(out));
        return take(i + 1 - at_);
      }
      if (c != '\\') {
        out += c;
        ++i;
      } else {
        escape(i, out, line);
      }
    }
    fail_at("a text is not closed", line);
  }

  /// One backslash sequence at `i`, as Python's unicode-escape reads it.
  void escape(size_t& i, std::string& out, int line) const {
    const char c = i + 1 < text_.size() ? text_[i + 1] : '\0';
    constexpr std::string_view kFrom = "\n\\'\"abfnrtv", kTo = "\0\\'\"\a\b\f\n\r\t\v";
    if (const size_t at = kFrom.find(c); at != std::string_view::npos && c != '\0') {
      if (c != '\n') out += kTo[at];
      i += 2;
      return;
    }
    if (c >= '0' && c <= '7') {
      uint32_t code = 0;
      size_t end = i + 1;
      for (; end < std::min(i + 4, text_.size()) && text_[end] >= '0' && text_[end] <= '7'; ++end) {
        code = code * 8 + static_cast<uint32_t>(text_[end] - '0');
      }
      append_utf8(out, code);
      i = end;
      return;
    }
    const size_t digits = c == 'x' ? 2 : c == 'u' ? 4 : c == 'U' ? 8 : 0;
    if (digits == 0) {
      if (c == 'N') fail_at("the escape \\N{…} is not supported", line);
      out += '\\';  // no escape: both characters stay
      ++i;
      return;
    }
    uint32_t code = 0;
    const char* begin = text_.data() + i + 2;
    const char* end = text_.data() + std::min(i + 2 + digits, text_.size());
    const auto [rest, error] = begin < end
                                   ? std::from_chars(begin, end, code, 16)
                                   : std::from_chars_result{begin, std::errc::invalid_argument};
    const bool is_whole = error == std::errc() && rest == begin + digits;
    if (!is_whole || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) {
      fail_at(fmt::format("the escape \\{} stands for no character", c), line);
    }
    append_utf8(out, code);
    i += 2 + digits;
  }

  const std::string& name_;
  std::string text_;
  size_t at_ = 0;
  int line_ = 1;
  bool starts_line_ = true;  // what was read last ends a line
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> tokenize(std::string_view text, const std::string& name) {
  return Lexer(text, name).run();
}

}  // namespace qlora::data::jinja
