#include "core/json_file.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <vector>

#include "core/error.h"

namespace qlora {
namespace {

using Json = nlohmann::ordered_json;

// Builds the value as nlohmann's own handler would, and refuses what that one lets through:
// a key twice in one object (there the last one wins) and any depth of nesting.
class Builder final : public nlohmann::json_sax<Json> {
 public:
  Builder(std::string_view text, const std::string& source, const JsonLimits& limits)
      : text_(text), source_(source), limits_(limits) {}

  bool null() override { return put(nullptr); }
  bool boolean(bool value) override { return put(value); }
  bool number_integer(int64_t value) override { return put(value); }
  bool number_unsigned(uint64_t value) override { return put(value); }
  bool number_float(double value, const std::string&) override { return put(value); }
  bool string(std::string& value) override { return put(std::move(value)); }
  bool binary(Json::binary_t&) override { return false; }  // no such thing in JSON text
  bool start_object(size_t) override { return open(Json::object()); }
  bool start_array(size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(std::string& name) override {
    QLORA_CHECK(open_.back().keys.insert(name).second, FormatError,
                "[json] the key {} stands twice in one object; keep one ({}{})", Json(name).dump(),
                source_, pointer());
    open_.back().key = name;
    return true;
  }
  bool parse_error(size_t byte, const std::string& token,
                   const nlohmann::detail::exception& error) override {
    const bool overflow = error.id == 406;  // out_of_range: a number that no double holds
    QLORA_CHECK(overflow || byte <= text_.size(), FormatError,
                "[json] not JSON: the text ends too early, at {} ({}{})",
                position_text(text_, byte), source_, pointer());
    const std::string shown =
        Json(token.substr(0, 40)).dump(-1, ' ', false, Json::error_handler_t::replace);
    throw FormatError(fmt::format("[json] {} {} at {} ({}{})",
                                  overflow ? "no double holds the number" : "not JSON near", shown,
                                  position_text(text_, byte), source_, pointer()));
  }

  Json take() { return std::move(root_); }

 private:
  struct Open {
    Json* value;
    std::string key;             // of the object's member that comes next
    std::set<std::string> keys;  // that the object has had
  };

  std::string pointer() const {
    std::string path;
    for (const Open& open : open_) {
      path += "/" + (open.value->is_object() ? open.key : std::to_string(open.value->size()));
    }
    const std::string line = Json(path).dump(-1, ' ', false, Json::error_handler_t::replace);
    return path.empty() ? "" : ", at " + line.substr(1, line.size() - 2);
  }
  Json* add(Json value) {
    if (open_.empty()) return &(root_ = std::move(value));
    Open& parent = open_.back();
    if (parent.value->is_array()) {
      parent.value->push_back(std::move(value));
      return &parent.value->back();
    }
    // The set has seen the key: append without the linear search of ordered_json.
    auto& object = parent.value->get_ref<Json::object_t&>();
    return &static_cast<Json::object_t::Container&>(object)
                .emplace_back(parent.key, std::move(value))
                .second;
  }
  bool put(Json value) {
    add(std::move(value));
    return true;
  }
  bool open(Json value) {
    QLORA_CHECK(static_cast<int>(open_.size()) < limits_.max_depth, FormatError,
                "[json] nested more than {} deep ({})", limits_.max_depth, source_);
    Json* added = add(std::move(value));
    open_.push_back({added, "", {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::string_view text_;
  const std::string& source_;
  JsonLimits limits_;
  Json root_;
  std::vector<Open> open_;  // from the root down; pointers stay valid: only the last one grows
};

}  // namespace

std::string position_text(std::string_view text, size_t byte) {
  const std::string_view before = text.substr(0, std::min(byte, text.size()));
  const auto line = 1 + std::count(before.begin(), before.end(), '\n');
  const size_t newline = before.rfind('\n');
  const size_t column = before.size() - (newline == std::string_view::npos ? 0 : newline + 1);
  return fmt::format("line {}, column {}", line, std::max<size_t>(column, 1));
}

Json parse_json(std::string_view text, const std::string& source, const JsonLimits& limits) {
  QLORA_CHECK(text.size() <= limits.max_bytes, FormatError,
              "[json] {} bytes, allowed at most {} ({})", text.size(), limits.max_bytes, source);
  QLORA_CHECK(text.find_first_not_of(" \t\r\n") != std::string_view::npos, FormatError,
              "[json] {} is empty, expected JSON", source);
  Builder builder(text, source, limits);
  Json::sax_parse(text.begin(), text.end(), &builder, Json::input_format_t::json, true, true);
  return builder.take();
}

Json read_json_file(const std::filesystem::path& path, const JsonLimits& limits) {
  std::error_code failure;
  const auto status = std::filesystem::status(path, failure);
  QLORA_CHECK(status.type() != std::filesystem::file_type::not_found, IoError,
              "[json] no such file: {}", path.string());
  QLORA_CHECK(!failure, IoError, "[json] cannot look at {}: {}", path.string(), failure.message());
  QLORA_CHECK(std::filesystem::is_regular_file(status), IoError, "[json] {} is not a regular file",
              path.string());
  const uint64_t bytes = std::filesystem::file_size(path, failure);
  QLORA_CHECK(failure || bytes <= limits.max_bytes, FormatError,
              "[json] {} bytes, allowed at most {} ({})", bytes, limits.max_bytes, path.string());
  QLORA_CHECK(!failure, IoError, "[json] cannot look at {}: {}", path.string(), failure.message());
  std::ifstream file(path, std::ios::binary);
  QLORA_CHECK(file, IoError, "[json] cannot open {}: {}", path.string(), std::strerror(errno));
  std::string text(bytes, '\0');
  file.read(text.data(), static_cast<std::streamsize>(bytes));
  QLORA_CHECK(static_cast<uint64_t>(file.gcount()) == bytes, IoError,
              "[json] read {} of {} bytes of {}", file.gcount(), bytes, path.string());
  return parse_json(text, path.string(), limits);
}

}  // namespace qlora
