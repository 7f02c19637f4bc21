#include "data/normalizer.h"

#include <nlohmann/json.hpp>

#include "data/json_members.h"
#include "data/utf8.h"

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

namespace {

std::optional<NormalForm> find_form(const std::string& name) {
  if (name == "NFC") return NormalForm::kNfc;
  if (name == "NFD") return NormalForm::kNfd;
  if (name == "NFKC") return NormalForm::kNfkc;
  if (name == "NFKD") return NormalForm::kNfkd;
  return std::nullopt;
}

std::string strip_white_space(std::string_view text, bool left, bool right) {
  size_t begin = 0, end = 0;  // `end`: behind the last character that is no white space
  bool seen = false;
  for (size_t at = 0; at < text.size();) {
    const size_t from = at;
    if (is_white_space(next_character(text, at))) continue;
    if (!seen) begin = from;
    seen = true;
    end = at;
  }
  if (!seen) return left || right ? std::string() : std::string(text);
  return std::string(
      text.substr(left ? begin : 0, (right ? end : text.size()) - (left ? begin : 0)));
}

}  // namespace

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
  } else if (const auto form = find_form(type)) {
    steps_.push_back({.kind = Kind::kForm, .form = *form});
  } else if (type == "Lowercase") {
    steps_.push_back({.kind = Kind::kLowercase});
  } else if (type == "Strip") {
    steps_.push_back({.kind = Kind::kStrip,
                      .left = member_bool(description, "strip_left", true, where),
                      .right = member_bool(description, "strip_right", true, where)});
  } else if (type == "Prepend") {
    steps_.push_back({.kind = Kind::kPrepend, .to = member_string(description, "prepend", where)});
  } else if (type == "Replace") {
    auto [literal, regex] = member_pattern(description, where);
    steps_.push_back({.kind = Kind::kReplace,
                      .from = literal,
                      .regex = std::move(regex),
                      .to = member_string(description, "content", where)});
  } else {
    refuse_component("normalizer", type,
                     "NFC, NFD, NFKC, NFKD, Lowercase, Strip, Prepend, Replace, "
                     "Sequence",
                     where);
  }
}

std::string Normalizer::normalize(std::string_view text, bool continues) const {
  std::string out(text);
  for (const Step& step : steps_) {
    if (out.empty()) break;
    switch (step.kind) {
      case Kind::kForm:
        out = qlora::data::normalize(out, step.form);
        break;
      case Kind::kLowercase:
        out = lower_case(out);
        break;
      case Kind::kStrip:
        out = strip_white_space(out, step.left && !continues, step.right);
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
