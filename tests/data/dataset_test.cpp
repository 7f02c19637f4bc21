#include "data/dataset.h"

#include <gtest/gtest.h>

#include <random>
#include <set>

#include "tests/data/data_files.h"
#include "tests/io/mutate.h"
#include "tests/support/fuzz.h"

namespace qlora::data {
namespace {

using std::string_literals::operator""s;

class DatasetTest : public ::testing::Test {
 protected:
  Dataset load(const std::string& name, const std::string& text, const DatasetOptions& o = {}) {
    return load_dataset(folder_.put(name, text), o);
  }
  TemporaryFolder folder_;
};

TEST_F(DatasetTest, FindsTheFormByTheFields) {
  EXPECT_EQ(load("a.jsonl", R"({"text": "x"})").form, RowForm::kText);
  EXPECT_EQ(load("a.jsonl", R"({"prompt": "x", "completion": "y"})").form,
            RowForm::kPromptCompletion);
  EXPECT_EQ(load("a.jsonl", R"({"instruction": "x", "output": "y"})").form, RowForm::kAlpaca);
  EXPECT_EQ(load("a.jsonl", R"({"instruction": "x", "context": "", "response": "y"})").form,
            RowForm::kDolly);
  EXPECT_EQ(load("a.jsonl", R"({"messages": [{"role": "user", "content": "x"}]})").form,
            RowForm::kMessages);
  EXPECT_ERROR(FormatError, load("a.jsonl", "\n{\"question\": \"x\"}"),
               "a.jsonl:2: the form of the rows is not known");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{}"), "fields none");
}

TEST_F(DatasetTest, ReadsAlpaca) {
  const Dataset set =
      load("a.jsonl",
           "{\"instruction\": \"i\", \"input\": \"n\", \"output\": \"o\"}\n\n"
           "{\"instruction\": \"i2\", \"input\": null, \"output\": \"\", \"id\": 7}\r\n");
  ASSERT_EQ(set.size(), 2);
  EXPECT_EQ(set.records[0].text, "i");
  EXPECT_EQ(set.records[0].input, "n");
  EXPECT_EQ(set.records[0].response, "o");
  EXPECT_EQ(set.records[1].input, "");
  EXPECT_EQ(set.records[1].line, 3);
}

TEST_F(DatasetTest, ReadsMessages) {
  const Dataset set = load(
      "a.jsonl",
      R"({"messages": [{"role": "user", "content": "q", "x": 1}, {"role": "assistant", "content": "a"}]})");
  ASSERT_EQ(set.records[0].messages.size(), 2u);
  EXPECT_EQ(set.records[0].messages[1].role, "assistant");
  EXPECT_EQ(set.records[0].messages[1].content, "a");
}

TEST_F(DatasetTest, ReadsArraysAndLinesWhateverTheExtension) {
  const char* array = "[\n {\"text\": \"a]}\\\"\"},\n\n {\"text\":\n \"b\"}\n]\n";
  for (const char* name : {"a.json", "a.jsonl", "A.JSON"}) {
    const Dataset set = load(name, array);
    ASSERT_EQ(set.size(), 2);
    EXPECT_EQ(set.records[0].text, "a]}\"");
    EXPECT_EQ(set.records[1].text, "b");
    EXPECT_EQ(set.records[0].line, 2);
    EXPECT_EQ(set.records[1].line, 4);
  }
  EXPECT_EQ(load("a.json", "\xEF\xBB\xBF{\"text\": \"x\"}\n{\"text\": \"y\"}").size(), 2);
}

TEST_F(DatasetTest, ReadsCsv) {
  const Dataset set = load("a.csv",
                           "\xEF\xBB\xBFinstruction,context,response\r\n"
                           "\"say \"\"hi\"\"\",\"a\nb\",hi\r\nx,,y\r\n");
  EXPECT_EQ(set.form, RowForm::kDolly);
  ASSERT_EQ(set.size(), 2);
  EXPECT_EQ(set.records[0].text, "say \"hi\"");
  EXPECT_EQ(set.records[0].input, "a\nb");
  EXPECT_EQ(set.records[1].line, 4);
  EXPECT_ERROR(FormatError, load("a.csv", "text,b\nx\n"),
               "a.csv:2: the row has 1 fields, the header 2");
  EXPECT_ERROR(FormatError, load("a.csv", "text,text\nx,y\n"), "the column 'text' stands twice");
  EXPECT_ERROR(
      FormatError, load("a.csv", "instruction;output\nx;y\n"),
      "a.csv:1: the header is the one column 'instruction;output'; columns are separated by "
      "commas");
  EXPECT_ERROR(FormatError, load("a.csv", "text,b\nx,y\nx,"s + '\0' + "\n"),
               "a.csv:3: a zero byte in the row");
  EXPECT_EQ(load("a.csv", "text\rx\ry\r").size(), 2);
  EXPECT_ERROR(FormatError, load("a.csv", "text\n\"x\n"), "a.csv:2: a quoted field is not closed");
  EXPECT_ERROR(ValueError, load("a.csv", ""), "is empty, expected a header line");
  EXPECT_ERROR(ValueError, load("a.csv", "text\n"), "has no rows");
  EXPECT_ERROR(ConfigError, load("a.csv", "messages\nx\n", {.form = RowForm::kMessages}),
               "cannot be given as CSV");
}

TEST_F(DatasetTest, TakesFieldsByOtherNames) {
  EXPECT_EQ(load("a.jsonl", R"({"body": "x"})", {.text_field = "body"}).records[0].text, "x");
  const DatasetOptions names{.prompt_field = "q", .completion_field = "a"};
  EXPECT_EQ(load("a.jsonl", R"({"q": "x", "a": "y"})", names).records[0].response, "y");
  const DatasetOptions own{.instruction_field = "q", .input_field = "c", .response_field = "a"};
  const Dataset set = load("a.jsonl", R"({"q": "x", "c": "n", "a": "y"})", own);
  EXPECT_EQ(set.form, RowForm::kAlpaca);
  EXPECT_EQ(set.records[0].text + set.records[0].input + set.records[0].response, "xny");
}

TEST_F(DatasetTest, NamesTheLineOfARowWithoutItsFields) {
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"}\n{\"txt\": \"y\"}"),
               "a.jsonl:2: the row lacks the field 'text'; it has 'txt'");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": 5}"),
               "a.jsonl:1: the field 'text' is number, expected a text");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": null}", {.form = RowForm::kText}),
               "a.jsonl:1: the field 'text' is null, expected a text");
  EXPECT_ERROR(FormatError,
               load("a.jsonl", "{\"instruction\": \"x\", \"input\": 1, \"output\": \"y\"}"),
               "'input' is number");
  EXPECT_ERROR(
      FormatError, load("a.jsonl", "{\"messages\": []}"),
      "a.jsonl:1: the field 'messages' is empty, expected a list of messages with at least "
      "one");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"messages\": \"[]\"}"),
               "a.jsonl:1: the field 'messages' is string, expected a list of messages");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"}", {.form = RowForm::kMessages}),
               "a.jsonl:1: the row lacks the field 'messages', a list of messages");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"messages\": [1]}"), "a message is number");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"messages\": [{\"role\": \"user\"}]}"),
               "lacks the field 'content'");
  EXPECT_ERROR(FormatError,
               load("a.jsonl", "{\"messages\": [{\"role\": \"user\", \"content\": null}]}"),
               "a.jsonl:1: a message of the role 'user' has a content that is null");
}

TEST_F(DatasetTest, RefusesWhatIsNotData) {
  EXPECT_ERROR(IoError, load_dataset(folder_ / "absent.jsonl"), "absent.jsonl does not exist");
  EXPECT_ERROR(IoError, load_dataset("tatsu-lab/alpaca"), "nothing is downloaded");
  EXPECT_ERROR(IoError, load_dataset(folder_.path()), "is a folder; give the path of a .jsonl");
  EXPECT_ERROR(FormatError, load("a.tsv", "a\tb"), "known are .jsonl, .json and .csv");
  EXPECT_ERROR(FormatError, load("a.parquet", "PAR1 x PAR1"), "is a Parquet table");
  EXPECT_ERROR(ValueError, load("a.jsonl", ""), "has no rows");
  EXPECT_ERROR(ValueError, load("a.json", " [ ] "), "has no rows");
  EXPECT_ERROR(FormatError, load("a.jsonl", "\xFF\xFE{"), "is UTF-16");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"}\n{oops}\n"), "a.jsonl:2");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"}\n5\n"),
               "a.jsonl:2: a row is number");
  EXPECT_ERROR(FormatError, load("a.json", "[{\"text\": \"x\"} {\"text\": \"x\"}]"),
               "expected ',' or ']'");
  EXPECT_ERROR(FormatError, load("a.json", "[{\"text\": \"x\"}"), "the array is not closed");
  EXPECT_ERROR(FormatError, load("a.json", "[{\"text\": \"x\"},\n]"),
               "a.json:2: a comma stands before the closing ]");
  EXPECT_ERROR(FormatError, load("a.json", "[{\"text\": \"x\""), "the array is not closed");
  EXPECT_ERROR(FormatError, load("a.json", "[1]"), "a row is not an object");
  EXPECT_ERROR(FormatError, load("a.json", "[[1]]"), "a row is array");
  EXPECT_ERROR(FormatError, load("a.json", "[{\"text\": \"x\"}] 5"),
               "text after the end of the array");
}

TEST_F(DatasetTest, HalfASurrogatePairCountsAsReplaced) {
  const std::pair<const char*, const char*> texts[] = {
      {R"(a\\ud800b)", "a\\ud800b"},  // an escaped backslash
      {R"(\ud83d\ude00)", "\U0001F600"},
      {R"(\uD83D\uDE00\udE00)", "\U0001F600\uFFFD"},
      {R"(\ud800)", "\uFFFD"},
      {R"(\uDBFF x)", "\uFFFD x"},
      {R"(\ud83d\ud83d\ude00)", "\uFFFD\U0001F600"},
      {R"(\ude00\ud83d)", "\uFFFD\uFFFD"},
      {R"(\ud83d\n\\\udc00\ue000)", "\uFFFD\n\\\uFFFD\uE000"},
      {R"(\ud83dude00)", "\uFFFDude00"}};
  for (const auto& [escaped, text] : texts) {
    const std::string row = fmt::format("{{\"text\": \"{}\"}}", escaped);
    EXPECT_EQ(load("a.jsonl", row).records[0].text, text) << row;
    EXPECT_EQ(load("a.json", "[" + row + "]").records[0].text, text) << row;
  }
  for (const char* broken :
       {R"({"text": "\ud8"})", R"({"text": "\ud8zz"})", R"({"text": "\ud800)"}) {
    EXPECT_ERROR(FormatError, load("a.jsonl", broken), "a.jsonl:1: ");
  }
}

TEST_F(DatasetTest, SaysHowRowsAreWritten) {
  EXPECT_ERROR(FormatError, load("a.json", "{\n \"text\": \"x\"\n}\n"),
               "; rows are one object a line, or one list [{…}, {…}] without an object around it");
  EXPECT_ERROR(FormatError, load("a.json", "{\"data\": [\n{\"text\": \"x\"}]}"),
               "without an object around it");
  EXPECT_ERROR(FormatError, load("a.json", R"({"version": "1", "data": [{"text": "x"}]})"),
               "where 'data' is a list of rows, make that list the whole file");
  EXPECT_ERROR(FormatError, load("a.jsonl", R"({"dialog": [{"role": "user", "content": "x"}]})"),
               "; 'dialog' is a conversation: set data.messages_field to it");
  EXPECT_ERROR(FormatError, load("a.jsonl", R"({"dialog": [{"from": "human", "value": "x"}]})"),
               "; 'dialog' is a conversation: set data.conversations_field to it");
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"},"),
               "; a row is one JSON object on one line, without a comma behind it");
  for (const char* row : {"{'text': 'x'}", "{\"text\": \"x\", \"n\": NaN}", "{\"text\": \"x"}) {
    const std::string message = testing::message_of<FormatError>([&] { load("a.jsonl", row); });
    EXPECT_SAYS(message, "a.jsonl:1");
    EXPECT_EQ(message.find("comma"), std::string::npos) << message;
  }
  EXPECT_ERROR(FormatError, load("a.jsonl", "{\"text\": \"x\"}\n"s + '\0'),
               "a.jsonl:2: a zero byte at byte 1 of the row: the file is damaged, or no text");
  const std::string twice = testing::message_of<FormatError>(
      [&] { load("a.jsonl", "{\"text\": \"x\", \"text\": \"y\"}"); });
  EXPECT_EQ(twice.find("one line"), std::string::npos) << twice;
}

TEST_F(DatasetTest, ALineEndsWithAnyLineEnd) {
  const Dataset set =
      load("a.jsonl", "{\"text\": \"a\"}\r{\"text\": \"b\"}\r\n\r\n{\"text\": \"c\"}\n\r");
  ASSERT_EQ(set.size(), 3);
  EXPECT_EQ(set.records[1].line, 2);
  EXPECT_EQ(set.records[2].text, "c");
  EXPECT_EQ(set.records[2].line, 4);
}

TEST_F(DatasetTest, ReplacesInvalidUtf8) {
  EXPECT_EQ(load("a.jsonl", "{\"text\": \"a\xFF\"}").records[0].text, "a\uFFFD");
  EXPECT_EQ(load("a.csv", "text\na\xFF\n").records[0].text, "a\uFFFD");
}

Dataset numbered(int64_t count) {
  Dataset set;
  set.name = "n";
  for (int64_t i = 0; i < count; ++i) set.records.push_back({.text = std::to_string(i), .line = i});
  return set;
}

TEST(SplitDataset, TakesAPartOnceAndInOrder) {
  for (const double split : {0.1, 0.5, 7.0, 0.0001}) {
    const auto [rest, part] = split_dataset(numbered(100), split, 3);
    EXPECT_EQ(part.size(), split < 1 ? std::max<int64_t>(1, std::llround(split * 100)) : 7);
    EXPECT_EQ(rest.size() + part.size(), 100);
    std::set<int64_t> seen;
    for (const Dataset* set : {&rest, &part}) {
      for (size_t i = 0; i < set->records.size(); ++i) {
        EXPECT_TRUE(seen.insert(set->records[i].line).second);
        EXPECT_TRUE(i == 0 || set->records[i - 1].line < set->records[i].line);
      }
    }
  }
}

TEST(SplitDataset, DependsOnTheSeedAlone) {
  const auto lines = [](uint64_t seed) {
    std::vector<int64_t> out;
    for (const auto& record : split_dataset(numbered(50), 5, seed).second.records)
      out.push_back(record.line);
    return out;
  };
  EXPECT_EQ(lines(1), lines(1));
  EXPECT_NE(lines(1), lines(2));
  EXPECT_EQ(lines(42), (std::vector<int64_t>{4, 11, 18, 30, 32}));  // on every machine
}

TEST(SplitDataset, RefusesPartsThatLeaveNothing) {
  EXPECT_ERROR(ValueError, split_dataset(numbered(3), 3, 1), "leaves none to train on");
  EXPECT_ERROR(ValueError, split_dataset(numbered(1), 0.5, 1), "leaves none to train on");
  EXPECT_ERROR(ConfigError, split_dataset(numbered(3), 1.5, 1), "a whole number of rows");
  EXPECT_ERROR(ConfigError, split_dataset(numbered(3), 0, 1), "allowed a fraction below 1");
}

TEST(DatasetFuzz, SurvivesDamage) {
  const TemporaryFolder folder;
  const std::string goods[] = {
      "{\"instruction\": \"a\\u00e9\", \"input\": \"\", \"output\": \"b\"}\n{\"instruction\": "
      "\"c\", \"output\": \"d\"}\n",
      "[{\"messages\": [{\"role\": \"user\", \"content\": \"[x]\"}]},\n {\"messages\": [{\"role\": "
      "\"a\", \"content\": \"\"}]}]",
      "{\"prompt\": \"p\", \"completion\": \"c\"}\n"};
  std::mt19937_64 random(4);
  int read = 0, refused = 0;
  for (int64_t i = 0; i < test::fuzz_iterations(4000); ++i) {
    const std::string& good = goods[random() % 3];
    const auto path = folder.put("a.json", io::mutate(good, good.size(), random));
    try {
      load_dataset(path);
      ++read;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos);
      ++refused;
    }
  }
  EXPECT_GT(read, 20);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace qlora::data
