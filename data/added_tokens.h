#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace qlora::data {

/// A token beside the model's rule: its text becomes its id wherever it stands.
struct AddedToken {
  int32_t id = 0;
  std::string content;
  bool special = false;      // left out by decode(); plain text where parse_special is off
  bool normalized = false;   // looked for in the normalised text, not in the raw one
  bool single_word = false;  // only between non-word characters
  bool lstrip = false;       // takes the white space before it
  bool rstrip = false;       // takes the white space behind it
};

/// Cuts a text at added tokens.
///   Rule      leftmost, then longest, as the reference library's automaton; its single_word and
///             strip rules
class AddedTokenSplitter {
 public:
  AddedTokenSplitter() = default;
  /// spellings[i] is the text looked for on behalf of tokens[i]; empty ones are never found.
  AddedTokenSplitter(std::vector<AddedToken> tokens, const std::vector<std::string>& spellings);

  struct Part {
    std::string_view text;  // without a token: what lies between them
    int32_t id = -1;        // of the token, or -1
  };
  /// Appends the parts of `text` in order; none is empty.
  void split(std::string_view text, bool parse_special, std::vector<Part>& parts) const;
  bool empty() const { return nodes_.size() <= 1; }

 private:
  struct Match {
    size_t end = 0;
    int32_t token = -1;
  };
  Match longest_at(std::string_view text, size_t at) const;

  std::vector<AddedToken> tokens_;
  std::vector<int32_t> nodes_ = {-1};             // trie: number of the token that ends here, or -1
  std::unordered_map<uint64_t, uint32_t> edges_;  // node << 8 | byte -> node
  std::array<bool, 256> starts_{};                // bytes that some token begins with
};

}  // namespace qlora::data
