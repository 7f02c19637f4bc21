#pragma once

#include <optional>
#include <string>
#include <vector>

#include "data/chat_template.h"
#include "data/data_options.h"
#include "data/dataset.h"

namespace qlora::data {

/// A stretch of a rendered example: given to the model, or expected from it.
struct Piece {
  std::string text;
  bool is_response = false;
  bool operator==(const Piece&) const = default;
};

/// The template that kAuto stands for with this form.
///   has_chat_template  the tokenizer has one of its own, or the options name one
PromptTemplate resolve_template(PromptTemplate chosen, RowForm form, bool has_chat_template);

/// Renders rows of one form: their pieces, joined, are the full text. An eos token that the
/// template does not spell is not part of it.
///   dolly     "### Instruction:\n…\n\n### Input:\n…\n\n### Response:\n…", the Input block also
///             where the context is empty
///   alpaca    the form published by Stanford, with preamble; no Input block where input is empty
///   chatml    <|im_start|>role\n…<|im_end|>\n for each message; every assistant turn, with its
///             <|im_end|>, is response. Other forms become one user and one assistant turn
///   chat      the chat template of the checkpoint (ChatTemplate); other forms as with chatml
///   none      the text, or prompt and response, as they are; of instruction forms the instruction,
///             the input where not empty, and the response, with blank lines between
class RowRenderer {
 public:
  /// file     that the rows come from, for messages; empty: they name the line alone
  /// throws   ConfigError where form and template do not fit (text with a template; messages
  ///          without), and as ChatTemplate
  RowRenderer(RowForm form, const ExampleOptions& options, const Tokenizer& tokenizer,
              std::string file = {});

  /// throws   ValueError, with the row's file and line, where the chat template refuses it, and for
  ///          a role other than system, user, assistant and tool that the template leaves out
  std::vector<Piece> render(const Record& record) const;
  std::string text(const Record& record) const;  // all of it; nothing is told apart
  /// The same row up to where the model's answer begins: what `generate` is given. Of a
  /// conversation that ends with an answer, up to that one; of another, all of it.
  std::string prompt(const Record& record) const;

  /// The text spells every special token, bos too: the tokenizer adds none.
  bool is_chat() const { return chat_.has_value(); }
  std::string where(const Record& record) const;  // "rows.jsonl:7", "line 7": for messages

 private:
  std::vector<Piece> render_plain(const Record& record) const;
  std::vector<Message> messages_of(const Record& record) const;
  template <class Render>
  auto with_line(const Record& record, const Render& render) const;
  void check_roles(const Record& record, const std::vector<Piece>& pieces) const;

  std::string file_;
  RowForm form_;
  PromptTemplate how_;
  std::optional<ChatTemplate> chat_;
};

}  // namespace qlora::data
