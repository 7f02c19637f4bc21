#include "tests/data/corpus.h"

#include <iterator>
#include <string_view>

#include "data/utf8.h"

namespace qlora::test {
namespace {

using data::append_utf8;

/// SplitMix64 (Steele, Lea, Flood, 2014).
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t next() {
    uint64_t z = state_ += 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    return z ^ z >> 31;
  }
  uint64_t below(uint64_t n) { return next() % n; }
  template <class T, size_t kCount>
  const T& pick(const T (&items)[kCount]) {
    return items[below(kCount)];
  }

 private:
  uint64_t state_;
};

constexpr std::string_view kSyllables[] = {
    "ba", "co", "de", "fi", "gu", "ha", "in", "jo", "ka", "lo", "mi",  "no",   "or",  "pe", "qui",
    "re", "st", "th", "un", "ve", "wi", "xy", "za", "er", "al", "ing", "tion", "the", "an", "ly"};
constexpr std::string_view kWords[] = {
    "the",       "of",    "and",   "a",       "to",        "in",    "is",     "that",
    "it's",      "don't", "we'll", "I'm",     "they've",   "he'd",  "you're", "DON'T",
    "It'S",      "model", "token", "weights", "quantized", "naïve", "café",   "Straße",
    "coöperate", "e.g.",  "GPU",   "LoRA",    "x86_64",    "utf-8"};
constexpr std::string_view kCode[] = {"for (int i = 0; i < n; ++i) {",
                                      "\treturn x->y[0];",
                                      "    if self.__init__ is None:",
                                      "        raise ValueError(f\"{a!r}\")",
                                      "}",
                                      "/* ** */",
                                      "#include <vector>",
                                      "std::map<std::string, int64_t> m;",
                                      "a = b**2 + c//3 - 0x1F & ~mask | 1e-9;",
                                      "\t\t\t// TODO",
                                      "print('''hi''')",
                                      "<div class=\"a b\">&nbsp;</div>",
                                      "SELECT * FROM t WHERE id != 'x';",
                                      "$HOME/.config/*.json",
                                      "λ = lambda x: x @ W.T",
                                      "::::",
                                      "-->",
                                      "/////////////////////////////"};
constexpr std::string_view kKorean[] = {
    "안녕하세요", "양자화",   "모델은", "파라미터를", "학습합니다", "그리고", "대한민국",
    "서울에서",   "ㅋㅋㅋㅋ", "ㅠㅠ",   "꽃잎이",     "읽었습니다", "값",     "뷁",
    "각각의",     "한글",     "토큰",   "언어",       "것이다",     "없었다"};
constexpr std::string_view kOther[] = {"こんにちは",
                                       "日本語の文章",
                                       "中文分詞",
                                       "繁體字",
                                       "Привет",
                                       "мир",
                                       "Ελληνικά",
                                       "שלום",
                                       "مرحبا",
                                       "नमस्ते",
                                       "ไทยแลนด์",
                                       "Ünïcödé",
                                       "ﬁligree",
                                       "½⅓",
                                       "²³¹",
                                       "Ⅳ",
                                       "①②",
                                       "٣٤٥",
                                       "๑๒",
                                       "𝒳𝕐𝟙𝟚",
                                       "ǅ",
                                       "ſtop",
                                       "İstanbul",
                                       "ŉ",
                                       "e\u0301",
                                       "a\u0323\u0302",
                                       "\u1100\u1161\u11a8",
                                       "\u212b",
                                       "\u0344",
                                       "K"};
constexpr std::string_view kEmoji[] = {"😀",
                                       "👍🏽",
                                       "👨‍👩‍👧‍👦",
                                       "🇰🇷",
                                       "❤️",
                                       "🏳️‍🌈",
                                       "🤖",
                                       "1️⃣",
                                       "☃",
                                       "🧑🏿‍🚀"};
constexpr std::string_view kSpaces[] = {
    " ",      " ",      " ",   " ",      "  ",         "   ",      "\n",     "\n\n",   "\t",
    "\r\n",   " \n",    "\n ", "\u00a0", "\u3000",     "\u2003",   "\u200b", "\u2028", "\u0085",
    "\u180e", "\ufeff", "\v",  "\f",     "          ", "\n\n\n\n", " \t \t"};
constexpr std::string_view kSpecial[] = {"<|endoftext|>",
                                         "<|im_start|>",
                                         "<|im_end|>",
                                         "<s>",
                                         "</s>",
                                         "<unk>",
                                         "<0x0A>",
                                         "<|begin_of_text|>",
                                         "<|eot_id|>",
                                         "<tool>",
                                         "[strip]",
                                         "wordtok",
                                         "Norm",
                                         "\u2581",
                                         "\u0120",
                                         "<|im_",
                                         "|>",
                                         "'",
                                         "’s",
                                         "'S"};
constexpr char32_t kRanges[][2] = {
    {0x20, 0x7E},       {0x20, 0x7E},       {0x20, 0x7E},       {0xA0, 0xFF},
    {0x100, 0x24F},     {0x300, 0x36F},     {0x370, 0x3FF},     {0x400, 0x4FF},
    {0x590, 0x6FF},     {0x900, 0x97F},     {0xE00, 0xE7F},     {0x1100, 0x11FF},
    {0x1E00, 0x1EFF},   {0x2000, 0x206F},   {0x2070, 0x218F},   {0x2190, 0x2BFF},
    {0x3000, 0x30FF},   {0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xAC00, 0xD7A3},
    {0xF900, 0xFAFF},   {0xFE00, 0xFE0F},   {0xFF00, 0xFFEF},   {0x1D400, 0x1D7FF},
    {0x1F300, 0x1FAFF}, {0x20000, 0x2A6DF}, {0xE0000, 0xE007F}, {0x0, 0x1F}};

char32_t any_scalar(Random& random) {
  const char32_t code = static_cast<char32_t>(random.below(0x110000 - 0x800));
  return code < 0xD800 ? code : code + 0x800;
}

char32_t in_range(Random& random, const char32_t (&range)[2]) {
  return range[0] + static_cast<char32_t>(random.below(range[1] - range[0] + 1));
}

void append_number(std::string& out, Random& random) {
  const uint64_t digits = 1 + random.below(12);
  for (uint64_t i = 0; i < digits; ++i) {
    out += static_cast<char>('0' + random.below(10));
    if (random.below(9) == 0) out += random.below(2) ? '.' : ',';
  }
}

void append_word(std::string& out, Random& random) {
  switch (random.below(16)) {
    case 0:
    case 1:
    case 2:
      out += random.pick(kKorean);
      break;
    case 3:
      append_number(out, random);
      break;
    case 4:
      out += random.pick(kOther);
      break;
    case 5:
      out += random.pick(kEmoji);
      break;
    case 6:
      out += "(\"";
      out += random.pick(kWords);
      out += "\")!?";
      break;
    case 7:
      for (uint64_t i = 2 + random.below(4); i > 0; --i) out += random.pick(kSyllables);
      out += random.below(4) ? "," : "...";
      break;
    default:
      if (random.below(2)) {
        out += random.pick(kWords);
      } else {
        for (uint64_t i = 1 + random.below(4); i > 0; --i) out += random.pick(kSyllables);
      }
  }
}

}  // namespace

std::vector<std::string> make_corpus(size_t bytes, uint64_t seed) {
  Random random(seed);
  std::vector<std::string> texts;
  for (size_t made = 0; made < bytes;) {
    std::string text;
    const size_t target = 200 + random.below(4000);
    while (text.size() < target) {
      switch (random.below(40)) {
        case 0:
          for (uint64_t i = 1 + random.below(8); i > 0; --i) {
            text += random.pick(kCode);
            text += '\n';
          }
          break;
        case 1:  // a long word
          for (uint64_t i = 20 + random.below(60); i > 0; --i) text += random.pick(kSyllables);
          break;
        case 2:
          text.append(1 + random.below(60), "-=#*_ \n\t."[random.below(9)]);
          break;
        default:
          append_word(text, random);
          text += random.below(6) ? std::string_view(" ") : random.pick(kSpaces);
      }
    }
    made += text.size();
    texts.push_back(std::move(text));
  }
  return texts;
}

std::vector<std::string> make_random_strings(size_t count, uint64_t seed) {
  Random random(seed);
  std::vector<std::string> texts;
  texts.reserve(count);
  for (size_t i = 0; i < count; ++i) {
    std::string text;
    const uint64_t style = random.below(6);
    const auto& range = random.pick(kRanges);
    for (uint64_t left = random.below(25); left > 0; --left) {
      if (style == 0) {
        append_utf8(text, any_scalar(random));
      } else if (style == 1) {
        append_utf8(text, in_range(random, range));
      } else if (style == 2) {
        append_utf8(text, in_range(random, random.pick(kRanges)));
      } else if (style == 3) {
        text += random.below(3) ? random.pick(kSpaces) : random.pick(kWords);
      } else if (style == 4) {
        text += random.below(2) ? random.pick(kSpecial) : random.pick(kSpaces);
        if (random.below(2)) text += random.pick(kOther);
      } else {
        append_word(text, random);
        if (random.below(3)) text += random.pick(kSpaces);
      }
    }
    texts.push_back(std::move(text));
  }
  return texts;
}

std::vector<std::string> tricky_texts() {
  std::vector<std::string> texts = {
      "",
      " ",
      "  ",
      "\n",
      "\n\n",
      " \n",
      "\r\n\r\n",
      "a",
      " a",
      "a ",
      "  a  ",
      "\ta\t",
      std::string("\0", 1),
      std::string("a\0b", 3),
      "Hello, world!",
      "hello world  again   and    again",
      "it's we'll IT'S WE'LL 'tis ''s 's",
      "don’t",
      "x'ſ x'S",
      "1234567890 1,234.5678 12 123 1234 ٣٤٥ ²³ Ⅳ",
      "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
      "a<|endoftext|>b",
      "<|endoftext|><|endoftext|>",
      " <|endoftext|> ",
      "<s>hi</s> <unk>",
      "### Instruction:\nDo.\n\n### Input:\n\n\n### Response:\nDone.",
      "a [strip] b[strip]c  [strip]  d",
      "wordtok awordtok wordtok. wordtokb é\u0301wordtok",
      "Norm norm aNorm",
      "\u2581\u2581a \u2581b",
      "\u0120\u0120",
      "\ufeffBOM",
      "\u180e\u180ea \u180e",
      "\U00013460\U00031350\U0002ebf0 \u1c89\u1c8a",
      "e\u0301 \u00e9 \u1e9b\u0323 q\u0307\u0323 \u212b \ufb01 \u0344",
      "\u1100\u1161\u11a8 \uac00\u11a8 \uac01",
      "\u0958 \u2126 \u2adc \U0002f800 \U0001d15e"};
  for (const std::string_view s : kSpaces) texts.push_back("a" + std::string(s) + "b");
  for (const std::string_view s : kSpaces) texts.push_back(std::string(s) + "b" + std::string(s));
  for (const std::string_view s : kSpecial) texts.push_back("x" + std::string(s) + " y");
  for (const std::string_view s : kOther) texts.emplace_back(s);
  for (const std::string_view s : kEmoji) texts.push_back("🙂 " + std::string(s));
  for (const std::string_view s : kKorean) texts.emplace_back(s);
  for (const std::string_view s : kCode) texts.emplace_back(s);
  for (const size_t n : {30, 39, 40, 41, 42, 64, 200}) {
    texts.emplace_back(n, 'a');
    texts.emplace_back(n, ' ');
    std::string word;
    while (word.size() < n) word += kSyllables[word.size() % std::size(kSyllables)];
    texts.push_back(word.substr(0, n));
  }
  for (int c = 1; c < 128; ++c) texts.push_back(std::string("x") + static_cast<char>(c) + "1");
  return texts;
}

}  // namespace qlora::test
