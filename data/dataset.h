#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "data/data_options.h"
#include "data/jinja/value.h"

namespace qlora::data {

/// One turn of a conversation.
struct Message {
  std::string role;
  std::string content;       // empty where the row gives a list of parts, or tool calls alone
  bool has_text = true;      // content is what the row gives
  jinja::Value fields = {};  // all of the turn, as a chat template sees it; none: role and content

  jinja::Value as_value() const;
};

/// One row of a data set. Which members are filled depends on the form.
struct Record {
  std::string
      text;  // text: all of it; prompt_completion: the prompt; alpaca, dolly: the instruction
  std::string input;     // alpaca: input; dolly: context
  std::string response;  // prompt_completion, alpaca, dolly
  std::vector<Message> messages;
  jinja::Value tools = {};  // messages: what the field tools holds; none where it is missing
  int64_t line = 0;         // where the row begins in its file, from 1
};

/// Rows of one form, in the order of the file.
struct Dataset {
  RowForm form = RowForm::kText;  // never kAuto, nor kShareGpt: its rows become messages
  std::string name;               // the file, for messages
  std::vector<Record> records;

  int64_t size() const { return static_cast<int64_t>(records.size()); }
};

/// Reads a .jsonl, .json (array of objects) or .csv (RFC 4180, with header) file.
///   options   form (kAuto: by the fields of the first row) and the names of the fields
///   returns   at least one row
///   throws    IoError if the file cannot be read; FormatError for a damaged file or a row without
///             its fields, with file and line; ValueError if there is no row
///   cost      one pass; holds one row beside the result
Dataset load_dataset(const std::filesystem::path& path, const DatasetOptions& options = {});

/// Takes a part of the rows out, the same for the same seed on every machine.
///   split     below 1: that fraction, rounded, at least one row; else that many rows
///   returns   {the rest, the part}, both in the order of the file
///   throws    ValueError if one of the two would be empty
std::pair<Dataset, Dataset> split_dataset(Dataset set, double split, uint64_t seed);

}  // namespace qlora::data
