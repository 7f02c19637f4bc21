#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

namespace qlora::data {

/// A split pattern of a tokenizer, compiled by PCRE2 to mean what it means to the reference's
/// engine (Oniguruma, Ruby syntax): \s, \d and \p{…} are spelt out, and dialect differences are
/// refused by name. Texts are valid UTF-8. Threads may share one object.
class Regex {
 public:
  /// throws FormatError for a pattern that does not compile, may match the empty text, or uses what
  /// the two engines read differently
  explicit Regex(std::string_view pattern);
  ~Regex();
  Regex(Regex&&) noexcept;
  Regex& operator=(Regex&&) noexcept;

  struct Match {
    size_t begin, end;
  };
  /// First match at or after `from`; look-behind sees the text before it.
  ///   returns   false where there is none
  ///   throws    ValueError if the engine gives up (memory)
  bool find(std::string_view text, size_t from, Match& match) const;

  const std::string& pattern() const { return pattern_; }

 private:
  struct Code;
  std::string pattern_;  // as given
  std::unique_ptr<Code> code_;
};

/// The pattern in PCRE2's syntax. Visible for tests.
std::string translate_pattern(std::string_view pattern);

}  // namespace qlora::data
