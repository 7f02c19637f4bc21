#include "data/jinja/functions.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <ctime>

#include "data/jinja/arguments.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/text_tools.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

constexpr int64_t kMaxRange = 100'000;  // of Jinja2's sandbox

Value range(Interpreter& in, Arguments& arguments) {
  const Bound bound("range()", arguments, {"start", "stop", "step"}, 1);
  const bool is_single = !bound.has(1);
  const int64_t start = is_single ? 0 : bound.integer(0, 0);
  const int64_t stop = is_single ? bound.integer(0, 0) : bound.integer(1, 0);
  const int64_t step = bound.integer(2, 1);
  if (step == 0) throw Fault("the step of range() is 0");
  const auto distance = static_cast<__int128>(stop) - start;
  const __int128 size = step > 0 ? static_cast<__int128>(step) : -static_cast<__int128>(step);
  const __int128 way = step > 0 ? distance : -distance;
  const __int128 count = way > 0 ? (way + size - 1) / size : 0;
  if (count > kMaxRange) {
    throw Fault(fmt::format("range() has more than {} numbers", kMaxRange));
  }
  in.reserve(40 * static_cast<int64_t>(count));
  std::vector<Value> numbers;
  for (int64_t i = 0; i < static_cast<int64_t>(count); ++i) numbers.emplace_back(start + i * step);
  Range out{start, stop, step, *Value::list(std::move(numbers)).as<const Sequence>()};
  return Value(Value::Data(std::make_shared<const Range>(std::move(out))));
}

/// Entries of what dict() and namespace() are given: one dictionary or list of pairs, and names.
std::vector<std::pair<Value, Value>> entries_of(Interpreter& in, const char* what,
                                                Arguments& arguments) {
  std::vector<std::pair<Value, Value>> entries;
  if (arguments.positional.size() > 1) {
    throw Fault(fmt::format("{} takes one argument without a name", what));
  }
  if (!arguments.positional.empty()) {
    const Value& given = arguments.positional.front();
    in.reserve(given.own_bytes());
    if (const auto* dict = given.as<const Dict>()) {
      entries = dict->entries();
    } else {
      for (const Value& pair : items_of(given)) {
        const std::vector<Value> halves = items_of(pair);
        if (halves.size() != 2) throw Fault(fmt::format("{} is given what is no pair", what));
        entries.emplace_back(halves[0], halves[1]);
      }
    }
  }
  for (const auto& [name, value] : arguments.named) entries.emplace_back(Value(name), value);
  return entries;
}

Value make_dict(Interpreter& in, Arguments& arguments) {
  Dict dict;
  for (auto& [key, value] : entries_of(in, "dict()", arguments)) dict.set(key, value);
  return Value::dict(std::move(dict));
}

Value make_namespace(Interpreter& in, Arguments& arguments) {
  const auto space = in.make_namespace();
  for (auto& [key, value] : entries_of(in, "namespace()", arguments)) {
    if (!key.is_text()) throw Fault("an attribute of a namespace is no text");
    check_attribute_name(key.text());
    std::erase_if(space->attributes,
                  [&, &name = key](const auto& entry) { return entry.first == name.text(); });
    space->attributes.emplace_back(key.text(), value);
  }
  return Value(Value::Data(space));
}

/// What a template says, on one line.
std::string one_line(const std::string& text) {
  constexpr size_t kMost = 400;
  std::string out;
  for (const std::string_view character : characters_of(text)) {
    if (out.size() > kMost) return out + "…";
    const bool is_control = character.size() == 1 && (character[0] & 0xFF) < 0x20;
    out += is_control ? std::string_view(" ") : character;
  }
  return out;
}

Value raise_exception(Interpreter&, Arguments& arguments) {
  const Bound bound("raise_exception()", arguments, {"message"}, 1);
  throw Fault("the template refuses: " + one_line(to_text(bound.at(0))));
}

/// The time as the template wants it; local, as in transformers.
Value strftime_now(Interpreter& in, Arguments& arguments) {
  const Bound bound("strftime_now()", arguments, {"format"}, 1);
  // %z and %Z are empty for Python's local time without a zone; %f has no meaning to strftime.
  std::string format;
  const std::string& given = bound.text(0);
  for (size_t i = 0; i < given.size(); ++i) {
    if (given[i] != '%' || i + 1 == given.size()) {
      format += given[i];
      continue;
    }
    const char kind = given[++i];
    if (kind == 'z' || kind == 'Z') continue;
    if (kind == 'f') {
      format += "000000";
    } else {
      format += '%';
      format += kind;
    }
  }
  if (format.empty()) return Value(std::string());
  if (format.size() > 4096) throw Fault("the format of strftime_now() is longer than 4096 bytes");
  std::tm parts{};
  const std::time_t now = in.now();
  if (!localtime_r(&now, &parts)) throw Fault("the time of this machine cannot be told");
  std::vector<char> buffer(16 * format.size() + 256);
  const size_t size = std::strftime(buffer.data(), buffer.size(), format.c_str(), &parts);
  return Value(std::string(buffer.data(), size));
}

struct Known {
  const char* name;
  Value (*call)(Interpreter&, Arguments&);
};
constexpr std::array<Known, 5> kFunctions = {{{"range", range},
                                              {"dict", make_dict},
                                              {"namespace", make_namespace},
                                              {"raise_exception", raise_exception},
                                              {"strftime_now", strftime_now}}};

}  // namespace

std::vector<std::pair<std::string, Value>> global_functions() {
  std::vector<std::pair<std::string, Value>> out;
  for (const Known& known : kFunctions) {
    out.emplace_back(known.name, Value::function(known.name, known.call));
  }
  return out;
}

void check_attribute_name(const std::string& name) {
  if (name.starts_with('_')) {
    throw Fault("an attribute of a namespace begins with '_': " + io::quote(name));
  }
}

std::string known_functions() {
  std::string names;
  for (const Known& known : kFunctions)
    names += (names.empty() ? "" : ", ") + std::string(known.name);
  return names;
}

}  // namespace qlora::data::jinja
