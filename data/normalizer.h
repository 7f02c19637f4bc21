#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/regex.h"
#include "data/unicode.h"

namespace qlora::data {

/// The "normalizer" of a tokenizer.json: null, NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend,
/// Replace, or a Sequence of these.
class Normalizer {
 public:
  Normalizer() = default;
  /// throws FormatError for another type, or missing members; `where` names the file
  Normalizer(const nlohmann::json& description, const std::string& where);

  bool is_identity() const { return steps_.empty(); }
  /// `continues`: the text goes on from an earlier piece, so nothing is prepended.
  std::string normalize(std::string_view text, bool continues = false) const;

 private:
  enum class Kind { kForm, kLowercase, kStrip, kPrepend, kReplace };
  struct Step {
    Kind kind;
    std::string from{};                  // kReplace: a literal, unless there is a pattern
    std::optional<Regex> regex{};        // kReplace
    std::string to{};                    // kPrepend, kReplace
    NormalForm form = NormalForm::kNfc;  // kForm
    bool left = false, right = false;    // kStrip
  };
  void add(const nlohmann::json& description, const std::string& where, int depth);

  std::vector<Step> steps_;
};

/// Replaces every match. Shared with the decoder "Replace".
std::string replace_all(std::string_view text, std::string_view from, std::string_view to);
std::string replace_all(std::string_view text, const Regex& from, std::string_view to);

}  // namespace qlora::data
