#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <string>

#include "core/error.h"
#include "io/atomic_file.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::io {

using testing::TemporaryFolder;

/// As testing::message_of, of a message that starts with [io].
template <class Kind, class Action>
std::string message_of(const Action& action) {
  return testing::message_of<Kind>(action, "[io] ");
}

/// As EXPECT_ERROR, of a message that starts with [io].
#define EXPECT_MESSAGE(Kind, action, part) \
  EXPECT_SAYS(::qlora::io::message_of<Kind>([&] { action; }), part)

/// Little-endian bytes of numbers, for files made by hand.
template <class T>
std::string bytes_of(T value) {
  std::string text(sizeof(T), '\0');
  std::memcpy(text.data(), &value, sizeof(T));
  return text;
}

inline std::filesystem::path fixture(const std::string& name) {
  return std::filesystem::path(QLORA_SOURCE_DIR) / "tests" / "fixtures" / name;
}

}  // namespace qlora::io
