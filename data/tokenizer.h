#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qlora::data {

struct EncodeOptions {
  bool add_special = true;    // bos and eos where the tokenizer's own rule puts them
  bool parse_special = true;  // special tokens spelt out in the text become their one id
  bool continues = false;     // the text goes on from an earlier piece: no prefix space
};

/// Ids of the tokens with a role; empty where the tokenizer has none.
struct SpecialIds {
  std::optional<int32_t> bos, eos, pad, unk;
};

/// A chat template of a tokenizer: most have one, some a second, "tool_use", for rows with tools.
struct NamedTemplate {
  std::string name, text;
  bool operator==(const NamedTemplate&) const = default;
};

/// Text to token ids and back.
///   Input     any bytes: what is not UTF-8 counts as U+FFFD, one per maximal subpart (WHATWG, and
///             Python's errors="replace")
///   Equality  token for token what the reference libraries give (tokenizers, sentencepiece)
///   Threads   const functions may run in several threads at once
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const;
  /// Text of the ids; special tokens are left out unless `keep_special`.
  ///   throws  ValueError for an id outside [0, vocab_size)
  std::string decode(std::span<const int32_t> ids, bool keep_special = false) const;

  virtual int32_t vocab_size() const = 0;  // largest id + 1, added tokens counted
  virtual std::string id_to_piece(
      int32_t id) const = 0;  // as the vocabulary spells it, e.g. "Ġthe"
  virtual std::optional<int32_t> piece_to_id(std::string_view piece) const = 0;
  virtual bool is_special(int32_t id) const = 0;
  virtual std::string kind() const = 0;  // for people: "byte-level BPE", "sentencepiece unigram" …

  const SpecialIds& special() const { return special_; }
  bool add_bos() const { return add_bos_; }  // encode() with add_special puts bos first
  bool add_eos() const { return add_eos_; }
  /// Raw Jinja text of the chat template named "default"; empty where the files hold none.
  const std::string& chat_template() const;
  /// All chat templates, the default one first.
  const std::vector<NamedTemplate>& chat_templates() const { return chat_templates_; }

 protected:
  /// `text` is valid UTF-8.
  virtual void encode_valid(std::string_view text, const EncodeOptions& options,
                            std::vector<int32_t>& ids) const = 0;
  /// Every id is inside the vocabulary; an incomplete character at the end may come as U+FFFD.
  virtual std::string decode_valid(std::span<const int32_t> ids, bool keep_special) const = 0;

  SpecialIds special_;
  bool add_bos_ = false;
  bool add_eos_ = false;
  std::vector<NamedTemplate> chat_templates_;
};

/// Turns ids into text one at a time, as `generate` prints them.
///   A character whose bytes are spread over several tokens appears when it is complete.
///   The pieces, with finish(), joined, equal decode() of all ids.
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool keep_special = false);
  std::string push(int32_t id);  // the text that became certain, often empty
  std::string finish();          // what was held back; starts anew afterwards

 private:
  const Tokenizer& tokenizer_;
  bool keep_special_;
  std::vector<int32_t> window_;  // the last tokens shown, then those held back
  size_t shown_ids_ = 0;         // how many of window_ were shown
  std::string shown_text_;       // their text
};

/// Loads the tokenizer of a model.
///   path      a Hugging Face folder (tokenizer.json, else tokenizer.model; tokenizer_config.json
///             and special_tokens_map.json where present), one of these files, or a .gguf file
///   throws    IoError if nothing is there; FormatError if a file is damaged or of an unknown kind
///             (the message lists what is known)
std::unique_ptr<const Tokenizer> load_tokenizer(const std::filesystem::path& path);

/// Writes the tokenizer of `source` (as in load_tokenizer) into a folder in Hugging Face's form.
///   A folder's files are copied; a GGUF file's become tokenizer.json and tokenizer_config.json.
///   templates  take the place of the source's chat templates, in tokenizer_config.json and in
///   files
///              of their own; empty: the source's are kept as they stand
///   returns    the names of the files written
std::vector<std::string> save_tokenizer_files(const std::filesystem::path& source,
                                              const std::filesystem::path& folder,
                                              const std::vector<NamedTemplate>& templates = {});

}  // namespace qlora::data
