#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace qlora::exporter {

/// What a tokenizer.model says that sentencepiece's own interface does not hand out.
struct SentencePieceFacts {
  bool is_bpe = false;
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = true;
  std::vector<int> user_defined;  // ids, rising

  bool is_user_defined(int id) const;
};

/// Reads the wire format of a sentencepiece ModelProto.
///   throws    FormatError where the message is damaged
SentencePieceFacts read_sentencepiece_facts(std::string_view model, const std::string& where);

}  // namespace qlora::exporter
