#include "data/chat_template.h"

#include <algorithm>
#include <array>
#include <ctime>
#include <iomanip>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"
#include "data/jinja/text_tools.h"
#include "data/prompt_template.h"
#include "data/utf8.h"
#include "io/atomic_file.h"
#include "io/foreign_text.h"
#include "io/strict_json.h"

namespace qlora::data {

using jinja::OutputSpan;
using jinja::Value;

/// A conversation as the template sees it.
struct ChatTemplate::Turns {
  const std::vector<Message>& messages;
  std::vector<Value> values;
  const Value& tools;
  const jinja::Template& chosen;
};

namespace {

constexpr const char* kVariablesExample = R"("{\"enable_thinking\": false}")";

/// A message without its "[io] ", to stand in another one.
std::string_view without_area(std::string_view message) {
  const size_t space = message.find("] ");
  return space == std::string_view::npos ? message : message.substr(space + 2);
}

/// As transformers prepares a message: null members go, and reasoning stands under every name that
/// templates read it by.
Value prepared(const Message& message) {
  static constexpr std::array<const char*, 3> kReasoning = {"reasoning_content", "thinking",
                                                            "reasoning"};
  const Value whole = message.as_value();
  const auto& given = *whole.as<const jinja::Dict>();
  const Value* reasoning = nullptr;
  for (const char* name : kReasoning) {
    const Value* found = given.find_text(name);
    if (!reasoning && found && !found->is_none()) reasoning = found;
  }
  jinja::Dict out;
  if (reasoning) out.set("thinking", *reasoning);
  for (const auto& [key, value] : given.entries()) {
    if (!value.is_none()) out.set(key, value);
  }
  if (reasoning) out.set("reasoning_content", *reasoning);
  return Value::dict(std::move(out));
}

nlohmann::ordered_json parse_variables(const std::string& text) {
  nlohmann::ordered_json object;
  try {
    object = io::parse_strict_ordered_json(text, "data.chat_template_kwargs");
  } catch (const FormatError& error) {
    throw ConfigError(fmt::format("[data] {}; expected a text that is a JSON object, as {}",
                                  without_area(error.what()), kVariablesExample));
  }
  QLORA_CHECK(
      object.is_object(), ConfigError,
      "[data] data.chat_template_kwargs is {}, expected a text that is a JSON object, as {}",
      object.type_name(), kVariablesExample);
  return object;
}

std::vector<std::pair<std::string, Value>> read_variables(const std::string& text) {
  std::vector<std::pair<std::string, Value>> out;
  if (text.empty()) return out;
  const nlohmann::ordered_json object = parse_variables(text);
  for (const auto& [name, value] : object.items()) {
    for (const char* taken : {"messages", "tools", "documents", "add_generation_prompt"}) {
      QLORA_CHECK(name != taken, ConfigError,
                  "[data] data.chat_template_kwargs sets {}, which the row or the program sets; "
                  "allowed: names other than messages, tools, documents, add_generation_prompt",
                  io::quote(name));
    }
    try {
      out.emplace_back(name, jinja::from_json(value));
    } catch (const jinja::Fault& fault) {
      throw ConfigError(fmt::format("[data] data.chat_template_kwargs: {}", fault.what()));
    }
  }
  return out;
}

std::time_t read_date(const std::string& text) {
  if (text.empty()) return std::time(nullptr);
  std::istringstream in(text);
  std::tm given{};
  in >> std::get_time(&given, "%Y-%m-%d");
  std::tm day = given;
  day.tm_hour = 12;
  day.tm_isdst = -1;
  const std::time_t time = in.fail() ? -1 : std::mktime(&day);
  const bool is_day = !in.fail() && in.peek() == std::char_traits<char>::eof() &&
                      day.tm_mday == given.tm_mday && day.tm_mon == given.tm_mon;
  QLORA_CHECK(is_day, ConfigError,
              "[data] data.chat_template_date is {}, expected a day as YYYY-MM-DD",
              io::quote(text));
  return time;
}

}  // namespace

void check_options(const ChatTemplateOptions& options) {
  read_variables(options.chat_template_kwargs);
  read_date(options.chat_template_date);
}

ChatTemplate::ChatTemplate(const Tokenizer& tokenizer, const ChatTemplateOptions& options)
    : now_(read_date(options.chat_template_date)) {
  if (!options.chat_template_path.empty()) {
    source_ = io::read_file(options.chat_template_path, jinja::kMaxTemplateBytes);
    QLORA_CHECK(valid_utf8_prefix(source_) == source_.size(), FormatError,
                "[template] {} is not UTF-8", options.chat_template_path);
    default_.emplace(source_, options.chat_template_path);
  } else {
    for (const NamedTemplate& named : tokenizer.chat_templates()) {
      const std::string text = replace_invalid_utf8(named.text);
      if (named.name == "default") default_.emplace(source_ = text, "chat_template");
      if (named.name == "tool_use") tool_use_.emplace(text, "chat_template tool_use");
    }
    QLORA_CHECK(default_, ConfigError,
                "[data] the tokenizer has no chat template, which prompt_template chat needs; set "
                "chat_template_path to a Jinja file, or prompt_template to chatml");
  }
  const SpecialIds& ids = tokenizer.special();
  const std::pair<const char*, const std::optional<int32_t>&> roles[] = {{"bos_token", ids.bos},
                                                                         {"eos_token", ids.eos},
                                                                         {"unk_token", ids.unk},
                                                                         {"pad_token", ids.pad}};
  variables_ = read_variables(options.chat_template_kwargs);
  for (const auto& [name, id] : roles) {
    const bool is_set = std::any_of(variables_.begin(), variables_.end(),
                                    [&, key = name](const auto& v) { return v.first == key; });
    if (id && !is_set) variables_.emplace_back(name, Value(tokenizer.id_to_piece(*id)));
  }
  for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id)) special_texts_.push_back(tokenizer.id_to_piece(id));
  }
}

jinja::Template::Rendering ChatTemplate::run(const Turns& turns, size_t count,
                                             bool adds_prompt) const {
  auto variables = variables_;
  variables.emplace_back(
      "messages",
      Value::list({turns.values.begin(), turns.values.begin() + static_cast<int64_t>(count)}));
  variables.emplace_back("tools", turns.tools);
  variables.emplace_back("documents", Value());
  variables.emplace_back("add_generation_prompt", adds_prompt);
  return turns.chosen.render(variables, now_);
}

/// Where the response to a turn ends in the whole: behind what the turns up to it render to, or,
/// where the template writes later turns otherwise than last ones, behind the turn's own text and
/// what closes it.
size_t ChatTemplate::end_of_response(const Turns& turns, size_t turn, size_t begin,
                                     const std::string& whole) const {
  const std::string up_to = run(turns, turn + 1, false).text;
  if (whole.starts_with(up_to) && up_to.size() >= begin) return up_to.size();
  const std::string content(jinja::strip(turns.messages[turn].content, jinja::Side::kBoth));
  const size_t own = content.empty() ? std::string::npos : up_to.rfind(content);
  if (own == std::string::npos) return std::string::npos;
  const std::string closed = up_to.substr(own);  // the text and what closes it
  const size_t at = whole.find(closed, begin);
  return at == std::string::npos ? at : at + closed.size();
}

std::vector<OutputSpan> ChatTemplate::find_responses(const Turns& turns,
                                                     const std::string& whole) const {
  std::vector<OutputSpan> spans;
  const size_t count = turns.messages.size();
  for (size_t turn = 0; turn < count; ++turn) {
    if (turns.messages[turn].role != "assistant") continue;
    const std::string prompt = run(turns, turn, true).text;
    const size_t begin = prompt.size();
    size_t end = std::string::npos;
    if (whole.starts_with(prompt) && (spans.empty() || begin >= spans.back().end)) {
      end = turn + 1 == count ? whole.size() : end_of_response(turns, turn, begin, whole);
    }
    QLORA_CHECK(
        end != std::string::npos, ValueError,
        "[template] {}: the rendering of the turns up to the assistant's at place {} is not "
        "how the whole conversation begins, so what the assistant writes cannot be told "
        "apart; set loss_on to all, or chat_template_path to a template with generation "
        "blocks",
        turns.chosen.name(), turn + 1);
    // White space behind the token that ends the turn is the template's, not the model's.
    const auto response = std::string_view(whole).substr(begin, end - begin);
    const std::string_view written = jinja::strip(response, jinja::Side::kRight);
    const bool is_closed = std::any_of(
        special_texts_.begin(), special_texts_.end(),
        [&](const std::string& text) { return !text.empty() && written.ends_with(text); });
    spans.push_back({begin, is_closed ? begin + written.size() : end});
  }
  return spans;
}

ChatTemplate::Turns ChatTemplate::prepare(const std::vector<Message>& messages,
                                          const Value& tools) const {
  Turns turns{messages, {}, tools, !tools.is_none() && tool_use_ ? *tool_use_ : *default_};
  for (const Message& message : messages) turns.values.push_back(prepared(message));
  return turns;
}

std::vector<Piece> ChatTemplate::render(const std::vector<Message>& messages,
                                        const Value& tools) const {
  const Turns turns = prepare(messages, tools);
  const auto whole = run(turns, messages.size(), false);
  QLORA_CHECK(
      whole.generations_known, ValueError,
      "[template] {}: a generation block stands in a macro or a set block, so that what the "
      "assistant writes cannot be told apart; set loss_on to all",
      turns.chosen.name());
  const auto spans =
      turns.chosen.has_generation() ? whole.generations : find_responses(turns, whole.text);
  std::vector<Piece> pieces;
  const auto add = [&](size_t begin, size_t end, bool is_response) {
    if (begin < end) pieces.push_back({whole.text.substr(begin, end - begin), is_response});
  };
  size_t done = 0;
  for (const OutputSpan& span : spans) {
    add(done, span.begin, false);
    add(span.begin, span.end, true);
    done = span.end;
  }
  add(done, whole.text.size(), false);
  return pieces;
}

std::string ChatTemplate::text(const std::vector<Message>& messages, const Value& tools) const {
  return run(prepare(messages, tools), messages.size(), false).text;
}

std::string ChatTemplate::prompt(const std::vector<Message>& messages, const Value& tools) const {
  return run(prepare(messages, tools), messages.size(), true).text;
}

}  // namespace qlora::data
