#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <vector>

#include "data/regex.h"

namespace qlora::data {

/// The "decoder" of a tokenizer.json: null, ByteLevel, Replace, ByteFallback, Fuse, Strip,
/// Metaspace, or a Sequence of these. Turns pieces back into text.
class TokenDecoder {
 public:
  TokenDecoder() = default;
  /// throws FormatError for another type, or missing members; `where` names the file
  TokenDecoder(const nlohmann::json& description, const std::string& where);

  /// Joins the pieces of some tokens. Without a decoder they are joined with spaces, as the
  /// reference does. The result is valid UTF-8.
  std::string decode(std::vector<std::string> pieces) const;

 private:
  enum class Kind { kByteLevel, kReplace, kByteFallback, kFuse, kStrip, kMetaspace };
  struct Step {
    Kind kind = Kind::kFuse;
    std::optional<Regex> regex{};  // kReplace
    std::string from{}, to{};      // kReplace; kStrip and kMetaspace: the character in `from`
    int64_t start = 0, stop = 0;   // kStrip: how many at most
    bool prepends = false;         // kMetaspace: the first piece had one put before it
  };
  void add(const nlohmann::json& description, const std::string& where, int depth);
  static void apply(const Step& step, std::vector<std::string>& pieces);

  std::vector<Step> steps_;
  bool is_null_ = true;
};

}  // namespace qlora::data
