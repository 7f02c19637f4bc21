#pragma once

#include <string>
#include <string_view>

namespace qlora::data {

// Letter case as Python's str knows it: whole mappings ("ß" becomes "SS"), and a sigma at the end
// of a word becomes the final one. Texts are valid UTF-8.

std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);  // str.title: every run of letters
std::string capitalize(std::string_view text);

/// Every character on its own, without the rule of the final sigma: what the tokenizers library
/// does.
std::string lower_each(std::string_view text);

bool is_printable(char32_t code);  // str.isprintable: repr() writes it as it is

}  // namespace qlora::data
