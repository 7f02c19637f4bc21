#pragma once

#include <gtest/gtest.h>

#include <exception>
#include <string>
#include <string_view>
#include <type_traits>
#include <typeinfo>

#include "core/error.h"

namespace qlora::testing {

/// The message of the error that `call` throws, empty where it throws none.
///   Kind      exactly that of the error; Error stands for any kind
///   where     how the message starts; and it has to be one line
template <class Kind, class Call>
std::string refusal_of(const Call& call, std::string_view where = "[") {
  try {
    call();
  } catch (const Error& error) {
    const std::string text = error.what();
    if constexpr (!std::is_same_v<Kind, Error>) {
      EXPECT_EQ(typeid(error), typeid(Kind)) << text;
    }
    EXPECT_TRUE(text.starts_with(where)) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return error.what();
  }
  return {};
}

/// As refusal_of, where `call` has to throw.
template <class Kind, class Call>
std::string message_of(const Call& call, std::string_view where = "[") {
  const std::string text = refusal_of<Kind>(call, where);
  EXPECT_FALSE(text.empty()) << "no error";
  return text;
}

/// Whether `text` holds `part`; where not, both are shown.
inline ::testing::AssertionResult says(std::string_view text, std::string_view part) {
  if (text.find(part) != std::string_view::npos) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure() << "\"" << part << "\" is not in: " << text;
}

}  // namespace qlora::testing

#define EXPECT_SAYS(text, part) EXPECT_TRUE(::qlora::testing::says(text, part))

/// `action` has to throw exactly Kind, and the message to hold `part`.
#define EXPECT_ERROR(Kind, action, part) \
  EXPECT_SAYS(::qlora::testing::message_of<Kind>([&] { action; }), part)
