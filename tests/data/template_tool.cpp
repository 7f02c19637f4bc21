// Renders templates for tests/interop/chat_templates.py.
//
// One JSON object a line from stdin, {"template", "variables", "now"}; one a line to stdout,
// {"text", "generations"} or {"error"}.

#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "core/error.h"
#include "data/jinja/template.h"
#include "tests/data/jinja_variables.h"

int main() {
  using nlohmann::ordered_json;
  for (std::string line; std::getline(std::cin, line);) {
    const ordered_json task = ordered_json::parse(line);
    ordered_json result;
    try {
      const qlora::data::jinja::Template source(task["template"].get<std::string>(), "t");
      const auto rendering = source.render(qlora::data::jinja::variables_of(task["variables"]),
                                           task["now"].get<std::time_t>());
      result["text"] = rendering.text;
      result["generations"] = ordered_json::array();
      for (const auto& span : rendering.generations) {
        result["generations"].push_back({span.begin, span.end});
      }
      result["generations_known"] = rendering.generations_known;
    } catch (const qlora::Error& error) {
      result = {{"error", error.what()}};
    }
    std::cout << result.dump() << '\n' << std::flush;
  }
  return 0;
}
