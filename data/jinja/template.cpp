#include "data/jinja/template.h"

#include "core/error.h"

namespace qlora::data::jinja {

Template::Rendering Template::render(const std::vector<std::pair<std::string, Value>>& variables,
                                     std::time_t now, const Limits& limits) const {
  Interpreter interpreter(program_, variables, now, limits);
  try {
    interpreter.run();
  } catch (const Fault& fault) {
    throw ValueError(
        fmt::format("[template] {}, line {}: {}", program_.name, interpreter.line(), fault.what()));
  }
  return {std::move(interpreter.output()), interpreter.generations(),
          interpreter.generations_known()};
}

}  // namespace qlora::data::jinja
