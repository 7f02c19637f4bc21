#include "cli/output.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/progress.h"
#include "core/text.h"

namespace qlora::cli {
namespace {

bool ends_with(const std::string& text, std::string_view end) {
  return text.size() > end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
}

/// Code points: good enough for the width of a column.
size_t width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

std::string padded(const std::string& text, size_t columns) {
  return text + std::string(columns - std::min(columns, width(text)), ' ');
}

std::string label(std::string key) {
  for (const std::string_view unit : {"_bytes", "_seconds"}) {
    if (ends_with(key, unit)) key.resize(key.size() - unit.size());
  }
  std::replace(key.begin(), key.end(), '_', ' ');
  return key;
}

bool is_plain_list(const Json& value) {
  return value.is_array() && std::none_of(value.begin(), value.end(),
                                          [](const Json& item) { return item.is_structured(); });
}

std::string value_text(const std::string& key, const Json& value) {
  if (value.is_null()) return "-";
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_number() && ends_with(key, "_bytes")) return bytes_text(value.get<uint64_t>());
  if (value.is_number() && ends_with(key, "_seconds")) return duration_text(value.get<double>());
  if (value.is_number_integer()) return count_text(value.get<int64_t>());
  if (value.is_number()) return fmt::format("{:.6g}", value.get<double>());
  if (value.is_string()) return terminal_safe(value.get<std::string>(), LineBreaks::kReplace);
  std::string list;
  for (const Json& item : value) list += (list.empty() ? "" : ", ") + value_text("", item);
  return key == "shape" ? "[" + list + "]" : list;
}

std::string table_text(const Json& rows, const std::string& indent) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : rows.front().items()) keys.push_back(key);
  std::vector<std::vector<std::string>> cells(1);
  for (const std::string& key : keys) cells[0].push_back(label(key));
  for (const Json& row : rows) {
    std::vector<std::string> line;
    for (const std::string& key : keys) line.push_back(value_text(key, row.value(key, Json())));
    cells.push_back(std::move(line));
  }
  std::vector<size_t> widest(keys.size());
  for (const auto& line : cells) {
    for (size_t c = 0; c < keys.size(); ++c) widest[c] = std::max(widest[c], width(line[c]));
  }
  std::string text;
  for (const auto& line : cells) {
    text += indent;
    for (size_t c = 0; c < keys.size(); ++c) {
      text += c + 1 < keys.size() ? padded(line[c], widest[c] + 2) : line[c];
    }
    text += '\n';
  }
  return text;
}

std::string section_text(const Json& facts, const std::string& indent) {
  size_t widest = 0;
  for (const auto& [key, value] : facts.items()) {
    if (!value.is_structured() || is_plain_list(value))
      widest = std::max(widest, label(key).size());
  }
  std::string text;
  for (const auto& [key, value] : facts.items()) {
    if (value.is_array() && value.empty()) {
      text += indent + padded(label(key), widest + 2) + "none\n";
    } else if (value.is_object()) {
      text += indent + label(key) + "\n" + section_text(value, indent + "  ");
    } else if (value.is_array() && !is_plain_list(value)) {
      text += indent + label(key) + "\n" + table_text(value, indent + "  ");
    } else {
      text += indent + padded(label(key), widest + 2) + value_text(key, value) + "\n";
    }
  }
  return text;
}

}  // namespace

std::string terminal_safe(std::string_view text, LineBreaks breaks) {
  std::string safe;
  safe.reserve(text.size());
  for (size_t i = 0; i < text.size(); ++i) {
    const auto byte = static_cast<unsigned char>(text[i]);
    const bool is_c1 = byte == 0xC2 && i + 1 < text.size() &&
                       static_cast<unsigned char>(text[i + 1]) >= 0x80 &&
                       static_cast<unsigned char>(text[i + 1]) < 0xA0;
    const bool kept = byte == '\t' || (byte == '\n' && breaks == LineBreaks::kKeep);
    if (is_c1) ++i;
    safe += is_c1 || ((byte < 0x20 || byte == 0x7F) && !kept) ? '?' : text[i];
  }
  return safe;
}

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  flush_stdout();
}

void flush_stdout() {
  QLORA_CHECK(std::fflush(stdout) == 0 && std::ferror(stdout) == 0, IoError,
              "[output] cannot write to standard output: {}", std::strerror(errno));
}

void print_json(const Json& object) {
  print(object.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

std::string facts_text(const Json& facts) {
  return section_text(facts, "");
}

}  // namespace qlora::cli
