#include "data/jinja/filters.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "data/jinja/access.h"
#include "data/jinja/interpreter.h"
#include "data/letter_case.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {
namespace {

const std::vector<const FilterTable*>& tables() {
  static const std::vector<const FilterTable*> all = {&text_filters(), &sequence_filters(),
                                                      &picking_filters(), &number_filters()};
  return all;
}

}  // namespace

Filter find_filter(std::string_view name) {
  for (const FilterTable* table : tables()) {
    for (const auto& [known, filter] : *table) {
      if (known == name) return filter;
    }
  }
  return nullptr;
}

std::string unknown_filter(const std::string& name) {
  std::vector<std::string_view> names;
  for (const FilterTable* table : tables()) {
    for (const auto& entry : *table) names.push_back(entry.first);
  }
  std::sort(names.begin(), names.end());
  return fmt::format("the filter {} is not known; known are {}", io::quote(name),
                     fmt::join(names, " "));
}

Value nested_item(const Value& item, const Value& attribute, const Value* fallback) {
  if (attribute.is_none()) return item;
  const auto step = [&](const Value& from, const Value& index) {
    Value found = item_of(from, index);
    return found.is_undefined() && fallback && !fallback->is_none() ? *fallback : found;
  };
  if (!attribute.is_text()) return step(item, attribute);
  Value at = item;
  const std::string& path = attribute.text();
  for (size_t begin = 0; begin <= path.size();) {
    const size_t end = std::min(path.find('.', begin), path.size());
    const std::string part = path.substr(begin, end - begin);
    int64_t index = 0;
    const auto [rest, error] = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = !part.empty() && part[0] != '-' && error == std::errc() &&
                          rest == part.data() + part.size();
    at = step(at, is_index ? Value(index) : Value(part));
    begin = end + 1;
  }
  return at;
}

Value without_case(Interpreter& in, const Value& value) {
  if (!value.is_text()) return value;
  in.reserve(value.bytes());
  return Value(to_lower(value.text()));
}

}  // namespace qlora::data::jinja
