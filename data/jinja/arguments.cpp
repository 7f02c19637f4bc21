#include "data/jinja/arguments.h"

#include <fmt/format.h>

#include <algorithm>

#include "io/foreign_text.h"

namespace qlora::data::jinja {

Bound::Bound(const char* what, Arguments& arguments, std::initializer_list<const char*> names,
             size_t required)
    : what_(what), names_(names), values_(names.size()) {
  if (arguments.positional.size() > names.size()) {
    throw Fault(fmt::format("{} takes at most {} arguments, {} are given", what, names.size(),
                            arguments.positional.size()));
  }
  for (size_t i = 0; i < arguments.positional.size(); ++i) values_[i] = arguments.positional[i];
  for (const auto& [name, value] : arguments.named) {
    const auto at = std::find_if(names_.begin(), names_.end(),
                                 [&](const char* known) { return name == known; });
    if (at == names_.end()) {
      throw Fault(fmt::format("{} has no argument {}", what, io::quote(name)));
    }
    auto& place = values_[static_cast<size_t>(at - names_.begin())];
    if (place) throw Fault(fmt::format("{} gets the argument {} twice", what, io::quote(name)));
    place = value;
  }
  for (size_t i = 0; i < required; ++i) {
    if (!values_[i]) throw Fault(fmt::format("{} lacks its argument '{}'", what, names_[i]));
  }
}

int64_t Bound::integer(size_t i, int64_t fallback) const {
  if (!has(i)) return fallback;
  int64_t n = 0;
  if (!at(i).to_int(n)) {
    throw Fault(fmt::format("the argument '{}' of {} is a {}, expected a whole number", names_[i],
                            what_, at(i).type_name()));
  }
  return n;
}

const std::string& Bound::text(size_t i) const {
  if (!at(i).is_text()) {
    throw Fault(fmt::format("the argument '{}' of {} is a {}, expected a text", names_[i], what_,
                            at(i).type_name()));
  }
  return at(i).text();
}

}  // namespace qlora::data::jinja
