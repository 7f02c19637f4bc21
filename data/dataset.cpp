#include "data/dataset.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <optional>

#include "core/error.h"
#include "core/rng.h"
#include "data/chat_rows.h"
#include "data/csv.h"
#include "data/json_rows.h"
#include "data/utf8.h"
#include "io/atomic_file.h"
#include "io/file_kind.h"
#include "io/foreign_text.h"
#include "io/mapped_file.h"

namespace qlora::data {
namespace {

using json = nlohmann::ordered_json;

/// The fields of a form by name.
struct FieldNames {
  std::string text, input, response;
};

FieldNames names_of(RowForm form, const DatasetOptions& o) {
  const auto or_default = [](const std::string& name, const char* fallback) {
    return name.empty() ? std::string(fallback) : name;
  };
  switch (form) {
    case RowForm::kText:
      return {o.text_field, "", ""};
    case RowForm::kPromptCompletion:
      return {o.prompt_field, "", o.completion_field};
    case RowForm::kAlpaca:
      return {o.instruction_field, or_default(o.input_field, "input"),
              or_default(o.response_field, "output")};
    case RowForm::kDolly:
      return {o.instruction_field, or_default(o.input_field, "context"),
              or_default(o.response_field, "response")};
    case RowForm::kShareGpt:
      return {o.conversations_field, "", ""};
    default:
      return {o.messages_field, "", ""};
  }
}

/// Builds records of one form out of rows, which are JSON objects.
class RecordReader {
 public:
  RecordReader(const DatasetOptions& options, Dataset& set)
      : options_(options), set_(set), names_(names_of(options.form, options)) {
    set_.form = options.form;
    settle_sharegpt();
  }

  void add(json& row, int64_t line) {
    if (set_.form == RowForm::kAuto) {
      set_.form = detect(row, line);
      names_ = names_of(set_.form, options_);
      settle_sharegpt();
    }
    Record record{.line = line};
    if (set_.form == RowForm::kMessages) {
      const std::string where = fmt::format("{}:{}", set_.name, line);
      (is_sharegpt_ ? data::read_sharegpt : data::read_messages)(row, names_.text, where, record);
      read_tools(row, options_.tools_field, where, record);
    } else {
      record.text = take(row, names_.text, line);
      if (!names_.input.empty()) record.input = take_optional(row, names_.input, line);
      if (!names_.response.empty()) record.response = take(row, names_.response, line);
    }
    set_.records.push_back(std::move(record));
  }

 private:
  /// Its rows become messages.
  void settle_sharegpt() {
    is_sharegpt_ = set_.form == RowForm::kShareGpt;
    if (is_sharegpt_) set_.form = RowForm::kMessages;
  }

  RowForm detect(const json& row, int64_t line) const {
    const DatasetOptions& o = options_;
    if (row.contains(o.messages_field)) return RowForm::kMessages;
    if (row.contains(o.conversations_field)) return RowForm::kShareGpt;
    if (row.contains(o.instruction_field)) {
      const bool has_own = !o.response_field.empty() && row.contains(o.response_field);
      const bool is_dolly = row.contains("response") || row.contains("context");
      if (row.contains("output") || (has_own && !is_dolly)) return RowForm::kAlpaca;
      if (row.contains("response") || has_own) return RowForm::kDolly;
    }
    if (row.contains(o.prompt_field) && row.contains(o.completion_field)) {
      return RowForm::kPromptCompletion;
    }
    if (row.contains(o.text_field)) return RowForm::kText;
    throw FormatError(fmt::format(
        "[data] {}:{}: the form of the rows is not known, fields {}; allowed {}, {} + {}, {} + "
        "output, {} + response, {}, or {}; {}",
        set_.name, line, keys(row), o.text_field, o.prompt_field, o.completion_field,
        o.instruction_field, o.instruction_field, o.messages_field, o.conversations_field,
        advice(row)));
  }

  /// For a row whose form is not known.
  static std::string advice(const json& row) {
    for (const auto& [key, value] : row.items()) {
      if (!value.is_array() || value.empty() || !value.front().is_object()) continue;
      const json& item = value.front();
      const char* option = item.contains("role")   ? "messages_field"
                           : item.contains("from") ? "conversations_field"
                                                   : nullptr;
      if (option != nullptr) {
        return fmt::format("{} is a conversation: set data.{} to it", io::quote(key), option);
      }
      return fmt::format(
          "name the fields in the configuration, or, where {} is a list of rows, make "
          "that list the whole file",
          io::quote(key));
    }
    return "name the fields in the configuration";
  }

  static std::string keys(const json& row) {
    std::string list;
    for (const auto& [key, value] : row.items()) {
      list += (list.empty() ? "" : ", ") + io::quote(key);
    }
    return list.empty() ? "none" : list;
  }

  std::string take(json& row, const std::string& key, int64_t line) const {
    const auto at = row.find(key);
    QLORA_CHECK(at != row.end(), FormatError, "[data] {}:{}: the row lacks the field {}; it has {}",
                set_.name, line, io::quote(key), keys(row));
    QLORA_CHECK(at->is_string(), FormatError, "[data] {}:{}: the field {} is {}, expected a text",
                set_.name, line, io::quote(key), at->type_name());
    return std::move(at->get_ref<std::string&>());
  }

  std::string take_optional(json& row, const std::string& key, int64_t line) const {
    const auto at = row.find(key);
    return at == row.end() || at->is_null() ? std::string() : take(row, key, line);
  }

  const DatasetOptions& options_;
  Dataset& set_;
  FieldNames names_;
  bool is_sharegpt_ = false;
};

/// Names of the columns: each once, and cut by commas.
void check_header(const std::vector<std::string>& header, const CsvReader& csv,
                  const std::string& name) {
  const bool is_one = header.size() == 1 && header[0].find_first_of("\t;|") != std::string::npos;
  QLORA_CHECK(
      !is_one, FormatError,
      "[data] {}:{}: the header is the one column {}; columns are separated by commas, save "
      "the file so",
      name, csv.line(), io::quote(header[0]));
  auto sorted = header;
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  QLORA_CHECK(twice == sorted.end(), FormatError, "[data] {}:{}: the column {} stands twice", name,
              csv.line(), io::quote(*twice));
}

void read_csv(std::string_view text, RecordReader& reader, const std::string& name) {
  CsvReader csv(text, name);
  std::vector<std::string> header, row;
  QLORA_CHECK(csv.next(header), ValueError, "[data] {} is empty, expected a header line", name);
  for (auto& field : header) field = replace_invalid_utf8(field);
  check_header(header, csv, name);
  while (csv.next(row)) {
    QLORA_CHECK(row.size() == header.size(), FormatError,
                "[data] {}:{}: the row has {} fields, the header {}; put a field with commas or "
                "line ends in quotes",
                name, csv.line(), row.size(), header.size());
    for (const std::string& field : row) {
      QLORA_CHECK(field.find('\0') == std::string::npos, FormatError,
                  "[data] {}:{}: a zero byte in the row: the file is damaged, or no text", name,
                  csv.line());
    }
    json object = json::object();
    for (size_t i = 0; i < row.size(); ++i) object[header[i]] = replace_invalid_utf8(row[i]);
    reader.add(object, csv.line());
  }
}

std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c;
  return extension;
}

/// The file's text, without a byte order mark.
std::string_view text_of(const io::MappedFile& file, const std::string& name) {
  std::string_view text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  io::refuse_other_kind(text, "[data] " + name);
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);
  return text;
}

}  // namespace

Dataset load_dataset(const std::filesystem::path& path, const DatasetOptions& options) {
  const std::string extension = lower_extension(path);
  const bool is_csv = extension == ".csv";
  const bool is_json = extension == ".jsonl" || extension == ".json" || extension == ".ndjson";
  Dataset set;
  set.name = path.string();
  QLORA_CHECK(io::is_present(path), IoError,
              "[data] {} does not exist: no file of that name is here, and nothing is downloaded; "
              "give the path of a .jsonl, .json or .csv file",
              set.name);
  std::error_code ignored;
  QLORA_CHECK(!std::filesystem::is_directory(path, ignored), IoError,
              "[data] {} is a folder; give the path of a .jsonl, .json or .csv file", set.name);
  const io::MappedFile file(path);
  const std::string_view text = text_of(file, set.name);
  QLORA_CHECK(is_csv || is_json, FormatError,
              "[data] {} is of an unknown kind; known are .jsonl, .json and .csv", set.name);
  const bool is_chat = options.form == RowForm::kMessages || options.form == RowForm::kShareGpt;
  QLORA_CHECK(!is_csv || !is_chat, ConfigError,
              "[data] {}: rows of messages cannot be given as CSV; use .jsonl", set.name);
  RecordReader reader(options, set);
  if (is_csv) {
    read_csv(text, reader, set.name);
  } else {
    JsonRows rows(text, set.name);
    for (json row; rows.next(row);) reader.add(row, rows.line());
  }
  QLORA_CHECK(!set.records.empty(), ValueError, "[data] {} has no rows, expected at least one",
              set.name);
  return set;
}

std::pair<Dataset, Dataset> split_dataset(Dataset set, double split, uint64_t seed) {
  const auto count = static_cast<double>(set.size());
  const double wanted = split < 1 ? std::max(1.0, std::nearbyint(split * count)) : split;
  QLORA_CHECK(split > 0 && (split < 1 || split == std::floor(split)), ConfigError,
              "[data] validation_split is {}, allowed a fraction below 1 or a whole number of rows",
              split);
  QLORA_CHECK(
      wanted < count, ValueError,
      "[data] validation_split takes {} of the {} rows of {}, which leaves none to train on",
      wanted, set.size(), set.name);
  constexpr uint64_t kSplitStream = 0x73706C6974;  // "split"
  std::vector<int64_t> order(set.records.size());
  std::iota(order.begin(), order.end(), 0);
  Rng(seed, kSplitStream).shuffle(order);
  std::vector<bool> is_held(set.records.size());
  for (int64_t i = 0; i < static_cast<int64_t>(wanted); ++i) is_held[order[i]] = true;

  Dataset rest{set.form, set.name, {}}, part{set.form, set.name + " (held out)", {}};
  for (size_t i = 0; i < set.records.size(); ++i) {
    (is_held[i] ? part : rest).records.push_back(std::move(set.records[i]));
  }
  return {std::move(rest), std::move(part)};
}

}  // namespace qlora::data
