#pragma once

#include <string>
#include <vector>

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
PromptTemplate resolve_template(PromptTemplate chosen, RowForm form);

/// Renders a row: its pieces, joined, are the full text. The eos token is not part of it.
///   dolly     "### Instruction:\n…\n\n### Input:\n…\n\n### Response:\n…", the Input block also
///   where
///             the context is empty
///   alpaca    the form published by Stanford, with preamble; no Input block where input is empty
///   chatml    <|im_start|>role\n…<|im_end|>\n for each message; every assistant turn, with its
///             <|im_end|>, is response. Other forms become one user and one assistant turn
///   none      the text, or prompt and response, as they are; of instruction forms the instruction,
///             the input where not empty, and the response, with blank lines between
///   throws    ConfigError where form and template do not fit (text with a template; messages
///             without)
std::vector<Piece> render(const Record& record, RowForm form, PromptTemplate chosen);

/// The same row up to where the model's answer begins: what `generate` is given. Of a conversation
/// that ends with an answer, up to that one; of another, all of it.
std::string render_prompt(const Record& record, RowForm form, PromptTemplate chosen);

}  // namespace qlora::data
