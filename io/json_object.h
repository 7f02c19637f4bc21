#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

namespace qlora::io {

/// Typed reading of the members of one JSON object. Absent and null mean the same: nothing.
/// All functions throw FormatError naming file, key, value and the type that is allowed.
class JsonObject {
 public:
  /// `where` is the file and, for an object inside it, the key: "config.json: rope_parameters"
  JsonObject(const nlohmann::json& object, std::string where);
  JsonObject(nlohmann::json&&, std::string) = delete;  // the object is not copied

  const std::string& where() const { return where_; }
  const nlohmann::json* find(const char* key) const;  // nullptr where absent or null
  bool stands(const char* key) const { return object_.contains(key); }  // also as null

  std::optional<int64_t> integer(const char* key) const;
  std::optional<double> number(const char* key) const;
  std::optional<bool> boolean(const char* key) const;
  std::optional<std::string> text(const char* key) const;
  int64_t required_integer(const char* key) const;
  double required_number(const char* key) const;

  [[noreturn]] void fail(const char* key, const nlohmann::json& value,
                         const std::string& allowed) const;

 private:
  const nlohmann::json& object_;
  std::string where_;
};

}  // namespace qlora::io
