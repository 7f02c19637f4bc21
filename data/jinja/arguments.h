#pragma once

#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// The arguments of one call under the names of its parameters.
class Bound {
 public:
  /// names     of the parameters, in order; the first `required` have to be given
  /// throws    Fault for too many arguments, an unknown name, one given twice, or a missing one
  Bound(const char* what, Arguments& arguments, std::initializer_list<const char*> names,
        size_t required = 0);

  bool has(size_t i) const { return values_[i].has_value(); }
  const Value& at(size_t i) const { return *values_[i]; }  // Requires has(i)
  Value or_else(size_t i, Value fallback) const { return has(i) ? *values_[i] : fallback; }
  bool truth(size_t i, bool fallback = false) const { return has(i) ? at(i).truth() : fallback; }
  /// A whole number; Fault where another kind is given.
  int64_t integer(size_t i, int64_t fallback) const;
  /// A text; Fault where another kind is given.
  const std::string& text(size_t i) const;
  bool is_given(size_t i) const { return has(i) && !at(i).is_none(); }

 private:
  const char* what_;
  std::vector<const char*> names_;
  std::vector<std::optional<Value>> values_;
};

}  // namespace qlora::data::jinja
