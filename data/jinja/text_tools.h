#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data::jinja {

// What Python's str does to valid UTF-8. Places and lengths count characters.

/// Bytes of white space (str.isspace) at the start, and at the end.
size_t space_prefix(std::string_view text);
size_t space_suffix(std::string_view text);

enum class Side { kLeft, kRight, kBoth };
/// str.strip, lstrip, rstrip; without characters they take white space.
std::string_view strip(std::string_view text, Side side);
std::string_view strip(std::string_view text, Side side, std::string_view characters);

size_t count_characters(std::string_view text);
/// Byte at which character `index` begins; text.size() from the end on.
size_t byte_of_character(std::string_view text, size_t index);
size_t character_of_byte(std::string_view text, size_t byte);

std::vector<std::string_view> characters_of(std::string_view text);
/// str.split() and rsplit() without a separator: at runs of white space, at most `most` times
/// (negative: no limit).
std::vector<std::string_view> split_at_space(std::string_view text, int64_t most, Side from);
std::vector<std::string_view> split_at(std::string_view text, std::string_view separator,
                                       int64_t most, Side from);
/// str.splitlines: at every line end that Python knows.
std::vector<std::string_view> split_lines(std::string_view text, bool keeps_ends);

}  // namespace qlora::data::jinja
