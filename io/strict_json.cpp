#include "io/strict_json.h"

#include <set>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {

namespace {

template <class Json>
Json parse(std::string_view text, std::string_view where, int max_depth) {
  using Event = typename Json::parse_event_t;
  std::vector<std::set<std::string>> keys;  // of the objects that are open
  const auto watch = [&](int depth, Event event, Json& value) {
    if (event == Event::object_start || event == Event::array_start) {
      QLORA_CHECK(depth < max_depth, FormatError,
                  "[io] {}: JSON nests deeper than {} levels, which no sound file does", where,
                  max_depth);
    }
    if (event == Event::object_start) keys.emplace_back();
    if (event == Event::object_end) keys.pop_back();
    if (event == Event::key) {
      const auto& key = value.template get_ref<const std::string&>();
      QLORA_CHECK(keys.back().insert(key).second, FormatError,
                  "[io] {}: key {} stands twice in one object", where, quote(key));
    }
    return true;
  };
  QLORA_CHECK(text.find_first_not_of(" \t\r\n") != std::string_view::npos, FormatError,
              "[io] {}: is empty, expected JSON", where);
  try {
    return Json::parse(text.begin(), text.end(), watch);
  } catch (const nlohmann::json::parse_error& error) {
    if (error.byte > text.size()) {
      throw FormatError(
          fmt::format("[io] {}: not JSON, it ends too early, at byte {}", where, text.size()));
    }
    throw FormatError(
        fmt::format("[io] {}: not JSON, error at byte {} of {}", where, error.byte, text.size()));
  } catch (const nlohmann::json::out_of_range&) {
    throw FormatError(fmt::format("[io] {}: not JSON that is read: a number is too large", where));
  }
}

}  // namespace

nlohmann::json parse_strict_json(std::string_view text, std::string_view where, int max_depth) {
  return parse<nlohmann::json>(text, where, max_depth);
}

nlohmann::ordered_json parse_strict_ordered_json(std::string_view text, std::string_view where,
                                                 int max_depth) {
  return parse<nlohmann::ordered_json>(text, where, max_depth);
}

}  // namespace qlora::io
