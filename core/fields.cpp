#include "core/fields.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/field_check.h"
#include "core/field_paths.h"
#include "core/json_file.h"

namespace qlora {
namespace detail {
namespace {

// RFC 6901
std::string pointer_step(const std::string& key) {
  std::string step = "/";
  for (const char c : key) {
    if (c == '~') {
      step += "~0";
    } else if (c == '/') {
      step += "~1";
    } else {
      step += c;
    }
  }
  return step;
}

// One document, or one assignment, being read.
struct Reader {
  const FieldList& root;
  std::string source;
  ReadNotes& notes;

  std::string place(const std::string& pointer) const {
    return pointer.empty() ? fmt::format("({})", source)
                           : fmt::format("({}, at {})", source, shown(pointer));
  }

  void read_section(const FieldList& list, const Json& object, const std::string& prefix,
                    const std::string& pointer);
  void read_entry(const Field& field, const Json& value, const std::string& path,
                  const std::string& pointer);
  void note_alias(const std::string& typed, const std::string& path) {
    notes.notices.push_back(fmt::format("{} is read as {} ({})", shown(typed), path, source));
  }
  [[noreturn]] void fail_unknown(const FieldList& list, const std::string& prefix,
                                 const std::string& key, const std::string& pointer) const {
    throw ConfigError(fmt::format("[config] {} is not a key; {} {}", joined(prefix, shown(key)),
                                  suggestion(root, list, prefix, key), place(pointer)));
  }
};

void Reader::read_entry(const Field& field, const Json& value, const std::string& path,
                        const std::string& pointer) {
  if (field.section) {
    read_section(*field.section, value, path, pointer);
  } else {
    assign(field, value, path, place(pointer));
  }
  notes.given.insert(path);
}

void Reader::read_section(const FieldList& list, const Json& object, const std::string& prefix,
                          const std::string& pointer) {
  QLORA_CHECK(object.is_object(), ConfigError, "[config] {} is {}, allowed: an object of keys {}",
              prefix.empty() ? "the configuration" : prefix, actual_text(object), place(pointer));
  for (const auto& [key, value] : object.items()) {
    if (key == "$schema" && &list == &root) continue;
    const std::string here = pointer + pointer_step(key);
    const std::string* target = alias_target(list, key);
    const std::string path = joined(prefix, target ? *target : key);
    const Field* field =
        key.find('.') == std::string::npos ? list.find(target ? *target : key) : nullptr;
    if (!field) fail_unknown(list, prefix, key, here);
    if (target) note_alias(joined(prefix, key), path);
    QLORA_CHECK(!notes.given.contains(path) || field->section, ConfigError,
                "[config] {} is given twice, once under another name; keep one {}", path,
                place(here));
    read_entry(*field, value, path, here);
  }
}

// A list or an object; quotes of its texts are what a shell takes away.
Json parsed_structure(const std::string& text, const std::string& source) {
  try {
    return parse_json(text, source);
  } catch (const FormatError& error) {
    const std::string problem = error.what();  // "[json] not JSON near …"
    throw ConfigError(
        fmt::format("[config]{}; {}", problem.substr(std::min(problem.find(' '), problem.size())),
                    text.starts_with('[') ? R"(a list of texts is written '["a","b"]', or a,b)"
                                          : R"(an object is written '{"key": 1}')"));
  }
}

// The value of key=value, as its field wants it.
Json parsed_value(const FieldType& type, const std::string& text, const std::string& source) {
  using Kind = FieldType::Kind;
  if (type.is_optional && (text == "none" || text == "null")) return nullptr;
  const bool is_text = type.kind == Kind::kText;
  const bool is_list = type.kind == Kind::kTextList;
  const char first = text.empty() ? ' ' : text.front();
  if (!is_text && (first == '{' || first == '[')) return parsed_structure(text, source);
  if (!is_text || first == '"') {
    Json scalar = Json::parse(text, nullptr, false);
    const bool usable = !scalar.is_discarded() && (!is_list || scalar.is_string());
    if (usable) return scalar;
  }
  if (!is_list) return text;
  Json list = Json::array();
  for (size_t begin = 0; begin <= text.size() && !text.empty();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    list.push_back(text.substr(begin, end - begin));
    begin = end + 1;
  }
  return list;
}

}  // namespace

void read(const FieldList& list, const Json& document, const std::string& source,
          ReadNotes& notes) {
  Reader{list, source, notes}.read_section(list, document, "", "");
}

Json write(const FieldList& list) {
  Json object = Json::object();
  for (const Field& field : list.entries()) {
    object[field.key] = field.section ? write(*field.section) : field.get();
  }
  return object;
}

static void validate_section(const FieldList& list, const std::string& prefix) {
  for (const Field& field : list.entries()) {
    const std::string path = joined(prefix, field.key);
    if (field.section) {
      validate_section(*field.section, path);
    } else {
      assign(field, field.get(), path, "");
    }
  }
}

void validate(const FieldList& list) {
  validate_section(list, "");
}

void override_value(const FieldList& list, const std::string& assignment, ReadNotes& notes) {
  const std::string source = "--set " + shown(assignment);
  const size_t equals = assignment.find('=');
  QLORA_CHECK(equals != std::string::npos && equals > 0, ConfigError,
              "[config] {} sets nothing, allowed: --set key=value, e.g. --set lora.r=8", source);
  QLORA_CHECK(quoted(assignment).find("\uFFFD") == std::string::npos ||
                  assignment.find("\uFFFD") != std::string::npos,
              ConfigError, "[config] {} is not UTF-8", source);
  const std::string typed = assignment.substr(0, equals);
  const std::string text = assignment.substr(equals + 1);
  Reader reader{list, source, notes};
  const Target target = resolve(list, "", typed);
  if (!target.field) {
    reader.fail_unknown(*target.section, target.section_path, target.unknown, "");
  }
  const std::string full =
      target.map_key.empty() ? target.path : joined(target.path, target.map_key);
  if (full != typed) reader.note_alias(typed, full);
  if (target.field->section) {
    reader.read_entry(*target.field, parsed_structure(text, source), target.path, "");
    return;
  }
  Json value;
  if (target.map_key.empty()) {
    value = parsed_value(target.field->type, text, source);
  } else {
    value = target.field->get();
    value[target.map_key] = parsed_value({.kind = FieldType::Kind::kNumber}, text, source);
  }
  reader.read_entry(*target.field, value, target.path, "");
}

}  // namespace detail

const Field* FieldList::find(const std::string& path) const {
  const size_t dot = path.find('.');
  const std::string key = path.substr(0, dot);
  for (const Field& field : entries_) {
    if (field.key != key) continue;
    if (dot == std::string::npos) return &field;
    return field.section ? field.section->find(path.substr(dot + 1)) : nullptr;
  }
  return nullptr;
}

void FieldList::add(Field field) {
  QLORA_CHECK(!find(field.key), ConfigError, "[config] the key {} is listed twice by fields()",
              field.key);
  entries_.push_back(std::move(field));
}

void ReadNotes::merge(const ReadNotes& other) {
  notices.insert(notices.end(), other.notices.begin(), other.notices.end());
  given.insert(other.given.begin(), other.given.end());
}

}  // namespace qlora
