#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data::jinja {

/// A stretch of a template: text between tags, the borders of tags, and what stands in them.
struct Token {
  enum class Kind {
    kData,
    kPrintBegin,
    kPrintEnd,
    kTagBegin,
    kTagEnd,
    kName,
    kText,
    kInt,
    kFloat,
    kOperator,
    kEnd
  };
  Kind kind = Kind::kEnd;
  std::string text;    // kData, kName, kOperator: as it stands; kText: without quotes and escapes
  int64_t number = 0;  // kInt
  double real = 0;     // kFloat
  int line = 0;
};

/// Cuts a template into tokens as Jinja2 does with trim_blocks and lstrip_blocks, the setting of
/// transformers: the line break behind a tag goes, white space before a tag at the start of its
/// line goes, "-" takes all white space on its side and "+" keeps it. Comments and raw blocks end
/// here.
///   text      valid UTF-8
///   name      of the template, for messages
///   throws    FormatError, with the line, for what is no token or not closed
std::vector<Token> tokenize(std::string_view text, const std::string& name);

}  // namespace qlora::data::jinja
