#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qlora {

/// Fewest insertions, deletions, substitutions and swaps of neighbours that turn a into b
/// (optimal string alignment). Bytes; upper and lower case and '-' and '_' count as equal.
int edit_distance(std::string_view a, std::string_view b);

/// The candidate that a user who typed `name` most likely meant; the first of equals.
/// Nothing where none is near: more than a third of the longer name's letters would change.
std::optional<std::string> nearest_name(std::string_view name,
                                        const std::vector<std::string>& candidates);

}  // namespace qlora
