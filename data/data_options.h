#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "core/constraint.h"

namespace qlora::data {

enum class RowForm { kAuto, kText, kPromptCompletion, kAlpaca, kDolly, kMessages, kShareGpt };
enum class PromptTemplate { kAuto, kNone, kDolly, kAlpaca, kChatml, kChat };
enum class LossOn { kResponse, kAll };
enum class Overlong { kTruncate, kDrop, kError };

/// How to read the rows of a file: their form, and the names of their fields.
struct DatasetOptions {
  RowForm form = RowForm::kAuto;
  std::string text_field = "text";
  std::string prompt_field = "prompt";
  std::string completion_field = "completion";
  std::string instruction_field = "instruction";
  std::string input_field = "";     // empty: "input" (alpaca) or "context" (dolly)
  std::string response_field = "";  // empty: "output" (alpaca) or "response" (dolly)
  std::string messages_field = "messages";
  std::string conversations_field = "conversations";
  std::string tools_field = "tools";
};

/// Pre-tokenised input: tensors of ids [rows, L] in one safetensors file.
struct TokenFileOptions {
  std::string file;
  std::string train = "train";
  std::string eval;  // empty: none
};

/// The Jinja template of a checkpoint, and what it is rendered with.
struct ChatTemplateOptions {
  std::string chat_template_path;    // empty: the tokenizer's own
  std::string chat_template_kwargs;  // a JSON object; empty: none
  std::string chat_template_date;    // YYYY-MM-DD; empty: today
};

/// What no single key's type and range show.
///   throws    ConfigError where chat_template_kwargs is no JSON object, or names what the row or
///             the program sets, and where chat_template_date is no day
void check_options(const ChatTemplateOptions& options);

/// From rows to token ids.
struct ExampleOptions {
  PromptTemplate prompt_template = PromptTemplate::kAuto;
  ChatTemplateOptions chat;
  LossOn loss_on = LossOn::kResponse;
  int64_t max_length = 1024;
  Overlong overlong = Overlong::kTruncate;
  bool append_eos = true;
};

/// From examples to optimizer steps. Not part of section `data`: the trainer's options hold it.
struct BatchOptions {
  int64_t per_device_train_batch_size = 4;
  int64_t gradient_accumulation_steps = 1;
  bool packing = false;
  bool shuffle = true;
};

/// Section `data`: what is trained on.
struct DataOptions {
  std::string dataset_name;
  std::string eval_dataset_name;
  double validation_split = 0.0;
  int64_t max_samples = 0;
  DatasetOptions dataset;
  ExampleOptions example;
  TokenFileOptions tokens;
};

template <class V>
void fields(V& v, DatasetOptions& o) {
  v("dataset_format", o.form, any_value(),
    "form of the rows; auto: by the fields of the first row");
  v("dataset_text_field", o.text_field, non_empty(), "field of the form text");
  v("prompt_field", o.prompt_field, non_empty(), "field of the form prompt_completion");
  v("completion_field", o.completion_field, non_empty(), "field of the form prompt_completion");
  v("instruction_field", o.instruction_field, non_empty(), "field of the forms alpaca and dolly");
  v("input_field", o.input_field, any_value(), "empty: input (alpaca), context (dolly)");
  v("response_field", o.response_field, any_value(), "empty: output (alpaca), response (dolly)");
  v("messages_field", o.messages_field, non_empty(), "field of the form messages");
  v("conversations_field", o.conversations_field, non_empty(), "field of the form sharegpt");
  v("tools_field", o.tools_field, non_empty(),
    "field with the tools of a conversation: a list, or its text as JSON");
}

template <class V>
void fields(V& v, TokenFileOptions& o) {
  v("file", o.file, any_value(), "safetensors file with token ids instead of texts");
  v("train", o.train, non_empty(), "tensor [rows, L] of int32 or int64: one example a row");
  v("eval", o.eval, any_value(), "tensor for the evaluation; empty: none");
}

template <class V>
void fields(V& v, ChatTemplateOptions& o) {
  v("chat_template_path", o.chat_template_path, any_value(),
    "Jinja file for prompt_template chat; empty: the template of the checkpoint");
  v("chat_template_kwargs", o.chat_template_kwargs, any_value(),
    "further variables of the chat template: a text that is a JSON object, e.g. "
    "{\"enable_thinking\": false}");
  v("chat_template_date", o.chat_template_date, any_value(),
    "YYYY-MM-DD that the chat template takes for today; empty: the day of the run");
}

template <class V>
void fields(V& v, ExampleOptions& o) {
  v("prompt_template", o.prompt_template, any_value(),
    "how a row becomes text; chat: the checkpoint's chat template; auto: the template named like "
    "the form, for messages chat where the checkpoint has one, else chatml");
  v.inline_section(o.chat);
  v("loss_on", o.loss_on, any_value(), "tokens that are learnt: those of the response, or all");
  v("max_length", o.max_length, in_range(2, 1 << 24), "longest example, or packed row, in tokens");
  v("overlong", o.overlong, any_value(), "longer examples: truncate, drop, or error");
  v("append_eos", o.append_eos, any_value(), "end every example with the eos token, and learn it");
}

template <class V>
void fields(V& v, BatchOptions& o) {
  v("per_device_train_batch_size", o.per_device_train_batch_size, in_range(1, 1 << 20),
    "examples (with packing: packed rows) in a micro-batch");
  v("gradient_accumulation_steps", o.gradient_accumulation_steps, in_range(1, 1 << 20),
    "micro-batches in an optimizer step");
  v("packing", o.packing, any_value(), "fill rows of max_length with several examples, kept apart");
  v("shuffle", o.shuffle, any_value(), "a new order in every epoch; false: the order of the file");
}

template <class V>
void fields(V& v, DataOptions& o) {
  v("dataset_name", o.dataset_name, any_value(), "training file: .jsonl, .json or .csv");
  v("eval_dataset_name", o.eval_dataset_name, any_value(), "file to evaluate on; empty: none");
  v("validation_split", o.validation_split, non_negative(),
    "without an evaluation file: fraction (below 1) or number of rows to hold out");
  v("max_samples", o.max_samples, non_negative(), "use the first rows only; 0: all");
  v.inline_section(o.dataset);
  v.inline_section(o.example);
  v.section("tokens", o.tokens, "token ids made elsewhere, instead of dataset_name");
  v.alias("train_file", "dataset_name");
  v.alias("validation_file", "eval_dataset_name");
  v.alias("max_seq_length", "max_length");
}

}  // namespace qlora::data

template <>
struct qlora::EnumNames<qlora::data::RowForm> {
  using E = qlora::data::RowForm;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"},        {E::kText, "text"},   {E::kPromptCompletion, "prompt_completion"},
      {E::kAlpaca, "alpaca"},    {E::kDolly, "dolly"}, {E::kMessages, "messages"},
      {E::kShareGpt, "sharegpt"}};
};
template <>
struct qlora::EnumNames<qlora::data::PromptTemplate> {
  using E = qlora::data::PromptTemplate;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kAuto, "auto"},     {E::kNone, "none"},     {E::kDolly, "dolly"},
      {E::kAlpaca, "alpaca"}, {E::kChatml, "chatml"}, {E::kChat, "chat"}};
};
template <>
struct qlora::EnumNames<qlora::data::LossOn> {
  using E = qlora::data::LossOn;
  static constexpr std::pair<E, const char*> kNames[] = {{E::kResponse, "response"},
                                                         {E::kAll, "all"}};
};
template <>
struct qlora::EnumNames<qlora::data::Overlong> {
  using E = qlora::data::Overlong;
  static constexpr std::pair<E, const char*> kNames[] = {
      {E::kTruncate, "truncate"}, {E::kDrop, "drop"}, {E::kError, "error"}};
};
