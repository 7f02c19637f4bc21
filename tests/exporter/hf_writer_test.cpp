#include "exporter/hf_writer.h"

#include <gtest/gtest.h>

#include <string>

#include "core/error.h"
#include "data/tokenizer.h"
#include "exporter/gguf_export.h"
#include "exporter/gguf_tokenizer.h"
#include "exporter/shard_writer.h"
#include "io/atomic_file.h"
#include "io/checkpoint.h"
#include "tests/support/temporary_folder.h"
#include "tests/support/tiny_checkpoint.h"

namespace qlora::exporter {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::TemporaryFolder;
using testing::write_text;

json read_json(const fs::path& path) {
  return json::parse(io::read_file(path));
}

TEST(WriteModelFiles, AFolderThatTheCheckpointReaderTakes) {
  const TemporaryFolder folder;
  const fs::path source = folder / "source", out = folder / "out";
  testing::write_tiny_checkpoint(source);
  write_text(source / "LICENSE", "Apache License\nVersion 2.0, January 2004\n");
  write_text(source / "notice.txt", "a notice");
  fs::create_directory(out);
  const io::Checkpoint base(source);
  std::vector<io::SafetensorsWriter::Entry> layout;
  for (const std::string& name : base.names()) {
    layout.push_back({name, io::DType::kF32, base.shape(name)});
  }
  ShardWriter writer(out, layout, parse_bytes("100KB"));
  for (const std::string& name : base.names()) {
    int64_t count = 1;
    for (const int64_t size : base.shape(name)) count *= size;
    std::vector<float> values(static_cast<size_t>(count));
    base.tensor_f32(name, values.data());
    writer.write(name, std::as_bytes(std::span(values)));
  }
  EXPECT_GT(writer.finish().size(), 2u);
  const auto names =
      write_model_files(out, {.config = base.config(), .torch_dtype = "float32", .source = source});
  for (const char* name : {"config.json", "tokenizer.json", "tokenizer_config.json", "LICENSE",
                           "generation_config.json", "notice.txt"}) {
    EXPECT_TRUE(std::find(names.begin(), names.end(), name) != names.end()) << name;
  }
  for (const std::string& name : names) EXPECT_TRUE(fs::exists(out / name)) << name;

  const io::Checkpoint copy(out);
  EXPECT_EQ(copy.names(), base.names());
  std::vector<float> a(64 * 64), b(64 * 64);
  base.tensor_f32("model.layers.1.self_attn.q_proj.weight", a.data());
  copy.tensor_f32("model.layers.1.self_attn.q_proj.weight", b.data());
  EXPECT_EQ(a, b);
  const json config = read_json(out / "config.json");
  EXPECT_EQ(config["torch_dtype"], "float32");
  EXPECT_EQ(config["dtype"], "float32");
  EXPECT_FALSE(config.contains("quantization_config"));
  EXPECT_TRUE(config.contains("rope_theta"));
  EXPECT_TRUE(config.contains("rope_parameters"));
  const auto before = data::load_tokenizer(source), after = data::load_tokenizer(out);
  EXPECT_EQ(after->encode("the thing <|im_end|> in 12"),
            before->encode("the thing <|im_end|> in 12"));
  EXPECT_EQ(after->chat_template(), before->chat_template());
}

TEST(WriteModelFiles, NamesTheTokenizerClassThatBothGenerationsKnow) {
  const TemporaryFolder folder;
  const fs::path source = folder / "source", out = folder / "out";
  testing::write_tiny_checkpoint(source);
  write_text(source / "tokenizer_config.json",
             R"({"tokenizer_class": "TokenizersBackend", "backend": "tokenizers", "is_local": true,
                 "eos_token": "<|im_end|>", "model_max_length": 100})");
  write_text(source / "chat_template.jinja", "{{ messages }}");
  write_text(source / "generation_config.json", R"({"temperature": 0.5})");
  fs::create_directory(out);
  write_model_files(out, {.config = io::Checkpoint(source).config(), .source = source});
  const json config = read_json(out / "tokenizer_config.json");
  EXPECT_EQ(config["tokenizer_class"], "PreTrainedTokenizerFast");
  EXPECT_FALSE(config.contains("backend"));
  EXPECT_EQ(config["model_max_length"], 100);
  EXPECT_EQ(config["chat_template"], "{{ messages }}");
  EXPECT_EQ(io::read_file(out / "chat_template.jinja"), "{{ messages }}");
  EXPECT_EQ(read_json(out / "generation_config.json")["temperature"], 0.5);
}

TEST(WriteModelFiles, TheAdaptersChatTemplateTakesThePlaceOfTheModels) {
  const TemporaryFolder folder;
  const fs::path source = folder / "source", out = folder / "out";
  testing::write_tiny_checkpoint(source);
  write_text(source / "chat_template.jinja", "of the model");
  fs::create_directory(out);
  const auto names = write_model_files(out, {.config = io::Checkpoint(source).config(),
                                             .source = source,
                                             .chat_templates = {{"default", "of the adapter"}}});
  EXPECT_EQ(std::count(names.begin(), names.end(), "chat_template.jinja"), 1);
  EXPECT_EQ(read_json(out / "tokenizer_config.json")["chat_template"], "of the adapter");
  EXPECT_EQ(io::read_file(out / "chat_template.jinja"), "of the adapter");
}

TEST(WriteModelFiles, GptqStandsInTwoFiles) {
  const TemporaryFolder folder;
  const fs::path source = folder / "source", out = folder / "out";
  testing::write_tiny_checkpoint(source);
  fs::create_directory(out);
  ModelFiles files{.config = io::Checkpoint(source).config(), .source = source};
  files.config.quantization_config = R"({"quant_method": "of the source"})";
  files.quantization_config = {{"quant_method", "gptq"}, {"bits", 4}};
  write_model_files(out, files);
  EXPECT_EQ(read_json(out / "config.json")["quantization_config"]["bits"], 4);
  EXPECT_EQ(read_json(out / "quantize_config.json")["bits"], 4);
  EXPECT_EQ(io::read_hf_config(out / "config.json").torch_dtype, "bfloat16");
}

TEST(WriteModelFiles, TheSourceMayBeAGgufFile) {
  const TemporaryFolder folder;
  const fs::path out = folder / "out", tokenizer = folder / "hf";
  testing::write_tiny_checkpoint(tokenizer);
  io::GgufMetadata metadata;
  add_gguf_tokenizer(tokenizer, testing::kTinyVocabulary, metadata);
  io::GgufWriter(folder / "m.gguf", metadata, {}).commit();
  write_text(folder / "LICENSE", "MIT License");
  fs::create_directory(out);
  io::HfConfig config = io::Checkpoint(tokenizer).config();
  config.eos_token_ids = {3, 4};
  write_model_files(out, {.config = config, .source = folder / "m.gguf"});
  EXPECT_EQ(data::load_tokenizer(out)->encode("the in"),
            data::load_tokenizer(tokenizer)->encode("the in"));
  EXPECT_EQ(read_json(out / "generation_config.json")["eos_token_id"], json({3, 4}));
  EXPECT_TRUE(fs::exists(out / "LICENSE"));
  EXPECT_EQ(licence_name(folder / "m.gguf"), "mit");
  // Or the folder that holds it, and no other.
  fs::create_directory(folder / "again");
  write_model_files(folder / "again", {.config = config, .source = folder.path()});
  EXPECT_TRUE(fs::exists(folder / "again" / "tokenizer.json"));
  write_text(folder / "n.gguf", "another");
  EXPECT_THROW(write_model_files(folder / "again", {.config = config, .source = folder.path()}),
               IoError);
}

TEST(LicenceName, ReadsTheCardBeforeTheText) {
  const TemporaryFolder folder;
  EXPECT_EQ(licence_name(folder.path()), "");
  write_text(folder / "LICENSE.txt", "Something of our own");
  EXPECT_EQ(licence_name(folder.path()), "");
  write_text(folder / "LICENSE", "      Apache License\n   Version 2.0, January 2004");
  EXPECT_EQ(licence_name(folder.path()), "apache-2.0");
  write_text(folder / "README.md", "---\nlanguage: en\nlicense: \"llama3.2\"\n---\nlicense: x\n");
  EXPECT_EQ(licence_name(folder.path()), "llama3.2");
  write_text(folder / "README.md", "---\nlicense: a: [b\n---\n");
  EXPECT_EQ(licence_name(folder.path()), "apache-2.0");
  EXPECT_EQ(licence_files(folder.path()).size(), 2u);
}

}  // namespace
}  // namespace qlora::exporter
