#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/constraint.h"

namespace qlora {

// Every option struct lists its fields once, in its own namespace:
//
//   template <class V> void fields(V& v, LoraOptions& o) {
//     v("r", o.r, in_range(1, 1024), "rank R of A [R, K] and B [N, R]");
//     v.alias("rank", "r");                  // an accepted synonym; the target may be
//     "section.key" v.section("init", o.init, "how A and B start");   // a nested struct with its
//     own fields()
//   }
//
// FieldList collects that list; the functions at the end of this file read, write, check and
// document any struct that has one.

using Json = nlohmann::ordered_json;

/// What a value looks like in JSON.
struct FieldType {
  enum class Kind { kBool, kInteger, kNumber, kText, kTextList, kIntegerMap, kNumberMap };
  Kind kind = Kind::kText;
  bool is_optional = false;          // null (and "none" on the command line) unsets it
  int64_t lowest = 0;                // of integers: what the member can hold
  uint64_t highest = 0;              //
  std::vector<std::string> names{};  // of enumerations, else empty
};

class FieldList;

struct Field {
  std::string key;
  std::string doc;
  FieldType type{};
  Constraint constraint{};
  std::function<Json()> get{};             // the member as JSON
  std::function<void(const Json&)> set{};  // of a value that has been checked and normalised
  std::shared_ptr<FieldList> section;      // of nested structs; the other members are then unused
};

namespace detail {
template <class T>
struct Member;  // type() and set() for each supported member type; defined in field_members.h
}

/// The visitor that fields() functions are called with.
class FieldList {
 public:
  template <class T>
  void operator()(const char* key, T& member, const Constraint& constraint, const char* doc) {
    using M = detail::Member<T>;
    add({.key = key,
         .doc = doc,
         .type = M::type(),
         .constraint = constraint,
         .get = [&member] { return M::get(member); },
         .set = [&member](const Json& value) { M::set(member, value); },
         .section = nullptr});
  }

  /// A nested struct under its own key.
  template <class Options>
  void section(const char* key, Options& options, const char* doc) {
    auto list = std::make_shared<FieldList>();
    fields(*list, options);
    add({.key = key, .doc = doc, .section = std::move(list)});
  }

  /// A nested struct in C++ whose keys are the surrounding section's.
  template <class Options>
  void inline_section(Options& options) {
    fields(*this, options);
  }

  /// Accepts old_name for key, which is a key of this section or a dotted path below it.
  void alias(const char* old_name, const char* key) { aliases_.emplace_back(old_name, key); }

  const std::vector<Field>& entries() const { return entries_; }
  const std::vector<std::pair<std::string, std::string>>& aliases() const { return aliases_; }

  /// The entry of a key or a dotted path; null if there is none. Aliases are not followed.
  const Field* find(const std::string& path) const;

 private:
  void add(Field field);  // ConfigError where a key is listed twice

  std::vector<Field> entries_;
  std::vector<std::pair<std::string, std::string>> aliases_;
};

/// What reading found out beside the values.
struct ReadNotes {
  std::vector<std::string> notices;  // accepted synonyms: for RunLog::notice
  std::set<std::string> given;       // dotted paths of the keys that were there

  void merge(const ReadNotes& other);
};

namespace detail {
void read(const FieldList& list, const Json& document, const std::string& source, ReadNotes& notes);
Json write(const FieldList& list);
void validate(const FieldList& list);
void override_value(const FieldList& list, const std::string& assignment, ReadNotes& notes);
std::string document(const FieldList& list, const std::string& title);
Json schema(const FieldList& list, const std::string& title);
Json explain(const FieldList& list, const std::string& path);
std::string explanation_text(const Json& facts);

template <class Options>
FieldList list_fields(Options& options) {
  FieldList list;
  fields(list, options);
  return list;
}
}  // namespace detail

/// Reads the keys that the document has; the others keep their values.
///   source    names the document in messages: a path
///   throws    ConfigError on an unknown key (with the nearest name), a key given twice under two
///             names, a wrong type, a value out of range; options are then unchanged
///   note      "$schema" is accepted at the top, for editors
template <class Options>
ReadNotes read_fields(const Json& document, Options& options, const std::string& source) {
  Options read = options;
  ReadNotes notes;
  detail::read(detail::list_fields(read), document, source, notes);
  options = std::move(read);
  return notes;
}

/// Every field with its value, in the order of the fields() functions.
template <class Options>
Json write_fields(const Options& options) {
  Options copy = options;
  return detail::write(detail::list_fields(copy));
}

/// Checks the constraints of values that C++ code has set. Throws ConfigError.
template <class Options>
void validate_fields(const Options& options) {
  Options copy = options;
  detail::validate(detail::list_fields(copy));
}

/// Applies one `key=value` of the command line, e.g. "lora.r=8".
///   value     JSON, else a text; lists also as a,b,c; `none` unsets an optional; a key of a map
///             follows the map's own: lora.rank_pattern.q_proj=4
template <class Options>
ReadNotes override_field(Options& options, const std::string& assignment) {
  Options changed = options;
  ReadNotes notes;
  detail::override_value(detail::list_fields(changed), assignment, notes);
  options = std::move(changed);
  return notes;
}

/// A markdown page with one table per section: key, type, default, allowed, meaning.
template <class Options>
std::string document_fields(const std::string& title) {
  Options defaults;
  return detail::document(detail::list_fields(defaults), title);
}

/// JSON Schema, draft 2020-12, for editors.
template <class Options>
Json schema_fields(const std::string& title) {
  Options defaults;
  return detail::schema(detail::list_fields(defaults), title);
}

/// What one key or section means; all keys where the path is empty. Aliases are followed.
///   returns   key, text, type, default, allowed (empty: anything of the type) and also (synonyms);
///             of a section key, text, type and keys: the same of each entry, without synonyms
///   throws    ConfigError if unknown
template <class Options>
Json explain_field_json(const std::string& path) {
  Options defaults;
  return detail::explain(detail::list_fields(defaults), path);
}

/// The same in a few lines.
template <class Options>
std::string explain_field(const std::string& path) {
  return detail::explanation_text(explain_field_json<Options>(path));
}

}  // namespace qlora

#include "core/field_members.h"
