#include "core/fields.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/json_file.h"
#include "tests/core/test_options.h"
#include "tests/support/errors.h"

namespace qlora {
namespace {

using testing::Dtype;
using testing::TestOptions;

ReadNotes read(const std::string& text, TestOptions& options) {
  return read_fields(parse_json(text, "a.json"), options, "a.json");
}

std::string read_error(const std::string& text) {
  return testing::refusal_of<ConfigError>([&] {
    TestOptions options;
    read(text, options);
  });
}

std::string override_error(const std::string& assignment) {
  return testing::refusal_of<ConfigError>([&] {
    TestOptions options;
    override_field(options, assignment);
  });
}

TestOptions overridden(const std::string& assignment) {
  TestOptions options;
  override_field(options, assignment);
  return options;
}

TEST(ReadFields, ReadsEveryType) {
  TestOptions options;
  const ReadNotes notes = read(R"({
      // a comment
      "output_dir": "runs/é", "packing": false, "seed": 18446744073709551615, "offset": -9223372036854775808,
      "dtype": "bf16", "other_dtype": "fp32", "scheduler": "cosine", "adapter": "a/b",
      "learning_rate": 1, "max_steps": 60.0,
      "lora": {"r": 8, "lora_alpha": 0.5, "target_modules": ["q_proj", "v_proj"],
               "rank_pattern": {"layers.0.q_proj": 4}, "alpha_pattern": {"x": 2}}})",
                               options);
  EXPECT_EQ(options.output_dir, "runs/é");
  EXPECT_FALSE(options.packing);
  EXPECT_EQ(options.seed, std::numeric_limits<uint64_t>::max());
  EXPECT_EQ(options.offset, std::numeric_limits<int64_t>::min());
  EXPECT_EQ(options.dtype, Dtype::kBf16);
  EXPECT_EQ(options.other_dtype, Dtype::kFp32);
  EXPECT_EQ(options.scheduler, "cosine");
  EXPECT_EQ(options.adapter, "a/b");
  EXPECT_EQ(options.flat.learning_rate, 1.0);
  EXPECT_EQ(options.flat.max_steps, 60);
  EXPECT_EQ(options.lora.r, 8);
  EXPECT_EQ(options.lora.lora_alpha, 0.5);
  EXPECT_EQ(options.lora.target_modules, (std::vector<std::string>{"q_proj", "v_proj"}));
  EXPECT_EQ(options.lora.rank_pattern.at("layers.0.q_proj"), 4);
  EXPECT_EQ(options.lora.alpha_pattern.at("x"), 2.0);
  EXPECT_TRUE(notes.notices.empty());
  EXPECT_TRUE(notes.given.contains("lora.r"));
  EXPECT_TRUE(notes.given.contains("max_steps"));
}

TEST(ReadFields, KeepsWhatIsNotThere) {
  TestOptions options;
  options.seed = 7;
  const ReadNotes notes = read(R"({"lora": {"r": 4}, "$schema": "x"})", options);
  EXPECT_EQ(options.seed, 7u);
  EXPECT_EQ(options.lora.lora_alpha, 32.0);
  EXPECT_EQ(notes.given, (std::set<std::string>{"lora", "lora.r"}));
}

TEST(ReadFields, NullUnsetsOptionalsOnly) {
  TestOptions options;
  options.flat.max_steps = 3;
  read(R"({"max_steps": null})", options);
  EXPECT_FALSE(options.flat.max_steps.has_value());
  EXPECT_EQ(read_error(R"({"seed": null})"),
            "[config] seed is null, allowed: a whole number, 0 to 18446744073709551615; leave "
            "the key out for its default (a.json, at /seed)");
}

TEST(ReadFields, SingleStringIsAList) {
  TestOptions options;
  read(R"({"lora": {"target_modules": "q_proj"}})", options);
  EXPECT_EQ(options.lora.target_modules, std::vector<std::string>{"q_proj"});
}

TEST(ReadFields, SynonymsGiveANotice) {
  TestOptions options;
  const ReadNotes notes = read(R"({"lr": 0.1, "lora": {"rank": 4}})", options);
  EXPECT_EQ(options.flat.learning_rate, 0.1);
  EXPECT_EQ(options.lora.r, 4);
  EXPECT_EQ(notes.notices, (std::vector<std::string>{"lr is read as learning_rate (a.json)",
                                                     "lora.rank is read as lora.r (a.json)"}));
  EXPECT_TRUE(notes.given.contains("lora.r"));
  EXPECT_FALSE(notes.given.contains("lora.rank"));
  read(R"({"lora_r": 5, "lora": {}})", options);
  EXPECT_EQ(options.lora.r, 5);
}

TEST(ReadFields, TwoNamesForOneKeyAreRefused) {
  EXPECT_EQ(read_error(R"({"lr": 0.1, "learning_rate": 0.1})"),
            "[config] learning_rate is given twice, once under another name; keep one (a.json, at "
            "/learning_rate)");
  EXPECT_NE(read_error(R"({"lora_r": 1, "lora": {"r": 2}})").find("lora.r is given twice"),
            std::string::npos);
  EXPECT_NE(read_error(R"({"lora": {"r": 2}, "lora_r": 1})").find("lora.r is given twice"),
            std::string::npos);
}

TEST(ReadFields, SuggestsTheNearestKey) {
  EXPECT_EQ(read_error(R"({"lora": {"rnak": 8}})"),
            "[config] lora.rnak is not a key; did you mean lora.r? (a.json, at /lora/rnak)");
  const std::pair<const char*, const char*> cases[] = {
      {R"({"learning_rte": 1})", "did you mean learning_rate?"},
      {R"({"learningrate": 1})", "did you mean learning_rate?"},
      {R"({"learning-rate": 1})", "did you mean learning_rate?"},
      {R"({"Learning_Rate": 1})", "did you mean learning_rate?"},
      {R"({"ouptut_dir": 1})", "did you mean output_dir?"},
      {R"({"r": 1})", "did you mean lora.r?"},
      {R"({"lora_alpha": 1})", "did you mean lora.lora_alpha?"},
      {R"({"lora.r": 1})", "did you mean lora.r?"},
      {R"({"lora": {"learning_rate": 1}})", "did you mean learning_rate?"},
      {R"({"lora": {"max_step": 1}})", "did you mean max_steps?"},
      {R"({"lroa": {}})", "did you mean lora?"},
      {R"({"frobnicate": 1})", "`qlora config explain` lists the keys"},
      {R"({"": 1})", "`qlora config explain` lists the keys"}};
  for (const auto& [text, advice] : cases) {
    const std::string message = read_error(text);
    EXPECT_NE(message.find(advice), std::string::npos) << text << " gave " << message;
    EXPECT_NE(message.find("is not a key"), std::string::npos) << message;
  }
}

TEST(ReadFields, OddKeysStayOnOneLine) {
  const std::string message = read_error("{\"a\\nb/c~d\": 1}");
  EXPECT_EQ(message,
            "[config] \"a\\nb/c~d\" is not a key; `qlora config explain` lists the keys (a.json, "
            "at \"/a\\nb~1c~0d\")");
}

TEST(ReadFields, WrongTypesNamePathActualAndAllowed) {
  const std::pair<const char*, const char*> cases[] = {
      {R"({"lora": {"r": "8"}})",
       "[config] lora.r is the string \"8\", allowed: a whole number, 1 to 1024; write it without "
       "quotes (a.json, at /lora/r)"},
      {R"({"lora": {"r": "eight"}})",
       "[config] lora.r is the string \"eight\", allowed: a whole number, 1 to 1024 (a.json, at "
       "/lora/r)"},
      {R"({"lora": {"r": 8.5}})",
       "[config] lora.r is 8.5, allowed: a whole number, 1 to 1024 (a.json, at /lora/r)"},
      {R"({"lora": {"r": true}})",
       "[config] lora.r is true, allowed: a whole number, 1 to 1024 (a.json, at /lora/r)"},
      {R"({"lora": 3})", "[config] lora is 3, allowed: an object of keys (a.json, at /lora)"},
      {R"([1, 2])",
       "[config] the configuration is a list of 2, allowed: an object of keys (a.json)"},
      {R"({"packing": 1})", "[config] packing is 1, allowed: true or false (a.json, at /packing)"},
      {R"({"packing": "true"})",
       "[config] packing is the string \"true\", allowed: true or false; write it without quotes "
       "(a.json, at /packing)"},
      {R"({"output_dir": 3})",
       "[config] output_dir is 3, allowed: a string, not empty (a.json, at /output_dir)"},
      {R"({"adapter": {}})",
       "[config] adapter is an object of 0, allowed: a string or null (a.json, at /adapter)"},
      {R"({"learning_rate": "1e-4"})",
       "[config] learning_rate is the string \"1e-4\", allowed: a number, >= 0; write it without "
       "quotes (a.json, at /learning_rate)"},
      {R"({"learning_rate": [1]})",
       "[config] learning_rate is a list of 1, allowed: a number, >= 0 (a.json, at "
       "/learning_rate)"},
      {R"({"dtype": "fp8"})",
       "[config] dtype is the string \"fp8\", allowed: a string, one of \"auto\", \"bf16\", "
       "\"bfloat16\", \"fp32\" (a.json, at /dtype)"},
      {R"({"lora": {"target_modules": ["a", 1]}})",
       "[config] lora.target_modules is a list of 2, allowed: a string or a list of strings, not "
       "empty (a.json, at /lora/target_modules)"},
      {R"({"lora": {"rank_pattern": {"q": 1.5}}})",
       "[config] lora.rank_pattern is an object of 1, allowed: an object of whole numbers, 1 to "
       "1024 (a.json, at /lora/rank_pattern)"}};
  for (const auto& [text, message] : cases) EXPECT_EQ(read_error(text), message);
}

TEST(ReadFields, ConstraintsHold) {
  for (const char* text :
       {R"({"lora": {"r": 0}})", R"({"lora": {"r": 1025}})", R"({"lora": {"lora_alpha": 0}})",
        R"({"lora": {"lora_alpha": -1}})", R"({"learning_rate": -1e-9})", R"({"max_steps": 0})",
        R"({"output_dir": ""})", R"({"scheduler": "step"})", R"({"lora": {"target_modules": []}})",
        R"({"lora": {"target_modules": ""}})", R"({"lora": {"rank_pattern": {"q": 0}}})",
        R"({"lora": {"alpha_pattern": {"q": 0}}})"}) {
    EXPECT_NE(read_error(text).find("allowed:"), std::string::npos) << text;
  }
  for (const char* text : {R"({"lora": {"r": 1}})", R"({"lora": {"r": 1024}})",
                           R"({"learning_rate": 0})", R"({"max_steps": 1})"}) {
    EXPECT_EQ(read_error(text), "") << text;
  }
}

TEST(ReadFields, IntegersThatDoNotFitAreRefused) {
  for (const char* text :
       {R"({"lora": {"r": 4294967297}})", R"({"seed": -1})", R"({"seed": 18446744073709551616})",
        R"({"offset": 9223372036854775808})", R"({"offset": -9223372036854775809})",
        R"({"offset": 1e17})", R"({"offset": 1e300})"}) {
    EXPECT_NE(read_error(text).find("a whole number"), std::string::npos) << text;
  }
  TestOptions options;
  read(R"({"offset": 1e3})", options);
  EXPECT_EQ(options.offset, 1000);
}

TEST(ReadFields, NotANumberIsRefused) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const double value : {nan, HUGE_VAL, -HUGE_VAL}) {
    TestOptions options;
    EXPECT_THROW(read_fields(Json{{"learning_rate", value}}, options, "x"), ConfigError);
    options.flat.learning_rate = value;
    EXPECT_ERROR(ConfigError, validate_fields(options),
                 fmt::format("learning_rate is {}, allowed: a number", value));
  }
}

TEST(ReadFields, LeavesOptionsAloneOnError) {
  TestOptions options;
  EXPECT_THROW(read(R"({"seed": 1, "lora": {"r": 2, "bogus": 3}})", options), ConfigError);
  EXPECT_EQ(options, TestOptions{});
}

TEST(ReadFields, LongValuesAreCut) {
  const std::string message = read_error(R"({"dtype": ")" + std::string(59, 'a') + "éééééé\"}");
  EXPECT_LT(message.size(), 220u);
  EXPECT_NO_THROW(Json(message).dump());  // not cut inside a character
}

TEST(WriteFields, RoundTripsEveryType) {
  TestOptions options;
  options.seed = std::numeric_limits<uint64_t>::max();
  options.offset = std::numeric_limits<int64_t>::min();
  options.dtype = Dtype::kBf16;
  options.adapter = "a \"quoted\" name\n";
  options.flat.learning_rate = 0.1;
  options.lora.lora_alpha = 1.0 / 3;
  options.lora.target_modules = {"a", "b,c"};
  options.lora.rank_pattern = {{"layers.0", 3}};
  options.lora.alpha_pattern = {{"x", 1e-300}};
  const Json written = write_fields(options);
  TestOptions again;
  read(written.dump(2), again);
  EXPECT_EQ(again, options);
  EXPECT_EQ(write_fields(again).dump(), written.dump());
  EXPECT_EQ(written["dtype"], "bf16");             // the first of an enumeration's names
  EXPECT_EQ(written.begin().key(), "output_dir");  // in the order of fields()
}

TEST(WriteFields, DefaultsRoundTrip) {
  TestOptions again;
  again.lora.r = 3;
  read(write_fields(TestOptions{}).dump(), again);
  EXPECT_EQ(again, TestOptions{});
}

TEST(ValidateFields, ChecksWhatCodeHasSet) {
  TestOptions options;
  EXPECT_NO_THROW(validate_fields(options));
  options.lora.r = 0;
  EXPECT_EQ(testing::refusal_of<ConfigError>([&] { validate_fields(options); }),
            "[config] lora.r is 0, allowed: a whole number, 1 to 1024");
  options.lora.r = 1;
  options.dtype = static_cast<Dtype>(77);
  EXPECT_THROW(validate_fields(options), ConfigError);
}

TEST(OverrideField, ParsesByTheFieldsType) {
  EXPECT_EQ(overridden("lora.r=8").lora.r, 8);
  EXPECT_EQ(overridden("learning_rate=1e-4").flat.learning_rate, 1e-4);
  EXPECT_EQ(overridden("max_steps=5").flat.max_steps, 5);
  EXPECT_EQ(overridden("max_steps=none").flat.max_steps, std::nullopt);
  EXPECT_FALSE(overridden("packing=false").packing);
  EXPECT_EQ(overridden("output_dir=123").output_dir, "123");
  EXPECT_EQ(overridden("output_dir=true").output_dir, "true");
  EXPECT_EQ(overridden("output_dir=a=b").output_dir, "a=b");
  EXPECT_EQ(overridden("output_dir=\"q\"").output_dir, "q");
  EXPECT_EQ(overridden("output_dir=\"q").output_dir, "\"q");
  EXPECT_EQ(overridden("dtype=bfloat16").dtype, Dtype::kBf16);
  EXPECT_EQ(overridden("adapter=null").adapter, std::nullopt);
  EXPECT_EQ(overridden("adapter=x").adapter, "x");
}

TEST(OverrideField, Lists) {
  using List = std::vector<std::string>;
  EXPECT_EQ(overridden("lora.target_modules=q_proj").lora.target_modules, List{"q_proj"});
  EXPECT_EQ(overridden("lora.target_modules=q,k,v").lora.target_modules, (List{"q", "k", "v"}));
  EXPECT_EQ(overridden("lora.target_modules=1,2").lora.target_modules, (List{"1", "2"}));
  EXPECT_EQ(overridden("lora.target_modules=7").lora.target_modules, List{"7"});
  EXPECT_EQ(overridden(R"(lora.target_modules=["a,b"])").lora.target_modules, List{"a,b"});
  EXPECT_EQ(overridden(R"(lora.target_modules="a,b")").lora.target_modules, List{"a,b"});
  EXPECT_NE(override_error("lora.target_modules=a,,b"), "");
  EXPECT_NE(override_error("lora.target_modules="), "");
}

TEST(OverrideField, MapsAndSections) {
  EXPECT_EQ(
      overridden("lora.rank_pattern.layers.0.q_proj=4").lora.rank_pattern.at("layers.0.q_proj"), 4);
  EXPECT_EQ(overridden(R"(lora.rank_pattern={"q":3})").lora.rank_pattern.at("q"), 3);
  const TestOptions options = overridden(R"(lora={"r":3})");
  EXPECT_EQ(options.lora.r, 3);
  EXPECT_EQ(options.lora.lora_alpha, 32.0);
  EXPECT_NE(override_error("lora=3").find("allowed: an object of keys"), std::string::npos);
  EXPECT_NE(override_error("lora.rank_pattern.q=x"), "");
}

TEST(OverrideField, FollowsSynonyms) {
  TestOptions options;
  const ReadNotes notes = override_field(options, "lora.rank=4");
  EXPECT_EQ(options.lora.r, 4);
  EXPECT_EQ(notes.notices.at(0), "lora.rank is read as lora.r (--set lora.rank=4)");
  EXPECT_TRUE(override_field(options, "lora_r=5").given.contains("lora.r"));
  EXPECT_EQ(options.lora.r, 5);
}

TEST(OverrideField, Errors) {
  EXPECT_EQ(override_error("lora.rnak=8"),
            "[config] lora.rnak is not a key; did you mean lora.r? (--set lora.rnak=8)");
  EXPECT_EQ(override_error("lora.r=eight"),
            "[config] lora.r is the string \"eight\", allowed: a whole number, 1 to 1024 (--set "
            "lora.r=eight)");
  EXPECT_EQ(override_error("lora.r"),
            "[config] --set lora.r sets nothing, allowed: --set key=value, e.g. --set lora.r=8");
  EXPECT_NE(override_error("=3").find("sets nothing"), std::string::npos);
  EXPECT_NE(override_error("output_dir=\xff").find("is not UTF-8"), std::string::npos);
  EXPECT_NE(override_error("lora.r.x=3").find("is not a key"), std::string::npos);
  EXPECT_NE(override_error("lora.=3").find("is not a key"), std::string::npos);
  EXPECT_NE(override_error("learning_rate=nan"), "");
  EXPECT_NE(override_error("learning_rate=inf"), "");
  EXPECT_EQ(overridden("output_dir=\uFFFD").output_dir, "\uFFFD");
}

TEST(OverrideField, SaysHowListsAndObjectsAreWritten) {
  EXPECT_EQ(override_error("lora.target_modules=[q_proj]"),
            "[config] not JSON near \"[q\" at line 1, column 2 (--set "
            "lora.target_modules=[q_proj], at /0); a list of texts is written '[\"a\",\"b\"]', or "
            "a,b");
  EXPECT_SAYS(override_error("lora.rank_pattern={q:3}"), "an object is written '{\"key\": 1}'");
  EXPECT_SAYS(override_error("lora={r:3}"), "an object is written");
  EXPECT_SAYS(override_error("lora="), "is empty, expected JSON; an object is written");
}

struct TwiceOptions {
  int32_t a = 0;
};
template <class V>
void fields(V& v, TwiceOptions& o) {
  v("a", o.a, any_value(), "one");
  v("a", o.a, any_value(), "two");
}

TEST(FieldList, RefusesAKeyThatIsListedTwice) {
  EXPECT_THROW(write_fields(TwiceOptions{}), ConfigError);
}

TEST(FieldList, FindsDottedPaths) {
  TestOptions options;
  const FieldList list = detail::list_fields(options);
  EXPECT_NE(list.find("lora.r"), nullptr);
  EXPECT_NE(list.find("lora"), nullptr);
  EXPECT_EQ(list.find("lora.rank"), nullptr);
  EXPECT_EQ(list.find("seed.x"), nullptr);
  EXPECT_EQ(list.find(""), nullptr);
}

}  // namespace
}  // namespace qlora
