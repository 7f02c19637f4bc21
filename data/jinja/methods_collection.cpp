#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "data/jinja/access.h"
#include "data/jinja/arguments.h"
#include "data/jinja/interpreter.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

using Method = Value (*)(Interpreter&, const Value&, Arguments&);

// Jinja2's sandbox, as transformers sets it up, lets nothing change that the caller may still hold.
constexpr std::array<std::string_view, 5> kChangesDict = {"clear", "pop", "popitem", "setdefault",
                                                          "update"};
constexpr std::array<std::string_view, 8> kChangesList = {"append", "clear",  "extend",  "insert",
                                                          "pop",    "remove", "reverse", "sort"};

template <size_t kCount>
bool is_one_of(const std::string& name, const std::array<std::string_view, kCount>& names) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

enum class Part { kKeys, kValues, kItems };

template <Part kPart>
Value view(Interpreter& in, const Value& self, Arguments& arguments) {
  static constexpr const char* kNames[] = {"dict_keys", "dict_values", "dict_items"};
  const Bound bound("keys(), values() or items()", arguments, {});
  in.reserve(self.own_bytes());
  std::vector<Value> items;
  for (const auto& [key, value] : self.as<const Dict>()->entries()) {
    items.push_back(kPart == Part::kKeys     ? key
                    : kPart == Part::kValues ? value
                                             : Value::tuple({key, value}));
  }
  return Value::view(kNames[static_cast<int>(kPart)], std::move(items));
}

Value get(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("get()", arguments, {"key", "default"}, 1);
  hash(bound.at(0));  // refuses what cannot be a key
  const Value* found = self.as<const Dict>()->find(bound.at(0));
  return found ? *found : bound.or_else(1, Value());
}

Value copy(Interpreter&, const Value& self, Arguments& arguments) {
  const Bound bound("copy()", arguments, {});
  return self;  // nothing can change either of them
}

Value index(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("index()", arguments, {"value"}, 1);
  in.spend(self.bytes());
  const auto& items = self.as<const Sequence>()->items;
  const auto at = std::find_if(items.begin(), items.end(),
                               [&](const Value& item) { return equal(item, bound.at(0)); });
  if (at == items.end()) throw Fault("index() does not find the value");
  return at - items.begin();
}

Value count(Interpreter& in, const Value& self, Arguments& arguments) {
  const Bound bound("count()", arguments, {"value"}, 1);
  in.spend(self.bytes());
  const auto& items = self.as<const Sequence>()->items;
  return std::count_if(items.begin(), items.end(),
                       [&](const Value& item) { return equal(item, bound.at(0)); });
}

constexpr std::pair<std::string_view, Method> kDictMethods[] = {
    {"copy", copy},
    {"get", get},
    {"items", view<Part::kItems>},
    {"keys", view<Part::kKeys>},
    {"values", view<Part::kValues>},
};
constexpr std::pair<std::string_view, Method> kListMethods[] = {
    {"copy", copy},
    {"count", count},
    {"index", index},
};

template <size_t kCount>
Value method_of(const std::pair<std::string_view, Method> (&methods)[kCount], const Value& self,
                const std::string& name) {
  for (const auto& [known, method] : methods) {
    if (known == name) {
      return Value::function(name, [self, method = method](Interpreter& in, Arguments& arguments) {
        return method(in, self, arguments);
      });
    }
  }
  return Value::undefined("");
}

}  // namespace

Value collection_method(const Value& collection, const std::string& name) {
  const bool is_dict = collection.as<const Dict>() != nullptr;
  if (is_dict ? is_one_of(name, kChangesDict)
              : collection.is_list() && is_one_of(name, kChangesList)) {
    throw Fault(fmt::format("the method {} would change a {}, which templates may not",
                            io::quote(name), collection.type_name()));
  }
  if (is_dict && name == "fromkeys") throw Fault("the method 'fromkeys' is not supported");
  if (is_dict) return method_of(kDictMethods, collection, name);
  if (collection.is_tuple() && name == "copy") return Value::undefined("");
  return method_of(kListMethods, collection, name);
}

}  // namespace qlora::data::jinja
