#include "data/prompt_template.h"

#include "core/error.h"

namespace qlora::data {
namespace {

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

PromptTemplate resolve_template(PromptTemplate chosen, RowForm form) {
  if (chosen != PromptTemplate::kAuto) return chosen;
  switch (form) {
    case RowForm::kAlpaca:
      return PromptTemplate::kAlpaca;
    case RowForm::kDolly:
      return PromptTemplate::kDolly;
    case RowForm::kMessages:
      return PromptTemplate::kChatml;
    default:
      return PromptTemplate::kNone;
  }
}

std::vector<Piece> render(const Record& record, RowForm form, PromptTemplate chosen) {
  const PromptTemplate how = resolve_template(chosen, form);
  QLORA_CHECK(form != RowForm::kText || how == PromptTemplate::kNone, ConfigError,
              "[data] rows of the form text hold the whole text; allowed is prompt_template none");
  QLORA_CHECK(form != RowForm::kMessages || how == PromptTemplate::kChatml, ConfigError,
              "[data] rows of messages need prompt_template chatml");
  if (form == RowForm::kText) return {{record.text, true}};
  if (form == RowForm::kMessages) return chatml(record.messages);
  switch (how) {
    case PromptTemplate::kDolly:
      return pair_of(dolly_prompt(record), record.response);
    case PromptTemplate::kAlpaca:
      return pair_of(alpaca_prompt(record), record.response);
    case PromptTemplate::kChatml:
      return chatml({{"user", request_of(record)}, {"assistant", record.response}});
    default:
      return pair_of(form == RowForm::kPromptCompletion ? record.text : request_of(record) + "\n\n",
                     record.response);
  }
}

std::string render_prompt(const Record& record, RowForm form, PromptTemplate chosen) {
  const std::vector<Piece> pieces = render(record, form, chosen);
  if (form == RowForm::kText) return pieces[0].text;
  const bool is_asked = form == RowForm::kMessages && record.messages.back().role != "assistant";
  size_t end = pieces.size();  // the last answer's piece, which is left out with what follows
  while (!is_asked && end > 0 && !pieces[--end].is_response) {
  }
  std::string prompt;
  for (size_t i = 0; i < end; ++i) prompt += pieces[i].text;
  if (is_asked) prompt += "<|im_start|>assistant\n";
  return prompt;
}

}  // namespace qlora::data
