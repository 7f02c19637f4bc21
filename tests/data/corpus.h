#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace qlora::test {

// Texts that are hard on tokenizers, made by arithmetic alone: the same on every machine. The
// fixtures hold the SHA-256 of the reference libraries' ids for exactly these texts.

/// About `bytes` bytes in texts of up to a few kB: prose, code, Korean, emoji, numbers, odd white
/// space, long words.
std::vector<std::string> make_corpus(size_t bytes, uint64_t seed);

/// Short strings of valid Unicode: all planes, single scripts, marks, white space, and what split
/// patterns and added tokens look for.
std::vector<std::string> make_random_strings(size_t count, uint64_t seed);

/// Hand-picked cases.
std::vector<std::string> tricky_texts();

}  // namespace qlora::test
