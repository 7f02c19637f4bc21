#include "io/json_object.h"

#include "core/error.h"
#include "io/foreign_text.h"

namespace qlora::io {
namespace {

bool is_int64(const nlohmann::json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
  return value.is_number_integer();
}

}  // namespace

JsonObject::JsonObject(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {
  QLORA_CHECK(object_.is_object(), FormatError, "[io] {}: not a JSON object", where_);
}

const nlohmann::json* JsonObject::find(const char* key) const {
  const auto it = object_.find(key);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void JsonObject::fail(const char* key, const nlohmann::json& value,
                      const std::string& allowed) const {
  const std::string shown = value.dump(-1, ' ', true, nlohmann::json::error_handler_t::replace);
  throw FormatError(
      fmt::format("[io] {}: {} is {}, {} is allowed", where_, key, quote(shown), allowed));
}

std::optional<int64_t> JsonObject::integer(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!is_int64(*value)) fail(key, *value, "a whole number");
  return value->get<int64_t>();
}

std::optional<double> JsonObject::number(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_number()) fail(key, *value, "a number");
  return value->get<double>();
}

std::optional<bool> JsonObject::boolean(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_boolean()) fail(key, *value, "true or false");
  return value->get<bool>();
}

std::optional<std::string> JsonObject::text(const char* key) const {
  const nlohmann::json* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (!value->is_string()) fail(key, *value, "a text");
  return value->get<std::string>();
}

int64_t JsonObject::required_integer(const char* key) const {
  const auto value = integer(key);
  QLORA_CHECK(value, FormatError, "[io] {}: {} is missing; a whole number is needed", where_, key);
  return *value;
}

double JsonObject::required_number(const char* key) const {
  const auto value = number(key);
  QLORA_CHECK(value, FormatError, "[io] {}: {} is missing; a number is needed", where_, key);
  return *value;
}

}  // namespace qlora::io
