#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>

#include "data/tokenizer.h"
#include "tests/io/test_files.h"
#include "tests/support/errors.h"
#include "tests/support/temporary_folder.h"

namespace qlora::data {

using io::fixture;
using testing::TemporaryFolder;

inline std::unique_ptr<const Tokenizer> fixture_tokenizer(const std::string& name) {
  return load_tokenizer(fixture("tokenizers/" + name));
}

}  // namespace qlora::data
