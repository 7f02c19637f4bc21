#include "exporter/gguf_export.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"
#include "exporter/gguf_tokenizer.h"
#include "exporter/sentencepiece_facts.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"
#include "tests/data/corpus.h"
#include "tests/support/errors.h"
#include "tests/support/fuzz.h"
#include "tests/support/temporary_folder.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using io::GgmlType;
using testing::TemporaryFolder;

fs::path tokenizer(const std::string& name) {
  return fs::path(QLORA_SOURCE_DIR "/tests/fixtures/tokenizers") / name;
}

io::HfConfig tiny_config() {
  io::HfConfig c;
  c.architecture = "LlamaForCausalLM";
  c.model_type = "llama";
  c.vocab_size = 2264;  // more than the tokenizer has
  c.hidden_size = 96;
  c.intermediate_size = 256;
  c.num_hidden_layers = 2;
  c.num_attention_heads = 4;
  c.num_key_value_heads = 2;
  c.head_dim = 24;
  c.max_position_embeddings = 512;
  c.rms_norm_eps = 1e-5;
  c.rope.original_max_position_embeddings = 512;
  c.tie_word_embeddings = true;
  c.bos_token_id = 1;
  c.eos_token_ids = {2};
  return c;
}

/// A weight that says which tensor and element it is.
float weight(const std::string& name, int64_t index) {
  uint64_t state =
      std::hash<std::string>()(name) + static_cast<uint64_t>(index) * 0x9e3779b97f4a7c15;
  state ^= state >> 29;
  state *= 0xbf58476d1ce4e5b9;
  state ^= state >> 32;
  return (static_cast<float>(state % 20001) - 10000.0f) * 1e-5f;
}

RowSource source_of(const io::HfConfig& config) {
  std::map<std::string, int64_t> columns;
  for (const auto& entry : plan_gguf(config, {})) columns[entry.name] = entry.out.shape.back();
  return [columns](const std::string& name, int64_t begin, int64_t count, float* out) {
    const int64_t width = columns.at(name);
    for (int64_t i = 0; i < count * width; ++i) out[i] = weight(name, begin * width + i);
  };
}

double bound_of(GgmlType type) {  // weights lie in [-0.1, 0.1]
  switch (type) {
    case GgmlType::kQ8_0:
      return 0.1 / 127;
    case GgmlType::kQ4_0:
      return 0.1 / 8 * 1.01;
    case GgmlType::kQ4_K:
      return 0.1 * (2 / 13.8 * 0.75 + 1 / 63.0);
    case GgmlType::kF32:
      return 0;
    default:
      return 0.1 * 0x1p-11;
  }
}

void expect_round_trip(const io::HfConfig& config, GgmlType type) {
  const TemporaryFolder folder;
  const fs::path file = folder / "model.gguf";
  NullLog log;
  const GgufExportOptions options{.type = type, .name = "tiny"};
  write_gguf(file, config, tokenizer("gpt2"), options, source_of(config), log);
  const io::Checkpoint checkpoint(file, io::GgufRounding::kNone);
  const io::HfConfig& read = checkpoint.config();
  EXPECT_EQ(read.vocab_size, config.vocab_size);
  EXPECT_EQ(read.hidden_size, config.hidden_size);
  EXPECT_EQ(read.head_dim, config.head_dim);
  EXPECT_EQ(read.num_key_value_heads, config.num_key_value_heads);
  EXPECT_EQ(read.tie_word_embeddings, config.tie_word_embeddings);
  EXPECT_EQ(read.arch.output_bias, config.arch.output_bias);
  EXPECT_EQ(read.arch.mlp_bias, config.arch.mlp_bias);
  EXPECT_EQ(read.max_position_embeddings, config.max_position_embeddings);
  EXPECT_NEAR(read.rms_norm_eps, config.rms_norm_eps, 1e-12);
  EXPECT_EQ(read.rope.type, config.rope.type);
  EXPECT_NEAR(read.rope.theta, config.rope.theta, 1e-3);
  EXPECT_EQ(checkpoint.gguf()->string("general.name"), "tiny");
  const auto plan = plan_gguf(config, options);
  ASSERT_EQ(checkpoint.names().size(), plan.size());
  for (const GgufPlanEntry& entry : plan) {
    const auto& shape = checkpoint.shape(entry.name);
    ASSERT_EQ(shape, entry.out.shape) << entry.name;
    int64_t count = 1;
    for (const int64_t size : shape) count *= size;
    std::vector<float> values(static_cast<size_t>(count));
    checkpoint.tensor_f32(entry.name, values.data());
    double worst = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double difference = std::fabs(values[static_cast<size_t>(i)] - weight(entry.name, i));
      worst = std::max(worst, difference);
    }
    EXPECT_LE(worst, bound_of(entry.out.type)) << entry.name;
  }
  for (const auto& item : fs::directory_iterator(folder.path())) {
    EXPECT_EQ(item.path().filename(), "model.gguf");
  }
}

TEST(WriteGguf, IsReadBackWithinTheRoundingOfItsTypes) {
  for (const GgmlType type : {GgmlType::kF16, GgmlType::kQ8_0, GgmlType::kQ4_0, GgmlType::kQ4_K}) {
    expect_round_trip(tiny_config(), type);
  }
}

TEST(WriteGguf, WritesBiasesHeadsAndUntiedOutputs) {
  io::HfConfig config = tiny_config();
  config.arch.qkv_bias = config.arch.output_bias = true;
  config.arch.mlp_bias = true;
  config.tie_word_embeddings = false;
  config.head_dim = 32;  // not hidden_size / heads
  expect_round_trip(config, GgmlType::kQ8_0);
}

TEST(WriteGguf, WritesEachRotaryScaling) {
  io::HfConfig config = tiny_config();
  config.head_dim = 64;
  config.rope.theta = 500000;
  config.max_position_embeddings = 131072;
  config.rope.original_max_position_embeddings = 131072;
  config.rope.type = io::RopeType::kLinear;
  config.rope.factor = 4;
  expect_round_trip(config, GgmlType::kF16);
  config.rope.type = io::RopeType::kYarn;
  config.rope.original_max_position_embeddings = 8192;
  expect_round_trip(config, GgmlType::kF16);
  config.rope.type = io::RopeType::kLlama3;
  config.rope.factor = 32;
  config.rope.low_freq_factor = 1;
  config.rope.high_freq_factor = 4;
  expect_round_trip(config, GgmlType::kF16);

  config.rope.type = io::RopeType::kDynamic;
  EXPECT_THROW(gguf_model_metadata(config, {}), FormatError);
  config.rope.type = io::RopeType::kYarn;
  config.rope.mscale = 0.7;
  EXPECT_THROW(gguf_model_metadata(config, {}), FormatError);
}

TEST(PlanGguf, RowsThatAreNoWholeBlocksGetALargerType) {
  io::HfConfig config = tiny_config();  // K = 96 and 256
  for (const auto& entry : plan_gguf(config, {.type = GgmlType::kQ4_K})) {
    const bool is_matrix = entry.out.shape.size() == 2;
    const bool is_embedding = entry.name == "model.embed_tokens.weight";
    const bool is_down = entry.name.ends_with("down_proj.weight");
    EXPECT_EQ(entry.out.type, !is_matrix     ? GgmlType::kF32
                              : is_embedding ? GgmlType::kF16
                              : is_down      ? GgmlType::kQ4_K
                                             : GgmlType::kQ8_0)
        << entry.name;
  }
  config.hidden_size = 40;
  config.num_attention_heads = config.num_key_value_heads = 1;
  config.head_dim = 40;
  EXPECT_EQ(plan_gguf(config, {.type = GgmlType::kQ8_0})[2].out.type, GgmlType::kF16);
  EXPECT_EQ(plan_gguf(tiny_config(), {.embedding_type = GgmlType::kQ8_0})[0].out.type,
            GgmlType::kQ8_0);
}

TEST(WriteGguf, ABadWeightLeavesNothing) {
  const TemporaryFolder folder;
  NullLog log;
  const RowSource bad = [](const std::string&, int64_t, int64_t, float* out) {
    *out = std::nanf("");
  };
  EXPECT_THROW(write_gguf(folder / "m.gguf", tiny_config(), tokenizer("gpt2"), {}, bad, log),
               ValueError);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

class GgufTokenizer : public ::testing::TestWithParam<const char*> {};

TEST_P(GgufTokenizer, GivesEqualIds) {
  const fs::path source = tokenizer(GetParam());
  const auto original = data::load_tokenizer(source);
  io::GgufMetadata metadata;
  add_gguf_tokenizer(source, original->vocab_size() + 5, metadata);
  const TemporaryFolder folder;
  EXPECT_NO_THROW(check_gguf_tokenizer(source, metadata, folder.path()));
  EXPECT_TRUE(fs::is_empty(folder.path()));
  io::GgufWriter(folder / "t.gguf", metadata, {}).commit();
  const auto written = data::load_tokenizer(folder / "t.gguf");
  EXPECT_EQ(written->special().bos, original->special().bos);
  EXPECT_EQ(written->special().eos, original->special().eos);
  EXPECT_EQ(written->special().pad, original->special().pad);
  EXPECT_EQ(written->add_bos(), original->add_bos());
  EXPECT_EQ(written->chat_template(), original->chat_template());
  std::vector<std::string> texts = test::make_corpus(200'000, 11);
  for (const std::string& text : test::tricky_texts()) texts.push_back(text);
  for (const std::string& text : test::make_random_strings(5'000, 7)) texts.push_back(text);
  for (const std::string& text : texts) {
    ASSERT_EQ(written->encode(text), original->encode(text)) << text;
  }
}
INSTANTIATE_TEST_SUITE_P(Folders, GgufTokenizer,
                         ::testing::Values("gpt2", "smollm", "llama3", "qwen2", "sp_bpe"));

TEST(GgufTokenizer, ByteFallbackBecomesScores) {
  const fs::path source = tokenizer("llama2");
  const auto original = data::load_tokenizer(source);
  io::GgufMetadata metadata;
  add_gguf_tokenizer(source, original->vocab_size(), metadata);
  const TemporaryFolder folder;
  EXPECT_NO_THROW(check_gguf_tokenizer(source, metadata, folder.path()));
}

TEST(GgufTokenizer, GivenChatTemplatesTakeThePlaceOfTheSources) {
  const TemporaryFolder folder;
  const std::vector<data::NamedTemplate> given = {{"default", "N"}, {"tool_use", "T"}};
  io::GgufMetadata first, second;
  add_gguf_tokenizer(tokenizer("smollm"), 2300, first, given);
  first.add("general.architecture", "llama");
  io::GgufWriter(folder / "a.gguf", first, {}).commit();
  EXPECT_EQ(data::load_tokenizer(folder / "a.gguf")->chat_templates(), given);
  // Out of a GGUF file as well, whose own ones are left out, the further ones too.
  add_gguf_tokenizer(folder / "a.gguf", 2300, second, {{"default", "M"}});
  io::GgufWriter(folder / "b.gguf", second, {}).commit();
  EXPECT_EQ(data::load_tokenizer(folder / "b.gguf")->chat_templates(),
            (std::vector<data::NamedTemplate>{{"default", "M"}}));
}

TEST(GgufTokenizer, AGgufFileIsCopiedVerbatim) {
  const TemporaryFolder folder;
  io::GgufMetadata metadata;
  add_gguf_tokenizer(tokenizer("smollm"), 2300, metadata);
  metadata.add("general.architecture", "llama");
  io::GgufWriter(folder / "a.gguf", metadata, {}).commit();
  io::GgufMetadata copied;
  add_gguf_tokenizer(folder / "a.gguf", 2300, copied);
  EXPECT_FALSE(copied.has("general.architecture"));
  EXPECT_EQ(copied.count() + 1, metadata.count());
  check_gguf_tokenizer(folder / "a.gguf", copied, folder.path());
  io::GgufMetadata small;
  EXPECT_THROW(add_gguf_tokenizer(folder / "a.gguf", 2299, small), FormatError);
}

TEST(GgufTokenizer, RefusesWhatGgufHasNoNameFor) {
  const auto message = [](const std::string& name, int64_t vocab_size) {
    return testing::message_of<FormatError>([&] {
      io::GgufMetadata metadata;
      add_gguf_tokenizer(tokenizer(name), vocab_size, metadata);
      const TemporaryFolder folder;
      check_gguf_tokenizer(tokenizer(name), metadata, folder.path());
    });
  };
  EXPECT_SAYS(message("gpt2_prefix_space", 5000), "has no name that is known here");
  EXPECT_SAYS(message("sp_unigram", 5000), "is no BPE model");
  EXPECT_NE(message("metaspace", 5000), "");
  EXPECT_SAYS(message("gpt2", 100), "they do not belong together");
  EXPECT_SAYS(message("sp_bpe", 100), "they do not belong together");
  io::GgufMetadata metadata;
  EXPECT_THROW(add_gguf_tokenizer(QLORA_SOURCE_DIR "/tests", 100, metadata), IoError);
}

TEST(GgufTokenizer, AnotherTokenizersIdsAreFound) {
  io::GgufMetadata metadata;
  add_gguf_tokenizer(tokenizer("smollm"), 5000, metadata);
  const TemporaryFolder folder;
  EXPECT_THROW(check_gguf_tokenizer(tokenizer("gpt2"), metadata, folder.path()), FormatError);
}

TEST(SentencePieceFacts, FuzzedModelsCrashNothing) {
  const std::string model = io::read_file(tokenizer("sp_bpe") / "tokenizer.model");
  EXPECT_TRUE(read_sentencepiece_facts(model, "m").is_bpe);
  EXPECT_FALSE(
      read_sentencepiece_facts(io::read_file(tokenizer("sp_unigram") / "tokenizer.model"), "m")
          .is_bpe);
  uint64_t state = 5;
  const auto next = [&] {
    return state = state * 6364136223846793005 + 1442695040888963407, state >> 33;
  };
  int refused = 0;
  for (int64_t round = 0; round < test::fuzz_iterations(2000); ++round) {
    std::string bad = model.substr(0, 2000 + next() % 500);
    for (int i = 0; i < 4; ++i) bad[next() % bad.size()] = static_cast<char>(next());
    try {
      read_sentencepiece_facts(bad, "m");
    } catch (const FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(refused, 100);
}

}  // namespace
}  // namespace qlora::exporter
