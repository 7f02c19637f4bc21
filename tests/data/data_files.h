#pragma once

#include <gtest/gtest.h>

#include <string>

#include "data/tokenizer.h"
#include "tests/io/test_files.h"

namespace qlora::data {

using io::fixture;
using io::TestFolder;

/// The message of the error of exactly this Kind that `action` throws: one line with its place.
template <class Kind, class Action>
std::string error_of(const Action& action) {
  try {
    action();
  } catch (const Error& error) {
    const std::string text = error.what();
    EXPECT_EQ(typeid(error), typeid(Kind)) << text;
    EXPECT_TRUE(text.starts_with("[")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

#define EXPECT_ERROR(Kind, action, part)                                      \
  do {                                                                        \
    const std::string text_ = ::qlora::data::error_of<Kind>([&] { action; }); \
    EXPECT_NE(text_.find(part), std::string::npos) << text_;                  \
  } while (false)

inline std::unique_ptr<const Tokenizer> fixture_tokenizer(const std::string& name) {
  return load_tokenizer(fixture("tokenizers/" + name));
}

}  // namespace qlora::data
