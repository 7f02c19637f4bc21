#pragma once

#include <memory>
#include <string>

namespace qlora::io {

/// A regular expression of a foreign file for names of modules, matched from the name's start as
/// Python's re.match does. Its work is bounded: a pattern made to hang is an error.
class NamePattern {
 public:
  /// throws FormatError where the text is no regular expression; `where` says where it stands
  NamePattern(const std::string& pattern, const std::string& where);

  bool matches(const std::string& name) const;  // throws FormatError beyond the bound

 private:
  std::string pattern_, where_;
  std::shared_ptr<void> code_;
};

}  // namespace qlora::io
