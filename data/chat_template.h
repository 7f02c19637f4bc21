#pragma once

#include <ctime>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "data/data_options.h"
#include "data/dataset.h"
#include "data/jinja/template.h"
#include "data/tokenizer.h"

namespace qlora::data {

struct Piece;

/// The chat template of a checkpoint: conversations as the model was taught to read them.
///   Equality   byte for byte transformers' apply_chat_template: messages without their members
///   that
///              are null, reasoning under its three names, tools, documents (none), the special
///              tokens' texts, and chat_template_kwargs, which count more than these
///   Learnt     what stands in {% generation %} blocks; where the template has none, what an
///              assistant's turn adds to the rendering of the turns before it
///   Threads    const functions may run in several threads at once
class ChatTemplate {
 public:
  /// throws   ConfigError where the tokenizer has no template and none is given, or for options
  /// that
  ///          cannot be read; FormatError for a template that is not supported (see
  ///          jinja::Template)
  ChatTemplate(const Tokenizer& tokenizer, const ChatTemplateOptions& options);

  /// The conversation in pieces, given or learnt.
  ///   throws   ValueError where the template refuses, and where it has no generation blocks and a
  ///            turn's rendering is no continuation of what stands before it
  std::vector<Piece> render(const std::vector<Message>& messages, const jinja::Value& tools) const;

  /// The conversation as one text.
  std::string text(const std::vector<Message>& messages, const jinja::Value& tools) const;

  /// The text that a model is given to answer the last message.
  std::string prompt(const std::vector<Message>& messages, const jinja::Value& tools) const;

  const std::string& source() const { return source_; }  // of the default template

 private:
  struct Turns;
  Turns prepare(const std::vector<Message>& messages, const jinja::Value& tools) const;
  jinja::Template::Rendering run(const Turns& turns, size_t count, bool adds_prompt) const;
  std::vector<jinja::OutputSpan> find_responses(const Turns& turns, const std::string& whole) const;
  size_t end_of_response(const Turns& turns, size_t turn, size_t begin,
                         const std::string& whole) const;

  std::string source_;
  std::optional<jinja::Template> default_, tool_use_;
  std::vector<std::pair<std::string, jinja::Value>> variables_;
  std::vector<std::string> special_texts_;  // of the tokenizer: what a turn may end with
  std::time_t now_ = 0;
};

}  // namespace qlora::data
