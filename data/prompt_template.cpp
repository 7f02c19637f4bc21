#include "data/prompt_template.h"

#include <algorithm>

#include "core/error.h"
#include "data/jinja/text_tools.h"
#include "io/foreign_text.h"

namespace qlora::data {
namespace {

std::string text_of(const std::vector<Piece>& pieces) {
  std::string all;
  for (const Piece& piece : pieces) all += piece.text;
  return all;
}

/// A prompt and the answer to it.
std::vector<Piece> pair_of(std::string prompt, const std::string& response) {
  return {{std::move(prompt), false}, {response, true}};
}

std::string dolly_prompt(const Record& r) {
  return "### Instruction:\n" + r.text + "\n\n### Input:\n" + r.input + "\n\n### Response:\n";
}

std::string alpaca_prompt(const Record& r) {
  if (r.input.empty()) {
    return "Below is an instruction that describes a task. Write a response that appropriately "
           "completes the request.\n\n### Instruction:\n" +
           r.text + "\n\n### Response:\n";
  }
  return "Below is an instruction that describes a task, paired with an input that provides "
         "further "
         "context. Write a response that appropriately completes the request.\n\n"
         "### Instruction:\n" +
         r.text + "\n\n### Input:\n" + r.input + "\n\n### Response:\n";
}

/// The instruction with its input below, as one request.
std::string request_of(const Record& r) {
  return r.input.empty() ? r.text : r.text + "\n\n" + r.input;
}

std::vector<Piece> chatml(const std::vector<Message>& messages) {
  std::vector<Piece> pieces;
  const auto given = [&](const std::string& text) {
    if (pieces.empty() || pieces.back().is_response) pieces.push_back({"", false});
    pieces.back().text += text;
  };
  for (const Message& message : messages) {
    QLORA_CHECK(message.has_text, ValueError,
                "[data] a message of the role {} has a content that is no text, which chatml does "
                "not know; set prompt_template to chat",
                io::quote(message.role));
    given("<|im_start|>" + message.role + "\n");
    if (message.role == "assistant") {
      pieces.push_back({message.content + "<|im_end|>", true});
      given("\n");
    } else {
      given(message.content + "<|im_end|>\n");
    }
  }
  return pieces;
}

}  // namespace

PromptTemplate resolve_template(PromptTemplate chosen, RowForm form, bool has_chat_template) {
  if (chosen != PromptTemplate::kAuto) return chosen;
  switch (form) {
    case RowForm::kAlpaca:
      return PromptTemplate::kAlpaca;
    case RowForm::kDolly:
      return PromptTemplate::kDolly;
    case RowForm::kMessages:
      return has_chat_template ? PromptTemplate::kChat : PromptTemplate::kChatml;
    default:
      return PromptTemplate::kNone;
  }
}

RowRenderer::RowRenderer(RowForm form, const ExampleOptions& options, const Tokenizer& tokenizer,
                         std::string file)
    : file_(std::move(file)),
      form_(form),
      how_(resolve_template(
          options.prompt_template, form,
          !options.chat.chat_template_path.empty() || !tokenizer.chat_template().empty())) {
  QLORA_CHECK(form != RowForm::kText || how_ == PromptTemplate::kNone, ConfigError,
              "[data] rows of the form text hold the whole text; allowed is prompt_template none");
  const bool is_chat = how_ == PromptTemplate::kChatml || how_ == PromptTemplate::kChat;
  QLORA_CHECK(form != RowForm::kMessages || is_chat, ConfigError,
              "[data] rows of messages need prompt_template chat or chatml");
  if (how_ == PromptTemplate::kChat) chat_.emplace(tokenizer, options.chat);
}

/// The row as a conversation.
std::vector<Message> RowRenderer::messages_of(const Record& record) const {
  if (form_ == RowForm::kMessages) return record.messages;
  return {{"user", request_of(record)}, {"assistant", record.response}};
}

template <class Render>
auto RowRenderer::with_line(const Record& record, const Render& render) const {
  try {
    return render();
  } catch (const ValueError& error) {
    if (record.line == 0) throw;
    const bool has_other =
        chat_ && std::any_of(record.messages.begin(), record.messages.end(),
                             [](const Message& message) { return !message.has_text; });
    throw ValueError(fmt::format(
        "[data] {}: {}{}", where(record), error.what(),
        has_other ? "; a message of the row has no text as its content (parts, or tool calls "
                    "alone), which not every template takes"
                  : ""));
  }
}

std::string RowRenderer::where(const Record& record) const {
  return file_.empty() ? fmt::format("line {}", record.line)
                       : fmt::format("{}:{}", file_, record.line);
}

/// A role that the template does not know is a slip of the pen, unless what it says is rendered.
void RowRenderer::check_roles(const Record& record, const std::vector<Piece>& pieces) const {
  static constexpr std::string_view kRoles[] = {"system", "user", "assistant", "tool"};
  for (const Message& message : record.messages) {
    if (std::find(std::begin(kRoles), std::end(kRoles), message.role) != std::end(kRoles)) continue;
    const std::string_view said = jinja::strip(message.content, jinja::Side::kBoth);
    QLORA_CHECK(chat_ && text_of(pieces).find(said) != std::string::npos, ValueError,
                "[data] {}: a message has the role {}, allowed system, user, assistant and tool{}",
                where(record), io::quote(message.role),
                chat_ ? ", and what the chat template renders, which leaves this one out"
                      : "; others need prompt_template chat and a template that renders them");
  }
}

std::vector<Piece> RowRenderer::render_plain(const Record& record) const {
  if (form_ == RowForm::kText) return {{record.text, true}};
  switch (how_) {
    case PromptTemplate::kDolly:
      return pair_of(dolly_prompt(record), record.response);
    case PromptTemplate::kAlpaca:
      return pair_of(alpaca_prompt(record), record.response);
    case PromptTemplate::kChatml:
      return chatml(messages_of(record));
    default:
      return pair_of(
          form_ == RowForm::kPromptCompletion ? record.text : request_of(record) + "\n\n",
          record.response);
  }
}

std::vector<Piece> RowRenderer::render(const Record& record) const {
  auto pieces = with_line(record, [&] {
    return chat_ ? chat_->render(messages_of(record), record.tools) : render_plain(record);
  });
  check_roles(record, pieces);
  return pieces;
}

std::string RowRenderer::text(const Record& record) const {
  const auto pieces = with_line(record, [&] {
    return chat_ ? std::vector<Piece>{{chat_->text(messages_of(record), record.tools), true}}
                 : render_plain(record);
  });
  check_roles(record, pieces);
  return text_of(pieces);
}

std::string RowRenderer::prompt(const Record& record) const {
  std::vector<Message> messages = messages_of(record);
  const bool is_answered = messages.back().role == "assistant";
  if (chat_) {
    while (is_answered && messages.size() > 1 && messages.back().role == "assistant") {
      messages.pop_back();
    }
    return with_line(record, [&] { return chat_->prompt(messages, record.tools); });
  }
  const std::vector<Piece> pieces = render_plain(record);
  if (form_ == RowForm::kText) return pieces[0].text;
  const bool is_asked = form_ == RowForm::kMessages && !is_answered;
  size_t end = pieces.size();  // the last answer's piece, which is left out with what follows
  while (!is_asked && end > 0) {
    --end;
    if (pieces[end].is_response) break;
  }
  std::string prompt;
  for (size_t i = 0; i < end; ++i) prompt += pieces[i].text;
  if (is_asked) prompt += "<|im_start|>assistant\n";
  return prompt;
}

}  // namespace qlora::data
