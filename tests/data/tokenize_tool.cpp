// Runs the project's tokenizers for the scripts in tests/interop.
//
//   tokenize_tool corpus KIND            texts to stdout: tricky, random or corpus
//   tokenize_tool encode PATH [nospecial]  texts from stdin, ids to stdout
//   tokenize_tool decode PATH [keep]     ids from stdin, texts to stdout
//   tokenize_tool time PATH              texts from stdin; CPU seconds and MB/s to stdout
//
// Texts and ids travel as records: a little-endian uint32 count of bytes or ids, then these.

#include <cstdio>
#include <cstring>
#include <ctime>
#include <iostream>
#include <iterator>
#include <string>
#include <vector>

#include "core/error.h"
#include "data/tokenizer.h"
#include "tests/data/corpus.h"

namespace {

std::vector<std::string> read_records(size_t unit) {
  const std::string input((std::istreambuf_iterator<char>(std::cin)), {});
  std::vector<std::string> records;
  for (size_t at = 0; at + 4 <= input.size();) {
    uint32_t count;
    std::memcpy(&count, input.data() + at, 4);
    records.push_back(input.substr(at + 4, count * unit));
    at += 4 + count * unit;
  }
  return records;
}

void write_record(const void* data, size_t count, size_t unit) {
  const auto length = static_cast<uint32_t>(count);
  std::fwrite(&length, 4, 1, stdout);
  std::fwrite(data, unit, count, stdout);
}

double cpu_seconds_since(std::clock_t start) {
  return static_cast<double>(std::clock() - start) / CLOCKS_PER_SEC;
}

int run(const std::vector<std::string>& args) {
  if (args[0] == "corpus") {
    const auto texts = args[1] == "tricky"   ? qlora::test::tricky_texts()
                       : args[1] == "random" ? qlora::test::make_random_strings(100'000, 7)
                                             : qlora::test::make_corpus(1'500'000, 11);
    for (const auto& text : texts) write_record(text.data(), text.size(), 1);
    return 0;
  }
  const std::clock_t start = std::clock();
  const auto tokenizer = qlora::data::load_tokenizer(args[1]);
  const double load_s = cpu_seconds_since(start);
  const bool flag = args.size() > 2;
  if (args[0] == "encode") {
    for (const auto& text : read_records(1)) {
      const auto ids = tokenizer->encode(text, {.add_special = !flag});
      write_record(ids.data(), ids.size(), 4);
    }
  } else if (args[0] == "decode") {
    for (const auto& record : read_records(4)) {
      std::vector<int32_t> ids(record.size() / 4);
      std::memcpy(ids.data(), record.data(), record.size());
      const auto text = tokenizer->decode(ids, flag);
      write_record(text.data(), text.size(), 1);
    }
  } else {
    const auto texts = read_records(1);
    for (int round = 0; round < 3; ++round) {  // the first one is cold
      size_t bytes = 0, ids = 0;
      const std::clock_t begin = std::clock();
      for (const auto& text : texts) {
        bytes += text.size();
        ids += tokenizer->encode(text).size();
      }
      const double seconds = cpu_seconds_since(begin);
      std::printf("load %.1f ms, %zu bytes, %zu ids, %.3f s, %.2f MB/s\n", 1e3 * load_s, bytes, ids,
                  seconds, static_cast<double>(bytes) / seconds / 1e6);
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  const std::vector<std::string> args(argv + 1, argv + argc);
  if (args.size() < 2) {
    std::cerr << "usage: tokenize_tool corpus KIND | encode|decode|time PATH [flag]\n";
    return 2;
  }
  try {
    return run(args);
  } catch (const qlora::Error& error) {
    std::cerr << error.what() << "\n";
    return 2;
  }
}
