#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <cstring>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "core/error.h"
#include "io/atomic_file.h"

namespace qlora::io {

/// A folder of its own, removed at the end.
class TestFolder {
 public:
  TestFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "qlora-io-XXXXXX").string();
    if (::mkdtemp(name.data()) == nullptr) throw IoError("no temporary folder");
    path_ = name;
  }
  ~TestFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TestFolder(const TestFolder&) = delete;
  TestFolder& operator=(const TestFolder&) = delete;

  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path operator/(const std::string& name) const { return path_ / name; }

  /// Writes a file without ceremony.
  std::filesystem::path put(const std::string& name, const std::string& content) const {
    std::filesystem::create_directories((path_ / name).parent_path());
    std::filesystem::remove(
        path_ / name);  // a file written anew is not flushed on close, as a truncated one
    std::FILE* file = std::fopen((path_ / name).c_str(), "wb");
    std::fwrite(content.data(), 1, content.size(), file);
    std::fclose(file);
    return path_ / name;
  }

  /// Names of all entries, hidden ones too.
  std::vector<std::string> entries() const {
    std::vector<std::string> names;
    for (const auto& item : std::filesystem::directory_iterator(path_)) {
      names.push_back(item.path().filename().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  std::filesystem::path path_;
};

/// Runs `action`, which has to throw exactly Kind, and gives the message: one line that starts with
/// [io].
template <class Kind, class Action>
std::string message_of(const Action& action) {
  try {
    action();
  } catch (const Kind& error) {
    const std::string text = error.what();
    EXPECT_EQ(typeid(error), typeid(Kind)) << text;
    EXPECT_TRUE(text.starts_with("[io] ")) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos) << text;
    return text;
  } catch (const std::exception& error) {
    ADD_FAILURE() << "another kind of error: " << error.what();
    return {};
  }
  ADD_FAILURE() << "no error";
  return {};
}

/// The message of `action` has to hold `part`.
#define EXPECT_MESSAGE(Kind, action, part)                                    \
  do {                                                                        \
    const std::string text_ = ::qlora::io::message_of<Kind>([&] { action; }); \
    EXPECT_NE(text_.find(part), std::string::npos) << text_;                  \
  } while (false)

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
