#include "data/normalizer.h"

#include <nlohmann/json.hpp>

#include "data/json_members.h"
#include "data/unicode.h"

namespace qlora::data {

std::string replace_all(std::string_view text, std::string_view from, std::string_view to) {
  std::string out;
  size_t done = 0;
  if (!from.empty()) {
    for (size_t at; (at = text.find(from, done)) != std::string_view::npos;
         done = at + from.size()) {
      out.append(text.substr(done, at - done));
      out.append(to);
    }
  }
  out.append(text.substr(done));
  return out;
}

std::string replace_all(std::string_view text, const Regex& from, std::string_view to) {
  std::string out;
  size_t done = 0;
  Regex::Match match;
  while (done < text.size() && from.find(text, done, match)) {
    out.append(text.substr(done, match.begin - done));
    out.append(to);
    done = match.end;
  }
  out.append(text.substr(done));
  return out;
}

Normalizer::Normalizer(const nlohmann::json& description, const std::string& where) {
  add(description, where, 0);
}

void Normalizer::add(const nlohmann::json& description, const std::string& where, int depth) {
  if (description.is_null()) return;
  const std::string type = component_type(description, where, "normalizer", depth);
  if (type == "Sequence") {
    for (const auto& part : member_array(description, "normalizers", where)) {
      add(part, where, depth + 1);
    }
  } else if (type == "NFC") {
    steps_.push_back({Kind::kNfc, {}, {}, {}});
  } else if (type == "Prepend") {
    steps_.push_back({Kind::kPrepend, {}, {}, member_string(description, "prepend", where)});
  } else if (type == "Replace") {
    auto [literal, regex] = member_pattern(description, where);
    steps_.push_back(
        {Kind::kReplace, literal, std::move(regex), member_string(description, "content", where)});
  } else {
    refuse_component("normalizer", type, "NFC, Prepend, Replace, Sequence", where);
  }
}

std::string Normalizer::normalize(std::string_view text, bool continues) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (out.empty()) break;
    switch (step.kind) {
      case Kind::kNfc:
        out = normalize_nfc(out);
        break;
      case Kind::kPrepend:
        if (!continues) out.insert(0, step.to);
        break;
      case Kind::kReplace:
        out = step.regex ? replace_all(out, *step.regex, step.to)
                         : replace_all(out, step.from, step.to);
        break;
    }
  }
  return out;
}

}  // namespace qlora::data
