#include "data/bpe.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <thread>

#include "data/utf8.h"

namespace qlora::data {
namespace {

/// The rule as it is told: while there is a mergeable pair, merge the leftmost of the lowest rank.
std::vector<int32_t> merge_slowly(const BpeRules& rules, std::vector<int32_t> symbols) {
  std::map<std::pair<int32_t, int32_t>, std::pair<size_t, int32_t>> pairs;
  for (size_t i = 0; i < rules.merges.size(); ++i) {
    pairs[{rules.merges[i].left, rules.merges[i].right}] = {i, rules.merges[i].result};
  }
  while (true) {
    size_t best = symbols.size(), best_rank = SIZE_MAX;
    for (size_t i = 0; i + 1 < symbols.size(); ++i) {
      const auto pair = pairs.find({symbols[i], symbols[i + 1]});
      if (pair != pairs.end() && pair->second.first < best_rank) {
        best_rank = pair->second.first;
        best = i;
      }
    }
    if (best == symbols.size()) return symbols;
    symbols[best] = pairs[{symbols[best], symbols[best + 1]}].second;
    symbols.erase(symbols.begin() + static_cast<int64_t>(best) + 1);
  }
}

/// A random vocabulary over a, b, c with merges in random order.
std::pair<Vocabulary, BpeRules> random_model(std::mt19937_64& random) {
  Vocabulary vocabulary;
  std::vector<std::string> pieces = {"a", "b", "c"};
  BpeRules rules;
  for (size_t i = 0; i < pieces.size(); ++i) vocabulary.add(pieces[i], static_cast<int32_t>(i));
  for (int i = 0; i < 60; ++i) {
    const std::string left = pieces[random() % pieces.size()],
                      right = pieces[random() % pieces.size()];
    if (left.size() + right.size() > 9) continue;
    const auto id = static_cast<int32_t>(pieces.size());
    if (vocabulary.add(left + right, id)) pieces.push_back(left + right);
    rules.merges.push_back(
        {*vocabulary.find(left), *vocabulary.find(right), *vocabulary.find(left + right)});
  }
  std::shuffle(rules.merges.begin(), rules.merges.end(), random);
  return {std::move(vocabulary), std::move(rules)};
}

TEST(Bpe, EqualsTheRuleForWordsOfEveryLength) {
  std::mt19937_64 random(5);
  for (int round = 0; round < 60; ++round) {
    auto [vocabulary, rules] = random_model(random);
    const BpeRules copy = rules;
    const Bpe bpe(std::move(vocabulary), std::move(rules));
    auto encoder = bpe.encoder();
    for (size_t length = 1; length < 130; length += 1 + length / 20) {
      std::string word;
      std::vector<int32_t> symbols;
      for (size_t i = 0; i < length; ++i) {
        symbols.push_back(static_cast<int32_t>(random() % 3));
        word += static_cast<char>('a' + symbols.back());
      }
      const auto expected = merge_slowly(copy, symbols);
      for (int again = 0; again < 2; ++again) {  // the second time out of the cache
        std::vector<int32_t> ids;
        encoder.encode(word, ids);
        ASSERT_EQ(ids, expected) << word;
      }
    }
  }
}

Bpe letters(BpeRules rules, const std::vector<std::string>& pieces) {
  Vocabulary vocabulary;
  for (size_t i = 0; i < pieces.size(); ++i) {
    EXPECT_TRUE(vocabulary.add(pieces[i], static_cast<int32_t>(i)));
  }
  return {std::move(vocabulary), std::move(rules)};
}

std::vector<int32_t> encode(const Bpe& bpe, std::string_view word) {
  std::vector<int32_t> ids;
  bpe.encoder().encode(word, ids);
  return ids;
}

using Ids = std::vector<int32_t>;

TEST(Bpe, UnknownCharacters) {
  const std::vector<std::string> pieces = {"<unk>", "a", "b"};
  EXPECT_EQ(encode(letters({}, pieces), "axxb"), (Ids{1, 2}));  // without unk they vanish
  EXPECT_EQ(encode(letters({.unk = 0}, pieces), "axxb"), (Ids{1, 0, 0, 2}));
  EXPECT_EQ(encode(letters({.fuse_unk = true, .unk = 0}, pieces), "xxaxx"), (Ids{0, 1, 0}));
  const std::vector<std::string> bytes = {"<unk>", "a", "<0xC3>", "<0xA9>"};
  const Bpe fallback = letters({.byte_fallback = true, .fuse_unk = true, .unk = 0}, bytes);
  EXPECT_EQ(encode(fallback, "aéx"), (Ids{1, 2, 3, 0}));
  EXPECT_EQ(encode(fallback, "xéa"), (Ids{2, 3, 0, 1}));  // as the reference: unk waits for a piece
}

TEST(Bpe, IgnoreMergesTakesAWholeWord) {
  EXPECT_EQ(encode(letters({}, {"a", "b", "ab"}), "ab"), (Ids{0, 1}));
  EXPECT_EQ(encode(letters({.ignore_merges = true}, {"a", "b", "ab"}), "ab"), (Ids{2}));
}

TEST(Bpe, ByteLevelWithoutSomeBytes) {
  EXPECT_EQ(encode(letters({.byte_level = true}, {"a", "\u0120"}), "a b"), (Ids{0, 1}));
}

TEST(Bpe, ByteAlphabetIsOneToOne) {
  std::set<char32_t> seen;
  for (int b = 0; b < 256; ++b) {
    const char32_t c = byte_level_character(static_cast<uint8_t>(b));
    EXPECT_TRUE(seen.insert(c).second);
    EXPECT_EQ(byte_level_byte(c), b);
  }
  EXPECT_EQ(byte_level_character(' '), 0x120u);
  EXPECT_EQ(byte_level_byte(' '), std::nullopt);
  EXPECT_EQ(byte_level_byte(0x144), std::nullopt);
}

TEST(Bpe, ManyThreadsAtOnce) {
  std::mt19937_64 random(9);
  auto [vocabulary, rules] = random_model(random);
  const Bpe bpe(std::move(vocabulary), std::move(rules));
  const auto expected = encode(bpe, "abcabcaabbcc");
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 2000; ++i) wrong += encode(bpe, "abcabcaabbcc") != expected;
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

TEST(Vocabulary, FindsWhatWasAdded) {
  Vocabulary vocabulary;
  EXPECT_EQ(vocabulary.find("x"), std::nullopt);
  for (int32_t id = 0; id < 5000; ++id)
    ASSERT_TRUE(vocabulary.add("p" + std::to_string(id), 2 * id));
  EXPECT_FALSE(vocabulary.add("p7", 1));    // the text is taken
  EXPECT_FALSE(vocabulary.add("new", 14));  // the id is taken
  EXPECT_EQ(vocabulary.size(), 9999);
  EXPECT_TRUE(vocabulary.has(14));
  EXPECT_FALSE(vocabulary.has(15) || vocabulary.has(-1) || vocabulary.has(10000));
  EXPECT_EQ(vocabulary.piece(15), "");
  for (int32_t id = 0; id < 5000; ++id) {
    ASSERT_EQ(vocabulary.find("p" + std::to_string(id)), 2 * id);
    ASSERT_EQ(vocabulary.piece(2 * id), "p" + std::to_string(id));
  }
}

}  // namespace
}  // namespace qlora::data
