#include <gtest/gtest.h>

#include "core/error.h"
#include "tests/core/test_options.h"
#include "tests/support/errors.h"

namespace qlora {
namespace {

using testing::TestOptions;

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(DocumentFields, WritesOneTablePerSection) {
  const std::string page = document_fields<TestOptions>("Keys");
  EXPECT_TRUE(page.starts_with("# Keys\n\n| key | type | default | allowed | meaning |\n"));
  EXPECT_TRUE(has(page, "| `seed` | a whole number | `42` |  | of everything random |\n")) << page;
  EXPECT_TRUE(has(page, "\n## `lora`\n\nThe adapters.\n\n| key |"));
  EXPECT_TRUE(has(page,
                  "| `lora.r` | a whole number | `16` | 1 to 1024 | rank R of A [R, K] and B [N, "
                  "R] (also `rank`, `lora_r` at the top) |\n"))
      << page;
  EXPECT_TRUE(has(page, "layers \\| that get adapters"));
  EXPECT_TRUE(has(page, "| `max_steps` | a whole number | `null` | > 0, or null |"));
  EXPECT_TRUE(has(page, "one of \"linear\", \"cosine\""));
}

TEST(SchemaFields, DescribesEveryKey) {
  const Json schema = schema_fields<TestOptions>("Keys");
  EXPECT_EQ(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
  EXPECT_EQ(schema["type"], "object");
  EXPECT_EQ(schema["additionalProperties"], false);
  const Json& keys = schema["properties"];
  EXPECT_EQ(keys["$schema"]["type"], "string");
  EXPECT_EQ(keys["packing"]["type"], "boolean");
  EXPECT_EQ(keys["seed"]["minimum"], 0);
  EXPECT_EQ(keys["seed"]["maximum"], ~0ull);
  EXPECT_EQ(keys["seed"]["default"], 42);
  EXPECT_EQ(keys["dtype"]["enum"], Json({"auto", "bf16", "bfloat16", "fp32"}));
  EXPECT_EQ(keys["other_dtype"]["type"], Json({"string", "null"}));
  EXPECT_EQ(keys["other_dtype"]["enum"].back(), nullptr);
  EXPECT_EQ(keys["scheduler"]["enum"], Json({"linear", "cosine"}));
  EXPECT_EQ(keys["output_dir"]["minLength"], 1);
  EXPECT_EQ(keys["max_steps"]["type"], Json({"integer", "null"}));
  EXPECT_EQ(keys["max_steps"]["exclusiveMinimum"], 0);
  EXPECT_EQ(keys["lr"]["deprecated"], true);
  const Json& lora = keys["lora"]["properties"];
  EXPECT_EQ(keys["lora"]["description"], "The adapters.");
  EXPECT_EQ(lora["r"]["minimum"], 1);
  EXPECT_EQ(lora["r"]["maximum"], 1024);
  EXPECT_TRUE(lora["r"]["maximum"].is_number_integer());
  EXPECT_EQ(lora["lora_alpha"]["exclusiveMinimum"], 0);
  EXPECT_EQ(lora["target_modules"]["anyOf"].size(), 2u);
  EXPECT_EQ(lora["rank_pattern"]["additionalProperties"]["type"], "integer");
}

TEST(ExplainField, ExplainsKeysSynonymsAndSections) {
  EXPECT_EQ(explain_field<TestOptions>("lora.r"),
            "lora.r: rank R of A [R, K] and B [N, R]\n  type     a whole number\n  default  16\n"
            "  allowed  1 to 1024\n  also     lora_r, lora.rank\n");
  EXPECT_TRUE(explain_field<TestOptions>("lora.rank").starts_with("lora.r: "));
  EXPECT_TRUE(explain_field<TestOptions>("lr").starts_with("learning_rate: "));
  EXPECT_TRUE(explain_field<TestOptions>("lora").starts_with("lora: The adapters.\n  lora.r "));
  EXPECT_TRUE(has(explain_field<TestOptions>(""), "  seed "));
  EXPECT_EQ(testing::message_of<ConfigError>([] { explain_field<TestOptions>("lora.rnak"); }),
            "[config] lora.rnak is not a key; did you mean lora.r?");
}

TEST(ExplainField, TellsProgramsTheSame) {
  const Json key = explain_field_json<TestOptions>("lora.rank");
  EXPECT_EQ(key, (Json{{"key", "lora.r"},
                       {"text", "rank R of A [R, K] and B [N, R]"},
                       {"type", "a whole number"},
                       {"default", 16},
                       {"allowed", "1 to 1024"},
                       {"also", Json::array({"lora_r", "lora.rank"})}}));
  const Json section = explain_field_json<TestOptions>("lora");
  EXPECT_EQ(section["text"], "The adapters.");
  EXPECT_EQ(section["keys"][0]["key"], "lora.r");
  EXPECT_EQ(section["keys"][0]["default"], 16);
  const Json all = explain_field_json<TestOptions>("");
  for (const Json& entry : all["keys"]) {
    EXPECT_EQ(entry["type"] == "a section", entry["key"] == "lora") << entry;
  }
}

}  // namespace
}  // namespace qlora
