#include "data/unicode.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <vector>

#include "data/letter_case.h"
#include "data/utf8.h"

namespace qlora::data {
namespace {

struct CodeRange {
  char32_t first, last;
};
struct CategoryRange {
  char32_t first, last;
  char category[2];
};
struct ClassRange {
  char32_t first, last;
  uint8_t combining_class;
};
struct CodePair {
  char32_t a, b, c;
};
struct CompatibilityEntry {
  char32_t code;
  uint16_t place, length;  // in kCompatibilityText
};
#include "data/normalizer_tables.inc"
#include "data/unicode_tables.inc"

/// The range of a sorted table that holds the code point, or null.
template <class Range, size_t kCount>
const Range* find_range(const Range (&table)[kCount], char32_t code) {
  const Range* at = std::upper_bound(std::begin(table), std::end(table), code,
                                     [](char32_t c, const Range& r) { return c < r.first; });
  if (at == std::begin(table)) return nullptr;
  --at;
  return code <= at->last ? at : nullptr;
}

uint8_t combining_class(char32_t code) {
  if (code < 0x300) return 0;
  const ClassRange* range = find_range(kCombiningClasses, code);
  return range ? range->combining_class : 0;
}

// Hangul syllables are composed by arithmetic: Unicode 15, section 3.12.
constexpr char32_t kSyllables = 0xAC00, kLeads = 0x1100, kVowels = 0x1161, kTails = 0x11A7;
constexpr char32_t kLeadCount = 19, kVowelCount = 21, kTailCount = 28;
constexpr char32_t kSyllableCount = kLeadCount * kVowelCount * kTailCount;

void decompose(char32_t code, std::vector<char32_t>& out) {
  if (code - kSyllables < kSyllableCount) {
    const char32_t index = code - kSyllables;
    out.push_back(kLeads + index / (kVowelCount * kTailCount));
    out.push_back(kVowels + index / kTailCount % kVowelCount);
    if (index % kTailCount) out.push_back(kTails + index % kTailCount);
    return;
  }
  if (code >= 0xC0) {
    const CodePair* at =
        std::lower_bound(std::begin(kDecompositions), std::end(kDecompositions), code,
                         [](const CodePair& p, char32_t c) { return p.a < c; });
    if (at != std::end(kDecompositions) && at->a == code) {
      decompose(at->b, out);
      if (at->c) decompose(at->c, out);
      return;
    }
  }
  out.push_back(code);
}

/// The primary composite of two characters, or 0.
char32_t compose(char32_t first, char32_t second) {
  if (first - kLeads < kLeadCount && second - kVowels < kVowelCount) {
    return kSyllables + ((first - kLeads) * kVowelCount + (second - kVowels)) * kTailCount;
  }
  const bool is_open_syllable =
      first - kSyllables < kSyllableCount && (first - kSyllables) % kTailCount == 0;
  if (is_open_syllable && second > kTails && second < kTails + kTailCount) {
    return first + (second - kTails);
  }
  const auto before = [](const CodePair& p, const std::pair<char32_t, char32_t>& key) {
    return p.a != key.first ? p.a < key.first : p.b < key.second;
  };
  const CodePair* at = std::lower_bound(std::begin(kCompositions), std::end(kCompositions),
                                        std::pair(first, second), before);
  const bool found = at != std::end(kCompositions) && at->a == first && at->b == second;
  return found ? at->c : 0;
}

/// Sorts every run of marks by combining class, equal ones in their order.
void order_marks(std::vector<char32_t>& codes) {
  for (size_t i = 0; i < codes.size();) {
    size_t end = i;
    while (end < codes.size() && combining_class(codes[end]) != 0) ++end;
    if (end - i > 1) {
      std::stable_sort(codes.begin() + i, codes.begin() + end, [](char32_t a, char32_t b) {
        return combining_class(a) < combining_class(b);
      });
    }
    i = end + 1;
  }
}

void decompose_compatible(char32_t code, std::vector<char32_t>& out) {
  const auto* at =
      std::lower_bound(std::begin(kCompatibility), std::end(kCompatibility), code,
                       [](const CompatibilityEntry& entry, char32_t c) { return entry.code < c; });
  if (at == std::end(kCompatibility) || at->code != code) return decompose(code, out);
  const char32_t* text = kCompatibilityText + at->place;
  out.insert(out.end(), text, text + at->length);
}

/// Joins what composes: Unicode 15, section 3.11.
std::vector<char32_t> composed(const std::vector<char32_t>& codes) {
  std::vector<char32_t> out;
  out.reserve(codes.size());
  size_t starter = SIZE_MAX;  // place in `out` of the last character of class 0
  int previous_class = -1;    // class of the last one kept after the starter; -1: none was
  for (const char32_t code : codes) {
    const int own_class = combining_class(code);
    const bool is_blocked = previous_class >= own_class && previous_class != -1;
    if (starter != SIZE_MAX && !is_blocked) {
      if (const char32_t both = compose(out[starter], code)) {
        out[starter] = both;
        continue;
      }
    }
    out.push_back(code);
    if (own_class == 0) {
      starter = out.size() - 1;
      previous_class = -1;
    } else {
      previous_class = own_class;
    }
  }
  return out;
}

}  // namespace

bool is_white_space(char32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

bool is_numeric(char32_t code) {
  if (code < 0x80) return code >= '0' && code <= '9';
  return find_range(kNumeric, code) != nullptr;
}

std::string newer_members(std::string_view category) {
  std::string out;
  for (const CategoryRange& r : kNewerCategories) {
    if (std::string_view(r.category, 2).substr(0, category.size()) != category) continue;
    out += fmt::format("\\x{{{:x}}}", static_cast<uint32_t>(r.first));
    if (r.last != r.first) out += fmt::format("-\\x{{{:x}}}", static_cast<uint32_t>(r.last));
  }
  return out;
}

bool is_word_member(char32_t code) {
  return find_range(kWord, code) != nullptr;
}

bool is_punctuation(char32_t code) {
  return find_range(kPunctuation, code) != nullptr;
}

std::string lower_case(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    const size_t begin = at;
    const char32_t code = next_character(text, at);
    const auto* newer = std::end(kNewerLower);
    if (code >= kNewerLower[0].a) {
      newer = std::find_if(std::begin(kNewerLower), std::end(kNewerLower),
                           [code](const CodePair& pair) { return pair.a == code; });
    }
    if (newer != std::end(kNewerLower)) {
      append_utf8(out, newer->b);
    } else {
      out += lower_each(text.substr(begin, at - begin));
    }
  }
  return out;
}

std::string normalize(std::string_view text, NormalForm form) {
  const bool composes = form == NormalForm::kNfc || form == NormalForm::kNfkc;
  const bool is_compatible = form == NormalForm::kNfkc || form == NormalForm::kNfkd;
  // Nothing below U+0300 composes with what stands before it, and to NFC none of it is taken apart
  // for good.
  const unsigned char first_changed = form == NormalForm::kNfc ? 0xCC : 0x80;
  const auto is_plain = [=](char c) { return static_cast<unsigned char>(c) < first_changed; };
  if (std::all_of(text.begin(), text.end(), is_plain)) return std::string(text);

  std::vector<char32_t> codes;
  codes.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const char32_t code = next_character(text, at);
    if (is_compatible) {
      decompose_compatible(code, codes);
    } else {
      decompose(code, codes);
    }
  }
  order_marks(codes);
  if (composes) codes = composed(codes);
  std::string out;
  out.reserve(text.size());
  for (const char32_t code : codes) append_utf8(out, code);
  return out;
}

}  // namespace qlora::data
