#include "core/nearest_name.h"

#include <algorithm>
#include <cctype>

namespace qlora {
namespace {

// Keys are short; a foreign file's megabyte of a key must not cost a megabyte squared.
constexpr size_t kMaxNameBytes = 128;

char folded(char c) {
  return c == '-' ? '_' : static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
}

}  // namespace

int edit_distance(std::string_view a, std::string_view b) {
  const size_t columns = b.size() + 1;
  std::vector<int> table((a.size() + 1) * columns);  // [i, j]: from a's first i to b's first j
  const auto at = [&](size_t i, size_t j) -> int& { return table[i * columns + j]; };
  for (size_t i = 0; i <= a.size(); ++i) at(i, 0) = static_cast<int>(i);
  for (size_t j = 0; j <= b.size(); ++j) at(0, j) = static_cast<int>(j);
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const char x = folded(a[i - 1]), y = folded(b[j - 1]);
      at(i, j) = std::min({at(i - 1, j) + 1, at(i, j - 1) + 1, at(i - 1, j - 1) + (x != y)});
      const bool swapped =
          i > 1 && j > 1 && x == folded(b[j - 2]) && y == folded(a[i - 2]) && x != y;
      if (swapped) at(i, j) = std::min(at(i, j), at(i - 2, j - 2) + 1);
    }
  }
  return at(a.size(), b.size());
}

std::optional<std::string> nearest_name(std::string_view name,
                                        const std::vector<std::string>& candidates) {
  if (name.size() > kMaxNameBytes) return std::nullopt;
  std::optional<std::string> nearest;
  int least = 0;
  for (const std::string& candidate : candidates) {
    if (candidate.size() > kMaxNameBytes) continue;
    const int distance = edit_distance(name, candidate);
    const int allowed = static_cast<int>(std::max(name.size(), candidate.size()) + 1) / 3;
    if (distance <= allowed && (!nearest || distance < least)) {
      nearest = candidate;
      least = distance;
    }
  }
  return nearest;
}

}  // namespace qlora
