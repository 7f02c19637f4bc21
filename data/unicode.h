#pragma once

#include <string>
#include <string_view>

namespace qlora::data {

// Unicode as the reference library `tokenizers` knows it; see tests/interop/make_unicode_tables.py.

bool is_white_space(char32_t code);  // White_Space
bool is_numeric(char32_t code);      // categories Nd, Nl, No

bool is_word_character(char32_t code);  // regex \w: letters, marks, digits, connectors

enum class NormalForm { kNfc, kNfd, kNfkc, kNfkd };
/// A normal form of valid UTF-8; its tables are those of the reference.
std::string normalize(std::string_view text, NormalForm form);

/// Lower case, character by character, as the reference's normalizer Lowercase writes it.
std::string lower_case(std::string_view text);

bool is_word_member(char32_t code);  // \w of the pre-tokenizer Whitespace
bool is_punctuation(char32_t code);  // what the pre-tokenizer Punctuation cuts out

/// Ranges of a category ("L", "Nd" …) that PCRE2's tables may lack, as the inside of a character
/// class: "\x{1c89}\x{a7cb}-\x{a7cc}…". Empty where there are none.
std::string newer_members(std::string_view category);

}  // namespace qlora::data
