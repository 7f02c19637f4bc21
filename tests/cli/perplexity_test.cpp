// `qlora perplexity`: each protocol's count of predictions, and numbers that agree where the same
// tokens are predicted from the same context.
#include <cmath>

#include "data/tokenizer.h"
#include "io/safetensors.h"
#include "tests/cli/fixture.h"

namespace qlora::testing {
namespace {

class PerplexityProgram : public ProgramTest {
 protected:
  nlohmann::json measure(std::vector<std::string> more) {
    more.insert(more.begin(), {"perplexity", "--model-path", path("model"), "--compute-dtype",
                               "fp32", "--threads", "1", "--json"});
    const ProgramResult result = qlora(more);
    EXPECT_EQ(result.exit_code, 0) << result.err;
    auto facts = nlohmann::json::parse(result.out);  // exactly one object
    EXPECT_NEAR(facts.at("perplexity").get<double>(), std::exp(facts.at("nll").get<double>()),
                1e-6 * facts.at("perplexity").get<double>());
    EXPECT_EQ(facts.at("compute_dtype"), "fp32");
    EXPECT_EQ(facts.at("threads"), 1);
    for (const char* key : {"seconds", "load_seconds", "peak_bytes", "base_bytes"}) {
      EXPECT_GT(facts.at(key).get<double>(), 0) << key;
    }
    return facts;
  }
  void write_tokens(const std::string& name, const std::vector<int32_t>& ids, int64_t rows) {
    const io::TensorView tensor = {.name = "ids",
                                   .dtype = io::DType::kI32,
                                   .shape = {rows, static_cast<int64_t>(ids.size()) / rows},
                                   .bytes = std::as_bytes(std::span(ids))};
    io::write_safetensors(folder_ / name, std::span(&tensor, 1));
  }
  std::vector<int32_t> encode(const std::string& text) {
    return data::load_tokenizer(folder_ / "model")->encode(text);
  }
};

TEST_F(PerplexityProgram, WindowsOfATextEqualBlocksOfItsTokens) {
  const std::string text = read_text(folder_ / "train.jsonl").substr(0, 600);
  write_text(folder_ / "text.txt", text);
  std::vector<int32_t> ids = encode(text);
  ids.resize(ids.size() / 32 * 32);
  std::string cut = data::load_tokenizer(folder_ / "model")->decode(ids);
  ASSERT_EQ(encode(cut), ids);
  write_text(folder_ / "text.txt", cut);
  const auto rows = static_cast<int64_t>(ids.size()) / 32;
  write_tokens("ids.safetensors", ids, rows);

  const auto windows = measure({"--text", path("text.txt"), "--seq-len", "32"});
  const auto blocks = measure({"--tokens", path("ids.safetensors") + ":ids"});
  EXPECT_EQ(windows.at("tokens"), rows * 31);
  EXPECT_EQ(blocks.at("tokens"), rows * 31);
  EXPECT_NEAR(windows.at("nll").get<double>(), blocks.at("nll").get<double>(), 1e-6);
  EXPECT_EQ(measure({"--tokens", path("ids.safetensors") + ":ids", "--blocks", "3"}).at("tokens"),
            3 * 31);
}

TEST_F(PerplexityProgram, OverlappingWindowsPredictEveryTokenOnce) {
  write_text(folder_ / "text.txt", read_text(folder_ / "train.jsonl").substr(0, 500));
  const auto ids = encode(read_text(folder_ / "text.txt"));
  const auto facts = measure({"--text", path("text.txt"), "--seq-len", "64", "--stride", "16"});
  EXPECT_EQ(facts.at("tokens"), ids.size() - 1);
  EXPECT_NE(facts.at("protocol").get<std::string>().find("stride 16"), std::string::npos);
}

TEST_F(PerplexityProgram, PerTextSkipsShortLinesAndHonoursTheLimit) {
  write_text(folder_ / "lines.txt", "hello there\n\nx\r\nanother line\nlast one");
  const auto all = measure({"--text", path("lines.txt"), "--per-text"});
  EXPECT_EQ(all.at("skipped_texts"), 2);
  const auto count = [&](const char* line) { return encode(line).size() - 1; };
  EXPECT_EQ(all.at("tokens"), count("hello there") + count("another line") + count("last one"));
  const auto first = measure({"--text", path("lines.txt"), "--per-text", "--limit", "3"});
  EXPECT_EQ(first.at("tokens"), count("hello there"));
  const auto cut = measure({"--text", path("lines.txt"), "--per-text", "--max-length", "4"});
  EXPECT_EQ(cut.at("tokens"), 3 * 3);
}

TEST_F(PerplexityProgram, RowsOfADatasetAreScoredAsTrainingDoes) {
  const auto response = measure({"--dataset-name", path("eval.jsonl"), "--max-length", "128"});
  size_t learnt = 0;
  std::istringstream rows(read_text(folder_ / "eval.jsonl"));
  for (std::string row; std::getline(rows, row);) {
    learnt += encode(nlohmann::json::parse(row).at("response")).size() + 1;  // and the eos
  }
  EXPECT_EQ(response.at("tokens"), learnt);
  const auto all = measure({"--dataset-name", path("eval.jsonl"), "--loss-on", "all"});
  EXPECT_GT(all.at("tokens"), response.at("tokens"));
  const auto fewer = measure({"--dataset-name", path("eval.jsonl"), "--limit", "2"});
  EXPECT_LT(fewer.at("tokens"), response.at("tokens"));
}

TEST_F(PerplexityProgram, PlainTextRowsAreOneStreamUnlessRowsIsGiven) {
  write_text(folder_ / "rows.jsonl", "{\"text\": \"first row\"}\n{\"text\": \"second row\"}\n");
  const auto stream = measure({"--dataset-name", path("rows.jsonl")});
  EXPECT_EQ(stream.at("tokens"), encode("first row\n\nsecond row").size() - 1);
  const auto rows = measure({"--dataset-name", path("rows.jsonl"), "--rows", "--loss-on", "all"});
  EXPECT_EQ(rows.at("tokens"), encode("first row").size() + encode("second row").size());
}

TEST_F(PerplexityProgram, FourBitChangesTheNumberAndTheMemory) {
  write_text(folder_ / "text.txt", read_text(folder_ / "train.jsonl").substr(0, 400));
  const auto plain = measure({"--text", path("text.txt")});
  const auto nf4 = measure({"--text", path("text.txt"), "--load-in-4bit"});
  const auto fp4 = measure({"--text", path("text.txt"), "--load-in-4bit", "--set",
                            "quantization.bnb_4bit_quant_type=fp4"});
  EXPECT_NE(plain.at("nll"), nf4.at("nll"));
  EXPECT_NE(fp4.at("nll"), nf4.at("nll"));
  EXPECT_NEAR(plain.at("nll").get<double>(), nf4.at("nll").get<double>(), 0.5);
  EXPECT_LT(nf4.at("base_bytes").get<double>(), 0.6 * plain.at("base_bytes").get<double>());
}

TEST_F(PerplexityProgram, WithoutJsonPrintsProtocolAndNumber) {
  const ProgramResult result = qlora({"perplexity", "--model-path", path("model"), "--text",
                                      path("train.jsonl"), "--seq-len", "64"});
  EXPECT_EQ(result.exit_code, 0) << result.err;
  EXPECT_NE(result.out.find("protocol"), std::string::npos);
  EXPECT_NE(result.out.find("windows of 64"), std::string::npos);
  EXPECT_NE(result.out.find("perplexity"), std::string::npos);
}

TEST_F(PerplexityProgram, IdsOutsideTheVocabularyAreRefused) {
  write_tokens("ids.safetensors", {1, 2, 3, static_cast<int32_t>(kTinyVocabulary)}, 1);
  expect_refused(qlora({"perplexity", "--model-path", path("model"), "--tokens",
                        path("ids.safetensors") + ":ids"}),
                 {"264", "vocabulary"});
  expect_refused(qlora({"perplexity", "--model-path", path("model"), "--tokens",
                        path("ids.safetensors") + ":idz"}),
                 {"idz", "ids"});
}

TEST_F(PerplexityProgram, TokensNeedNoTokenizer) {
  write_tokens("ids.safetensors", {1, 2, 3, 4}, 2);
  std::filesystem::remove(folder_ / "model/tokenizer.json");
  EXPECT_EQ(measure({"--tokens", path("ids.safetensors") + ":ids"}).at("tokens"), 2);
}

TEST_F(PerplexityProgram, ATextThatSpellsTheBosThatTheTokenizerAddsIsRefused) {
  add_bos();
  write_text(folder_ / "lines.txt", "hello there\n<|im_start|>hello\n");
  write_text(folder_ / "text.txt", "<|im_start|>hello there");
  write_text(folder_ / "rows.jsonl", "{\"text\": \"<|im_start|>first row\"}\n");
  const auto refused = [&](std::vector<std::string> more, const std::string& where) {
    more.insert(more.begin(), {"perplexity", "--model-path", path("model")});
    expect_refused(qlora(more), {where, "begins with <|im_start|>", "the tokenizer adds it too"});
  };
  refused({"--text", path("lines.txt"), "--per-text"}, "lines.txt:2");
  refused({"--text", path("text.txt")}, "text.txt");
  refused({"--dataset-name", path("rows.jsonl")}, "rows.jsonl");
  refused({"--dataset-name", path("rows.jsonl"), "--per-text"}, "rows.jsonl:1");
  EXPECT_EQ(measure({"--text", path("lines.txt"), "--per-text", "--limit", "1"}).at("tokens"),
            encode("hello there").size() - 1);
}

TEST_F(PerplexityProgram, AnOverflowIsAnError) {
  std::string bytes = read_text(folder_ / "model/model.safetensors");
  std::string ones, largest;  // BF16; every norm of the tiny model is ones
  for (int i = 0; i < 64; ++i) {
    ones += std::string("\x80\x3f", 2);
    largest += std::string("\x7f\x7f", 2);
  }
  const size_t at = bytes.find(ones);
  ASSERT_NE(at, std::string::npos);
  write_text(folder_ / "model/model.safetensors", bytes.replace(at, ones.size(), largest));
  expect_refused(qlora({"perplexity", "--model-path", path("model"), "--text", path("train.jsonl"),
                        "--seq-len", "64"}),
                 {"[perplexity]", "nan", "--compute-dtype fp32"});
}

}  // namespace
}  // namespace qlora::testing
