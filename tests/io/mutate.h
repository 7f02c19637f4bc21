#pragma once

#include <cstdint>
#include <cstring>
#include <random>
#include <string>

namespace qlora::io {

/// A damaged copy of a file: one to four random changes, mostly within the first `header` bytes.
inline std::string mutate(std::string text, size_t header, std::mt19937_64& random) {
  constexpr uint64_t kNumbers[] = {0,
                                   1,
                                   7,
                                   8,
                                   255,
                                   0x7fffffff,
                                   0xffffffff,
                                   uint64_t{1} << 32,
                                   uint64_t{1} << 61,
                                   uint64_t{1} << 62,
                                   uint64_t{1} << 63,
                                   ~uint64_t{0},
                                   ~uint64_t{0} - 7};
  const auto below = [&](size_t limit) {
    return limit == 0 ? 0 : static_cast<size_t>(random() % limit);
  };
  for (size_t changes = 1 + below(4); changes > 0 && !text.empty(); --changes) {
    const size_t range = random() % 8 == 0 ? text.size() : std::min(header, text.size());
    const size_t at = below(range);
    const size_t length = std::min(1 + below(16), text.size() - at);
    switch (below(9)) {
      case 0:
        text[at] = static_cast<char>(random());
        break;
      case 1:
        text[at] = static_cast<char>(text[at] ^ 1 << below(8));
        break;
      case 2:
        text.resize(below(text.size()));
        break;
      case 3:
        text.erase(at, length);
        break;
      case 4:
        text.insert(at, text.substr(below(text.size()), length));
        break;
      case 5:
        text[at] = "0123456789{}[]\",:-.eE"[below(21)];
        break;
      case 6: {
        const uint64_t number = kNumbers[below(std::size(kNumbers))];
        std::memcpy(text.data() + at, &number,
                    std::min<size_t>(random() % 2 ? 8 : 4, text.size() - at));
        break;
      }
      case 7:
        text.insert(at, length, static_cast<char>(random()));
        break;
      default:
        std::memmove(text.data() + below(text.size() - length + 1), text.data() + at, length);
        break;
    }
  }
  return text;
}

}  // namespace qlora::io
