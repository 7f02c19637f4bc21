#include "data/bpe.h"

#include <fmt/format.h>
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

void add_merge(const std::string& left, const std::string& right, std::vector<std::string>& pieces,
               Vocabulary& vocabulary, BpeRules& rules) {
  const auto id = static_cast<int32_t>(pieces.size());
  if (vocabulary.add(left + right, id)) pieces.push_back(left + right);
  rules.merges.push_back(
      {*vocabulary.find(left), *vocabulary.find(right), *vocabulary.find(left + right)});
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
    add_merge(left, right, pieces, vocabulary, rules);
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

/// What a word begins with, as it is told: a symbol for each character; without a piece its bytes,
/// else unk, which waits for the next piece.
std::vector<int32_t> symbols_of(const Vocabulary& vocabulary, const BpeRules& rules,
                                std::string_view word) {
  std::vector<int32_t> symbols;
  bool waits = false;
  for (size_t at = 0; at < word.size();) {
    const auto character = word.substr(at, character_bytes(word[at]));
    at += character.size();
    std::vector<int32_t> bytes;
    for (const char c : character) {
      const auto id = vocabulary.find(fmt::format("<0x{:02X}>", static_cast<uint8_t>(c)));
      if (id) bytes.push_back(*id);
    }
    if (const auto id = vocabulary.find(character)) {
      if (waits) symbols.push_back(*rules.unk);
      waits = false;
      symbols.push_back(*id);
    } else if (rules.byte_fallback && bytes.size() == character.size()) {
      symbols.insert(symbols.end(), bytes.begin(), bytes.end());
    } else if (rules.unk) {
      if (waits && !rules.fuse_unk) symbols.push_back(*rules.unk);
      waits = true;
    }
  }
  if (waits) symbols.push_back(*rules.unk);
  return symbols;
}

/// Merges that join few of the characters, so that words are cut; `odd` ones join a byte's
/// spelling.
std::pair<Vocabulary, BpeRules> sparse_model(std::mt19937_64& random, bool is_odd) {
  Vocabulary vocabulary;
  std::vector<std::string> pieces = {"<unk>", "<0xC3>", "<0xA9>", "a", "b",         "c",
                                     "d",     "\u2581", "é",      "e", "\U0001F600"};
  if (random() % 2) pieces[8] = "f";  // é becomes its bytes, or unk
  for (size_t i = 0; i < pieces.size(); ++i) vocabulary.add(pieces[i], static_cast<int32_t>(i));
  BpeRules rules{.byte_fallback = random() % 2 == 0, .fuse_unk = random() % 2 == 0};
  if (random() % 4) rules.unk = 0;
  const size_t lowest = is_odd ? 0 : 3;
  for (int i = 0; i < 14; ++i) {
    const std::string left = pieces[lowest + random() % (pieces.size() - lowest)],
                      right = pieces[lowest + random() % (pieces.size() - lowest)];
    add_merge(left, right, pieces, vocabulary, rules);
  }
  std::shuffle(rules.merges.begin(), rules.merges.end(), random);
  return {std::move(vocabulary), std::move(rules)};
}

TEST(Bpe, CutWordsGetTheIdsOfTheWhole) {
  std::mt19937_64 random(17);
  const std::vector<std::string> characters = {"a", "b", "c", "d",          "\u2581", "\u2581",
                                               "é", "e", "x", "\U0001F600", "\u4e00", "<0xC3>"};
  int64_t cut = 0, whole = 0;
  for (int round = 0; round < 400; ++round) {
    auto [vocabulary, rules] = sparse_model(random, round % 4 == 0);
    const BpeRules copy = rules;
    const Bpe bpe(std::move(vocabulary), std::move(rules));
    const BpeSeams seams(bpe.vocabulary(), CharacterIds(bpe.vocabulary()), copy);
    const bool cuts = copy.unk && seams.is_usable() && seams.may_cut(3, 6);
    (cuts ? cut : whole) += 1;
    auto encoder = bpe.encoder();
    for (size_t length = 1; length < 150; length += 1 + length / 10) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word += characters[random() % characters.size()];
      std::vector<int32_t> ids;
      encoder.encode(word, ids);
      ASSERT_EQ(ids, merge_slowly(copy, symbols_of(bpe.vocabulary(), copy, word))) << word;
    }
  }
  EXPECT_GT(cut, 100);
  EXPECT_GT(whole, 100);
}

TEST(BpeSeams, AreWhereNoMergeCrosses) {
  Vocabulary vocabulary;
  const std::vector<std::string> pieces = {"a", "b", "c", "ab", "abc", "<0x41>", "\U0001F600"};
  for (size_t i = 0; i < pieces.size(); ++i) vocabulary.add(pieces[i], static_cast<int32_t>(i));
  const CharacterIds characters(vocabulary);
  EXPECT_EQ(characters.find('c'), 2);
  EXPECT_EQ(characters.find('d'), -1);
  EXPECT_EQ(characters.find(U'\U0001F600'), 6);
  EXPECT_EQ(characters.find(U'\U0001F601'), -1);
  BpeRules rules{.merges = {{0, 1, 3}, {3, 2, 4}}};
  const BpeSeams seams(vocabulary, characters, rules);
  ASSERT_TRUE(seams.is_usable());
  EXPECT_FALSE(seams.may_cut(0, 1));
  EXPECT_FALSE(seams.may_cut(1, 2));
  EXPECT_TRUE(seams.may_cut(1, 0) && seams.may_cut(0, 2) && seams.may_cut(2, 2));
  rules.ignore_merges = true;
  EXPECT_FALSE(BpeSeams(vocabulary, characters, rules).is_usable());
  rules = {.merges = {{5, 0, 3}}, .byte_fallback = true};
  EXPECT_FALSE(BpeSeams(vocabulary, characters, rules).is_usable());
  rules.byte_fallback = false;  // a text like any other
  EXPECT_TRUE(BpeSeams(vocabulary, characters, rules).is_usable());
  rules.unk = 5;
  EXPECT_FALSE(BpeSeams(vocabulary, characters, rules).is_usable());
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
