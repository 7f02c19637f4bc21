#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "core/constraint.h"
#include "core/fields.h"

namespace qlora::detail {

/// How each supported member type is described, read and written. `set` gets a value that
/// normalise() in field_check.cpp has accepted for `type`.
template <class T>
struct Member {
  static_assert(std::is_enum_v<T>,
                "fields: use bool, int32_t, int64_t, uint64_t, double, std::string, "
                "std::vector<std::string>, std::map<std::string, double or int64_t>, an "
                "enumeration with EnumNames, or std::optional of these");
  static FieldType type() {
    FieldType type{.kind = FieldType::Kind::kText};
    for (const auto& [value, name] : EnumNames<T>::kNames) type.names.emplace_back(name);
    return type;
  }
  static Json get(const T& member) {
    for (const auto& [value, name] : EnumNames<T>::kNames) {
      if (value == member) return name;
    }
    return nullptr;  // a value without a name: validate_fields refuses it
  }
  static void set(T& member, const Json& text) {
    for (const auto& [value, name] : EnumNames<T>::kNames) {
      if (text == name) member = value;
    }
  }
};

template <class T, FieldType::Kind kKind>
struct PlainMember {
  static FieldType type() {
    FieldType type{.kind = kKind};
    if constexpr (kKind == FieldType::Kind::kInteger) {
      type.lowest = static_cast<int64_t>(std::numeric_limits<T>::min());
      type.highest = static_cast<uint64_t>(std::numeric_limits<T>::max());
    }
    if constexpr (kKind == FieldType::Kind::kIntegerMap) {
      type.lowest = std::numeric_limits<int64_t>::min();
      type.highest = static_cast<uint64_t>(std::numeric_limits<int64_t>::max());
    }
    return type;
  }
  static Json get(const T& member) { return member; }
  static void set(T& member, const Json& value) { member = value.get<T>(); }
};

template <>
struct Member<bool> : PlainMember<bool, FieldType::Kind::kBool> {};
template <>
struct Member<int32_t> : PlainMember<int32_t, FieldType::Kind::kInteger> {};
template <>
struct Member<int64_t> : PlainMember<int64_t, FieldType::Kind::kInteger> {};
template <>
struct Member<uint64_t> : PlainMember<uint64_t, FieldType::Kind::kInteger> {};
template <>
struct Member<double> : PlainMember<double, FieldType::Kind::kNumber> {};
template <>
struct Member<std::string> : PlainMember<std::string, FieldType::Kind::kText> {};
template <>
struct Member<std::vector<std::string>>
    : PlainMember<std::vector<std::string>, FieldType::Kind::kTextList> {};
template <>
struct Member<std::map<std::string, int64_t>>
    : PlainMember<std::map<std::string, int64_t>, FieldType::Kind::kIntegerMap> {};
template <>
struct Member<std::map<std::string, double>>
    : PlainMember<std::map<std::string, double>, FieldType::Kind::kNumberMap> {};

template <class T>
struct Member<std::optional<T>> {
  static FieldType type() {
    FieldType type = Member<T>::type();
    type.is_optional = true;
    return type;
  }
  static Json get(const std::optional<T>& member) {
    return member ? Member<T>::get(*member) : Json(nullptr);
  }
  static void set(std::optional<T>& member, const Json& value) {
    if (value.is_null()) {
      member.reset();
    } else {
      Member<T>::set(member.emplace(), value);
    }
  }
};

}  // namespace qlora::detail
