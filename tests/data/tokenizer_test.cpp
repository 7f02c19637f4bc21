#include "data/tokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "data/utf8.h"
#include "tests/data/corpus.h"
#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

constexpr const char* kNames[] = {"gpt2",   "gpt2_prefix_space", "smollm", "llama3",    "qwen2",
                                  "llama2", "metaspace",         "sp_bpe", "sp_unigram"};

using Ids = std::vector<int32_t>;

Ids joined(std::initializer_list<Ids> parts) {
  Ids all;
  for (const Ids& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

TEST(Tokenizer, InvalidUtf8GivesTheIdsOfItsReplacement) {
  std::mt19937_64 random(1);
  for (const char* name : kNames) {
    const auto tokenizer = fixture_tokenizer(name);
    for (int i = 0; i < 2000; ++i) {
      std::string bytes;
      for (uint64_t n = random() % 40; n > 0; --n) {
        bytes += static_cast<char>(random() % 3 ? random() : 'a' + random() % 26);
      }
      ASSERT_EQ(tokenizer->encode(bytes), tokenizer->encode(replace_invalid_utf8(bytes))) << name;
    }
    EXPECT_EQ(tokenizer->encode("a\xFF"), tokenizer->encode("a\uFFFD"));
  }
}

TEST(Tokenizer, SpecialTokensOnRequest) {
  const auto tokenizer = fixture_tokenizer("llama3");
  const int32_t bos = *tokenizer->special().bos, eot = *tokenizer->special().eos;
  EXPECT_TRUE(tokenizer->add_bos());
  EXPECT_FALSE(tokenizer->add_eos());
  const Ids plain = tokenizer->encode("hi", {.add_special = false});
  EXPECT_EQ(tokenizer->encode("hi"), joined({{bos}, plain}));
  EXPECT_EQ(tokenizer->encode("hi<|eot_id|>", {.add_special = false}), joined({plain, {eot}}));
  const Ids spelt = tokenizer->encode("<|eot_id|>", {.add_special = false, .parse_special = false});
  EXPECT_GT(spelt.size(), 1u);
  EXPECT_EQ(tokenizer->decode(spelt), "<|eot_id|>");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("hi<|eot_id|>")), "hi");
  EXPECT_EQ(tokenizer->decode(tokenizer->encode("hi<|eot_id|>"), true),
            "<|begin_of_text|>hi<|eot_id|>");
}

TEST(Tokenizer, Facts) {
  const auto tokenizer = fixture_tokenizer("llama3");
  EXPECT_EQ(tokenizer->vocab_size(), 2200);
  EXPECT_EQ(tokenizer->kind(), "byte-level BPE");
  EXPECT_EQ(tokenizer->chat_template(), "{{ bos_token }}");
  EXPECT_EQ(tokenizer->special().pad, std::nullopt);
  EXPECT_EQ(tokenizer->special().unk, std::nullopt);
  EXPECT_TRUE(tokenizer->is_special(*tokenizer->special().bos));
  EXPECT_FALSE(tokenizer->is_special(300));
  EXPECT_EQ(tokenizer->piece_to_id("<|eot_id|>"), tokenizer->special().eos);
  EXPECT_EQ(tokenizer->piece_to_id("no such piece"), std::nullopt);
  EXPECT_EQ(fixture_tokenizer("llama2")->kind(), "BPE");
  const auto sp = fixture_tokenizer("sp_bpe");
  EXPECT_EQ(sp->kind(), "sentencepiece");
  EXPECT_EQ(sp->vocab_size(), 1502);
  EXPECT_EQ(sp->id_to_piece(1501), "<|im_end|>");
  EXPECT_EQ(sp->id_to_piece(1), "<s>");
  EXPECT_EQ(sp->piece_to_id("<|im_start|>"), 1500);
  EXPECT_EQ(sp->piece_to_id("no such piece"), std::nullopt);
  EXPECT_TRUE(sp->add_bos());
  EXPECT_TRUE(sp->is_special(1500) && sp->is_special(2) && !sp->is_special(700));
}

TEST(Tokenizer, EveryIdHasAPieceAndThePieceTheId) {
  for (const char* name : kNames) {
    const auto tokenizer = fixture_tokenizer(name);
    for (int32_t id = 0; id < tokenizer->vocab_size(); ++id) {
      ASSERT_EQ(tokenizer->piece_to_id(tokenizer->id_to_piece(id)), id) << name;
      tokenizer->decode(std::span(&id, 1));
    }
    const int32_t outside[] = {-1, tokenizer->vocab_size()};
    for (const int32_t& id : outside) {
      EXPECT_ERROR(ValueError, tokenizer->decode(std::span(&id, 1)), "outside the vocabulary");
    }
  }
}

TEST(Tokenizer, TextThatContinuesHasNoPrefixSpace) {
  for (const char* name : {"llama2", "metaspace", "gpt2_prefix_space", "sp_bpe", "sp_unigram"}) {
    const auto tokenizer = fixture_tokenizer(name);
    const EncodeOptions start{.add_special = false}, on{.add_special = false, .continues = true};
    EXPECT_NE(tokenizer->encode("token", start), tokenizer->encode("token", on)) << name;
    const Ids both = joined({tokenizer->encode("the", start), tokenizer->encode(" token", on)});
    EXPECT_EQ(both, tokenizer->encode("the token", start)) << name;
  }
  const auto tokenizer = fixture_tokenizer("gpt2");
  EXPECT_EQ(tokenizer->encode("token"), tokenizer->encode("token", {.continues = true}));
}

TEST(Tokenizer, DecodeUndoesEncode) {
  for (const char* name : {"gpt2", "smollm", "llama3", "llama2", "sp_bpe"}) {
    const auto tokenizer = fixture_tokenizer(name);
    for (const std::string& text : test::make_random_strings(4000, 21)) {
      const auto ids = tokenizer->encode(text, {.add_special = false, .parse_special = false});
      // U+2581 is the spelling of a space where the model is sentencepiece's.
      if (text.find("\u2581") == std::string::npos) {
        ASSERT_EQ(tokenizer->decode(ids, true), text) << name;
      }
    }
  }
}

TEST(StreamDecoder, PiecesJoinedAreTheText) {
  for (const char* name : kNames) {
    const auto tokenizer = fixture_tokenizer(name);
    StreamDecoder decoder(*tokenizer, true);
    for (const std::string& text : test::make_random_strings(1500, 33)) {
      const auto ids = tokenizer->encode(text);
      std::string shown;
      for (const int32_t id : ids) {
        const std::string fresh = decoder.push(id);
        ASSERT_EQ(valid_utf8_prefix(fresh), fresh.size());
        shown += fresh;
      }
      shown += decoder.finish();
      ASSERT_EQ(shown, tokenizer->decode(ids, true)) << name << " " << text;
    }
  }
}

TEST(StreamDecoder, HoldsBackHalfACharacter) {
  const auto tokenizer = fixture_tokenizer("gpt2");
  const auto ids = tokenizer->encode("\U0001F6F8!");  // not in the vocabulary: several tokens
  ASSERT_GT(ids.size(), 3u);
  StreamDecoder decoder(*tokenizer);
  for (size_t i = 0; i + 2 < ids.size(); ++i) EXPECT_EQ(decoder.push(ids[i]), "");
  EXPECT_EQ(decoder.push(ids[ids.size() - 2]), "\U0001F6F8");
  EXPECT_EQ(decoder.push(ids.back()), "!");
  EXPECT_EQ(decoder.finish(), "");
  decoder.push(ids[0]);
  EXPECT_EQ(decoder.finish(), "\uFFFD");  // it never became complete
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, LeavesSpecialTokensOut) {
  const auto tokenizer = fixture_tokenizer("smollm");
  StreamDecoder decoder(*tokenizer);
  std::string shown;
  for (const int32_t id : tokenizer->encode("a<|im_end|>b")) shown += decoder.push(id);
  EXPECT_EQ(shown + decoder.finish(), "ab");
}

TEST(Tokenizer, ManyThreadsAtOnce) {
  for (const char* name : {"llama3", "metaspace", "sp_bpe"}) {
    const auto tokenizer = fixture_tokenizer(name);
    const auto texts = test::make_random_strings(400, 5);
    std::vector<Ids> expected;
    for (const auto& text : texts) expected.push_back(tokenizer->encode(text));
    std::atomic<int> wrong = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
      threads.emplace_back([&] {
        for (size_t i = 0; i < texts.size(); ++i)
          wrong += tokenizer->encode(texts[i]) != expected[i];
      });
    }
    for (auto& thread : threads) thread.join();
    EXPECT_EQ(wrong, 0);
  }
}

TEST(LoadTokenizer, SaysWhatIsMissingOrUnknown) {
  const TemporaryFolder folder;
  EXPECT_ERROR(IoError, load_tokenizer(folder / "absent"), "does not exist");
  EXPECT_ERROR(IoError, load_tokenizer("meta-llama/Llama-2-7b"), "nothing is downloaded");
  EXPECT_ERROR(IoError, load_tokenizer(std::string(300, 'x')), "File name too long");
  std::filesystem::create_directory_symlink(folder / "loop", folder / "loop");
  EXPECT_ERROR(IoError, load_tokenizer(folder / "loop"), "Too many levels of symbolic links");
  EXPECT_ERROR(IoError, load_tokenizer(folder.path()),
               "expected tokenizer.json or tokenizer.model");
  EXPECT_ERROR(FormatError, load_tokenizer(folder.put("vocab.txt", "a")), "is of an unknown kind");
  EXPECT_ERROR(FormatError, load_tokenizer(folder.put("tokenizer.json", "{oops}")),
               "tokenizer.json is not JSON near '{o' at line 1, column 2 (byte 2 of 6); fetch the "
               "file again");
}

TEST(LoadTokenizer, SaysHowAFileIsBroken) {
  const TemporaryFolder folder;
  const auto broken = [&](const char* name, const std::string& text) {
    const auto path = folder.put(name, text);
    const std::string message = testing::message_of<FormatError>([&] { load_tokenizer(path); });
    EXPECT_SAYS(message, path.string());
    for (const char* foreign : {"exception", ".cc", "Internal", "proto"}) {
      EXPECT_EQ(message.find(foreign), std::string::npos) << message;
    }
    return message;
  };
  const std::string json = io::read_file(fixture("tokenizers/gpt2/tokenizer.json"));
  EXPECT_SAYS(broken("tokenizer.json", "{\n \"model\": {"),
              "ends too early, at line 2, column 11 (byte 13 of 13); fetch the file again");
  EXPECT_SAYS(broken("tokenizer.json", json.substr(0, json.size() / 2)),
              "ends too early, at line ");
  EXPECT_SAYS(broken("tokenizer.json", json + "x"), "is not JSON near");
  EXPECT_SAYS(broken("tokenizer.json", "{\"a\": 1e999}"),
              "a number that no double holds, '1e999' at");
  EXPECT_SAYS(broken("tokenizer.json", ""), "is empty; fetch the file again");
  EXPECT_SAYS(broken("tokenizer.json", " \n"), "ends too early");
  const std::string model = io::read_file(fixture("tokenizers/sp_bpe/tokenizer.model"));
  EXPECT_SAYS(broken("tokenizer.model", model.substr(0, model.size() / 2)),
              "is no sentencepiece model, or a damaged one");
  EXPECT_SAYS(
      broken("tokenizer.model", "Entry not found"),
      "its 15 bytes, which begin with 'Entry not found', do not parse; fetch the file again");
  EXPECT_SAYS(broken("tokenizer.model", ""), "is empty; fetch the file again");
  EXPECT_SAYS(broken("tokenizer.model", " \n"),
              "is no usable sentencepiece model, the library refuses it: 'unk is not defined.'");
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    EXPECT_SAYS(broken(name, "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
                "is a pointer of Git LFS");
    EXPECT_SAYS(broken(name, "<!DOCTYPE html>"), "is an HTML page");
  }
}

TEST(LoadTokenizer, SaysWhichFileBesideItIsBroken) {
  const TemporaryFolder folder;
  folder.put("tokenizer.json", io::read_file(fixture("tokenizers/gpt2/tokenizer.json")));
  for (const char* name :
       {"tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"}) {
    const auto path = folder.put(name, "{\"a\": ");
    const auto refused = [&] { load_tokenizer(folder.path()); };
    const std::string message = testing::message_of<FormatError>(refused);
    EXPECT_SAYS(message, path.string());
    EXPECT_SAYS(message, "; mend the file or fetch it again");
    folder.put(name, "[]");
    EXPECT_ERROR(FormatError, refused(), "holds array, expected an object; fetch the file again");
    folder.put(name, "version https://git-lfs.github.com/spec/v1\n");
    EXPECT_ERROR(FormatError, refused(), "is a pointer of Git LFS");
    std::filesystem::remove(path);
  }
  folder.put("chat_template.jinja", "<!doctype html>");
  EXPECT_ERROR(FormatError, load_tokenizer(folder.path()), "chat_template.jinja is an HTML page");
}

TEST(LoadTokenizer, TakesFilesAsWellAsFolders) {
  const auto folder = fixture("tokenizers/gpt2");
  EXPECT_EQ(load_tokenizer(folder / "tokenizer.json")->vocab_size(),
            load_tokenizer(folder)->vocab_size());
  EXPECT_EQ(load_tokenizer(fixture("tokenizers/sp_bpe/tokenizer.model"))->vocab_size(), 1502);
}

TEST(SaveTokenizerFiles, CopiesAFolder) {
  const TemporaryFolder folder;
  const auto written = save_tokenizer_files(fixture("tokenizers/llama3"), folder.path());
  EXPECT_EQ(written, (std::vector<std::string>{"tokenizer.json", "tokenizer_config.json"}));
  for (const auto& name : written) {
    EXPECT_EQ(io::read_file(folder / name), io::read_file(fixture("tokenizers/llama3/" + name)));
  }
}

}  // namespace
}  // namespace qlora::data
