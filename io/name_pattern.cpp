#include "io/name_pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

constexpr size_t kMaxPatternBytes = 4096;
constexpr uint32_t kMatchLimit = 100'000, kHeapLimitKib = 1024;

std::string error_text(int code) {
  char text[256] = {};
  pcre2_get_error_message(code, reinterpret_cast<PCRE2_UCHAR*>(text), sizeof(text));
  return text;
}

}  // namespace

NamePattern::NamePattern(const std::string& pattern, const std::string& where)
    : pattern_(pattern), where_(where) {
  QLORA_CHECK(pattern.size() <= kMaxPatternBytes, FormatError,
              "[io] {}: a pattern of {} bytes, at most {} are allowed", where, pattern.size(),
              kMaxPatternBytes);
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code =
      pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                    PCRE2_UTF | PCRE2_ANCHORED | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  QLORA_CHECK(code != nullptr, FormatError, "[io] {}: {} is no regular expression: {}", where,
              quote(pattern), error_text(error));
  code_ =
      std::shared_ptr<void>(code, [](void* c) { pcre2_code_free(static_cast<pcre2_code*>(c)); });
}

bool NamePattern::matches(const std::string& name) const {
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, decltype(&pcre2_match_data_free)> data(
      pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const std::unique_ptr<pcre2_match_context, decltype(&pcre2_match_context_free)> context(
      pcre2_match_context_create(nullptr), pcre2_match_context_free);
  pcre2_set_match_limit(context.get(), kMatchLimit);
  pcre2_set_heap_limit(context.get(), kHeapLimitKib);
  const int result = pcre2_match(code, reinterpret_cast<PCRE2_SPTR>(name.data()), name.size(), 0, 0,
                                 data.get(), context.get());
  QLORA_CHECK(result >= 0 || result == PCRE2_ERROR_NOMATCH, FormatError,
              "[io] {}: matching {} failed: {}", where_, quote(pattern_), error_text(result));
  return result >= 0;
}

}  // namespace qlora::io
