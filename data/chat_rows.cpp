#include "data/chat_rows.h"

#include <nlohmann/json.hpp>

#include "core/error.h"
#include "data/json_rows.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

using nlohmann::ordered_json;

constexpr std::pair<const char*, const char*> kShareGptRoles[] = {
    {"human", "user"},          {"user", "user"},        {"gpt", "assistant"},
    {"assistant", "assistant"}, {"model", "assistant"},  {"system", "system"},
    {"tool", "tool"},           {"observation", "tool"}, {"function_response", "tool"}};

jinja::Value value_of(const ordered_json& json, const std::string& where) {
  try {
    return jinja::from_json(json);
  } catch (const jinja::Fault& fault) {
    throw FormatError(fmt::format("[data] {}: {}", where, fault.what()));
  }
}

const ordered_json& list_of(const ordered_json& row, const std::string& field,
                            const std::string& where) {
  const auto list = row.find(field);
  QLORA_CHECK(list != row.end(), FormatError,
              "[data] {}: the row lacks the field {}, a list of messages", where, io::quote(field));
  QLORA_CHECK(list->is_array(), FormatError,
              "[data] {}: the field {} is {}, expected a list of messages", where, io::quote(field),
              list->type_name());
  QLORA_CHECK(!list->empty(), FormatError,
              "[data] {}: the field {} is empty, expected a list of messages with at least one",
              where, io::quote(field));
  return *list;
}

Message read_message(const ordered_json& message, const std::string& where) {
  QLORA_CHECK(message.is_object(), FormatError,
              "[data] {}: a message is {}, expected an object with role and content", where,
              message.type_name());
  const auto role = message.find("role"), content = message.find("content");
  QLORA_CHECK(role != message.end() && role->is_string(), FormatError,
              "[data] {}: a message lacks the field 'role', a text", where);
  const bool has_content = content != message.end() && !content->is_null();
  QLORA_CHECK(has_content || message.contains("tool_calls"), FormatError,
              "[data] {}: a message of the role {} {}", where, io::quote(role->get<std::string>()),
              content == message.end() ? "lacks the field 'content'"
                                       : "has a content that is null, expected a text");
  QLORA_CHECK(!has_content || content->is_string() || content->is_array(), FormatError,
              "[data] {}: the content of a message is {}, expected a text or a list of parts",
              where, content->type_name());
  Message out{.role = role->get<std::string>(), .content = {}};
  out.has_text = has_content && content->is_string();
  if (out.has_text) out.content = content->get<std::string>();
  if (!out.has_text || message.size() != 2) out.fields = value_of(message, where);
  return out;
}

}  // namespace

jinja::Value Message::as_value() const {
  if (!fields.is_none()) return fields;
  jinja::Dict dict;
  dict.set("role", role);
  dict.set("content", content);
  return jinja::Value::dict(std::move(dict));
}

void read_messages(const ordered_json& row, const std::string& field, const std::string& where,
                   Record& record) {
  for (const ordered_json& message : list_of(row, field, where)) {
    record.messages.push_back(read_message(message, where));
  }
}

void read_sharegpt(const ordered_json& row, const std::string& field, const std::string& where,
                   Record& record) {
  const auto system = row.find("system");
  if (system != row.end() && system->is_string() &&
      !system->get_ref<const std::string&>().empty()) {
    record.messages.push_back({"system", system->get<std::string>()});
  }
  for (const ordered_json& turn : list_of(row, field, where)) {
    if (turn.is_object() && turn.contains("role")) {
      record.messages.push_back(read_message(turn, where));
      continue;
    }
    const bool is_turn = turn.is_object() && turn.contains("from") && turn["from"].is_string() &&
                         turn.contains("value") && turn["value"].is_string();
    QLORA_CHECK(is_turn, FormatError,
                "[data] {}: a turn of {} is no object with the texts 'from' and 'value'", where,
                io::quote(field));
    const std::string from = turn["from"].get<std::string>();
    const char* role = nullptr;
    for (const auto& [name, meaning] : kShareGptRoles) {
      if (from == name) role = meaning;
    }
    QLORA_CHECK(role, FormatError,
                "[data] {}: the turn is from {}; known are human, user, gpt, assistant, model, "
                "system, tool, observation and function_response",
                where, io::quote(from));
    record.messages.push_back({role, turn["value"].get<std::string>()});
  }
}

void read_tools(const ordered_json& row, const std::string& field, const std::string& where,
                Record& record) {
  const auto tools = row.find(field);
  if (tools == row.end() || tools->is_null()) return;
  ordered_json list = *tools;
  if (list.is_string()) {
    if (list.get_ref<const std::string&>().empty()) return;
    list = parse_row_json(tools->get_ref<const std::string&>(), where + ", field " + field);
  }
  QLORA_CHECK(list.is_array(), FormatError,
              "[data] {}: the field {} is {}, expected a list of tools, or its text as JSON", where,
              io::quote(field), list.type_name());
  for (const ordered_json& tool : list) {
    QLORA_CHECK(tool.is_object(), FormatError, "[data] {}: a tool in {} is {}, expected an object",
                where, io::quote(field), tool.type_name());
  }
  record.tools = value_of(list, where);
}

}  // namespace qlora::data
