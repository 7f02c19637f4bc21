#pragma once

#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/jinja/interpreter.h"
#include "data/jinja/parser.h"

namespace qlora::data::jinja {

/// A template of Jinja2 as transformers runs chat templates: sandboxed, nothing that is given can
/// be changed, trim_blocks and lstrip_blocks, loopcontrols, {% generation %}, and `tojson` without
/// escapes for HTML. Renders byte for byte what it renders, or throws.
class Template {
 public:
  /// throws   FormatError for syntax, statements, filters and tests that are not known, with the
  /// line
  Template(std::string_view text, const std::string& name) : program_(parse(text, name)) {}

  struct Rendering {
    std::string text;
    std::vector<OutputSpan> generations;  // what stood in {% generation %} blocks
    bool generations_known = true;        // false: one stood in a macro or a set block
  };
  /// Any thread; a template has no state.
  ///   variables  what the template finds by name
  ///   now        the time that strftime_now tells
  ///   throws     ValueError, with the line, where the template refuses (raise_exception), where
  ///              Python would raise, and where a limit is reached: it ends whatever it is given
  Rendering render(const std::vector<std::pair<std::string, Value>>& variables, std::time_t now,
                   const Limits& limits = {}) const;

  bool has_generation() const { return program_.has_generation; }
  const std::string& name() const { return program_.name; }

 private:
  Program program_;
};

}  // namespace qlora::data::jinja
