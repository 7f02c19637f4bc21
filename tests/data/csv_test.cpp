#include "data/csv.h"

#include <gtest/gtest.h>

#include <random>

#include "tests/data/data_files.h"

namespace qlora::data {
namespace {

using Row = std::vector<std::string>;

std::vector<Row> read(std::string_view text) {
  CsvReader csv(text, "t.csv");
  std::vector<Row> rows;
  for (Row row; csv.next(row);) rows.push_back(row);
  return rows;
}

TEST(Csv, Rfc4180) {
  EXPECT_EQ(read(""), std::vector<Row>{});
  EXPECT_EQ(read("a,b\nc,d"), (std::vector<Row>{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(read("a,b\r\nc,d\r\n"), (std::vector<Row>{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(read("\"a,\"\"b\"\"\nc\",d\n"), (std::vector<Row>{{"a,\"b\"\nc", "d"}}));
  EXPECT_EQ(read(",\n,,\n"), (std::vector<Row>{{"", ""}, {"", "", ""}}));
  EXPECT_EQ(read("\"\"\n"), (std::vector<Row>{{""}}));
  EXPECT_EQ(read("a,"), (std::vector<Row>{{"a", ""}}));
  EXPECT_EQ(read("\n\na\n\n\r\nb\n\n"), (std::vector<Row>{{"a"}, {"b"}}));  // empty lines
  EXPECT_EQ(read("5\" disk,x"), (std::vector<Row>{{"5\" disk", "x"}}));
}

TEST(Csv, ARowEndsWithAnyLineEnd) {
  EXPECT_EQ(read("a,b\rc,d\r"), (std::vector<Row>{{"a", "b"}, {"c", "d"}}));
  EXPECT_EQ(read("a\rb\nc\r\nd"), (std::vector<Row>{{"a"}, {"b"}, {"c"}, {"d"}}));
  EXPECT_EQ(read("\r\ra,\r\"x\ry\"\rb"), (std::vector<Row>{{"a", ""}, {"x\ry"}, {"b"}}));
  CsvReader csv("a\r\"x\ry\r\nz\"\r\n\rb\n", "t.csv");
  Row row;
  std::vector<int64_t> lines;
  while (csv.next(row)) lines.push_back(csv.line());
  EXPECT_EQ(lines, (std::vector<int64_t>{1, 2, 6}));
}

TEST(Csv, KnowsTheLineOfARow) {
  CsvReader csv("a\n\"x\ny\"\n\nb\n", "t.csv");
  Row row;
  std::vector<int64_t> lines;
  while (csv.next(row)) lines.push_back(csv.line());
  EXPECT_EQ(lines, (std::vector<int64_t>{1, 2, 5}));
}

TEST(Csv, RefusesBrokenQuotes) {
  EXPECT_ERROR(FormatError, read("a\n\"b\nc"), "t.csv:2: a quoted field is not closed");
  EXPECT_ERROR(FormatError, read("a\n\"b\"c\n"),
               "t.csv:2: a closing quote is followed by more text");
}

TEST(CsvFuzz, WhatIsWrittenIsRead) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 3000; ++round) {
    std::vector<Row> rows(1 + random() % 4, Row(1 + random() % 4));
    std::string text;
    for (Row& row : rows) {
      for (std::string& field : row) {
        for (uint64_t n = random() % 6; n > 0; --n) field += "ab\",\n\r "[random() % 7];
      }
      if (row.size() == 1 && row[0].empty()) row[0] = "x";  // an empty line is no row
      for (size_t i = 0; i < row.size(); ++i) {
        std::string quoted = "\"";
        for (const char c : row[i]) quoted += c == '"' ? "\"\"" : std::string(1, c);
        text += (i ? "," : "") + quoted + "\"";
      }
      text += random() % 2 ? "\n" : "\r\n";
    }
    ASSERT_EQ(read(text), rows) << text;
  }
}

TEST(CsvFuzz, SurvivesAnyBytes) {
  std::mt19937_64 random(2);
  int read_well = 0, refused = 0;
  for (int round = 0; round < 20'000; ++round) {
    std::string text;
    for (uint64_t n = random() % 20; n > 0; --n) text += "a\",\n\r"[random() % 5];
    try {
      read(text);
      ++read_well;
    } catch (const FormatError&) {
      ++refused;
    }
  }
  EXPECT_GT(read_well, 1000);
  EXPECT_GT(refused, 1000);
}

}  // namespace
}  // namespace qlora::data
