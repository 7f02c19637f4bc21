#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "core/clock.h"
#include "data/jinja/template.h"
#include "data/letter_case.h"
#include "data/utf8.h"
#include "io/atomic_file.h"
#include "tests/data/data_files.h"
#include "tests/data/jinja_variables.h"
#include "tests/io/mutate.h"
#include "tests/support/fuzz.h"

namespace qlora::data::jinja {
namespace {

using nlohmann::ordered_json;

constexpr std::time_t kNow = 1'700'000'000;

std::string render(const std::string& source, const Variables& variables = {},
                   const Limits& limits = {}) {
  return Template(source, "t").render(variables, kNow, limits).text;
}

const ordered_json& fixture_file() {
  static const ordered_json file =
      ordered_json::parse(io::read_file(io::fixture("templates/cases.json")));
  return file;
}

// What transformers renders of every construct, byte for byte; tests/interop/template_cases.py.
TEST(Jinja, RendersWhatTheReferenceRenders) {
  const Variables variables = variables_of(fixture_file()["data"]);
  int rendered = 0, refused = 0;
  for (const ordered_json& fixture_case : fixture_file()["cases"]) {
    const auto source = fixture_case["template"].get<std::string>();
    try {
      const auto rendering = Template(source, "t").render(variables, kNow);
      ASSERT_FALSE(fixture_case.contains("error")) << source << "\ngives " << rendering.text;
      EXPECT_EQ(rendering.text, fixture_case["text"].get<std::string>()) << source;
      ordered_json spans = ordered_json::array();
      for (const auto& span : rendering.generations) spans.push_back({span.begin, span.end});
      EXPECT_EQ(spans, fixture_case["generations"]) << source;
      ++rendered;
    } catch (const Error& error) {
      EXPECT_TRUE(fixture_case.contains("error")) << source << "\n" << error.what();
      EXPECT_TRUE(std::string(error.what()).starts_with("[template] t, line ")) << error.what();
      EXPECT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
      ++refused;
    }
  }
  EXPECT_GT(rendered, 170);
  EXPECT_GT(refused, 80);
}

TEST(Jinja, SaysWhatItDoesNotKnowByNameAndLine) {
  const auto says = [](const std::string& source, const std::string& part) {
    EXPECT_SAYS((testing::message_of<Error>([&] { render(source); }, "[template] t, line ")), part);
  };
  says("a\n\n{{ x|nope }}", "line 3: the filter 'nope' is not known; known are abs ");
  says("\n{{ 1 is nope }}", "line 2: the test 'nope' is not known; known are ");
  says("{{ lipsum() }}", "the function 'lipsum' is not known; known are range, dict, namespace");
  says("a\n{% include 'x' %}", "line 2: the statement 'include' is not supported; known are for");
  says("{% for i in x recursive %}{% endfor %}", "'recursive' loops are not supported");
  says("{{ 'a'.casefold() }}", "the method 'casefold' of texts is not supported");
  says("{{ [1].append(2) }}", "the method 'append' would change a list, which templates may not");
  says("{{ 1.5.is_integer() }}", "the attribute 'is_integer' of a float is not supported");
  says("{{ 'a'.__class__.x }}", "access to the attribute '__class__' of a str is not allowed");
  says("{{ x.y }}", "'x' is undefined");
  says("{{ {}.y.z }}", "a dict has no attribute 'y'");
  says("{{ raise_exception('Roles must\nalternate') }}",
       "the template refuses: Roles must alternate");
  says("{% if x %}", "the template ends inside a block, expected 'endif'");
  says("{{ 1", "a tag is not closed, expected '}}'");
  says("{{ 'a", "a text is not closed");
  says("{# a", "a comment is not closed");
  says("{% raw %}", "a raw block is not closed");
  says("{{ 99999999999999999999 }}", "a number beyond 64 bits");
  says("{{ 9223372036854775807 + 1 }}", "a whole number grows beyond 64 bits");
  says("{{ \u00e4 }}", "unexpected '\\xc3\\xa4'");
  says("{{ 'a' ~ namespace }}", "a function cannot be printed");
}

TEST(Jinja, ASafeTextAndWhatGoesBesideIt) {
  EXPECT_EQ(render("{{ ('<a>'|safe) + '<b>' }}"), "<a>&lt;b&gt;");
  EXPECT_ERROR(ValueError, render("{{ ('a'|safe).upper() }}"), "went through 'safe'");
}

TEST(Jinja, TheTimeIsThatOfTheCaller) {
  setenv("TZ", "UTC", 1);
  tzset();
  EXPECT_EQ(render("{{ strftime_now('%d %b %Y|%H:%M|%%|%z%f') }}"), "14 Nov 2023|22:13|%|000000");
  EXPECT_EQ(render("{{ strftime_now('') }}"), "");
  EXPECT_ERROR(ValueError, render("{{ strftime_now('x' * 5000) }}"), "longer than 4096 bytes");
}

TEST(Jinja, EveryLoopAndEveryGrowthEnds) {
  const auto ends = [](const std::string& source, const std::string& part) {
    const double begin = process_cpu_seconds();
    EXPECT_SAYS((testing::message_of<Error>([&] { render(source); }, "[template] t, line ")), part);
    EXPECT_LT(process_cpu_seconds() - begin, 30) << source;
  };
  const std::string many = "{% for a in range(9999) %}{% for b in range(99) %}";
  ends(many + "{% for c in 'abcdefghijklmnopqrstuvwxyz' %}{% endfor %}{% endfor %}{% endfor %}",
       "does it loop without end?");
  ends("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recurses deeper than 1000 levels");
  ends("{% macro f(n) %}{% for i in range(9) %}{{ f(n) }}{% endfor %}{% endmacro %}{{ f(1) }}",
       "recurses deeper than");
  ends(
      "{% set n = namespace(s='x') %}" + many + "{% set n.s = n.s ~ n.s %}{% endfor %}{% endfor %}",
      " bytes");
  ends("{% set n = namespace(l=[1]) %}" + many +
           "{% set n.l = [n.l, n.l] %}{% endfor %}{% endfor %}",
       "a value ");
  ends("{% set n = namespace(l=[1]) %}" + many + "{% set n.l = [n.l] %}{% endfor %}{% endfor %}",
       "a value nests deeper than 100 levels");
  ends("{{ 'x' * 10 ** 12 }}", " bytes");
  ends("{{ [0] * 10 ** 12 }}", " bytes");
  ends("{{ 'x'.ljust(10 ** 12) }}", "too great a width");
  ends("{{ 'x'|center(10 ** 12) }}", "too great a width");
  ends("{{ '%1000000000d' % 1 }}", "a width above");
  ends("{{ '{:9999999999}'.format(1) }}", "a width above");
  ends("{{ '%*d' % (10 ** 15, 1) }}", "no number up to");
  ends("{{ ('x' * 10 ** 6)|replace('x', 'y' * 10 ** 6) }}", " bytes");
  ends("{{ ('y' * 10 ** 6).join('x' * 10 ** 6) }}", " bytes");
  ends("{{ [1]|batch(10 ** 15, 0)|list }}", " bytes");
  ends("{{ [1]|slice(10 ** 15)|list }}", " bytes");
  ends("{{ [[[1]]]|tojson(indent=10 ** 9) }}", "too great a width");
  ends("{{ ['a', 'b']|indent(10 ** 12) }}", "expected a text");
  ends("{{ 'a'|indent(10 ** 12) }}", "too great a width");
  ends("{% for i in range(99999) %}" + std::string(4000, 'x') + "{% endfor %}", " bytes");
  ends("{% set l = range(99999)|list %}" + many +
           "{% set x = l == l|list %}{% endfor %}{% endfor %}",
       " ");
}

TEST(Jinja, NestingIsBounded) {
  for (const char* pair : {"()", "[]", "{}", "-", "not ", "a."}) {
    const std::string part(pair);
    std::string source = "{{ ";
    const bool is_pair = part.size() == 2 && part != "a.";
    const std::string open = is_pair ? part.substr(0, 1) : part;
    for (int i = 0; i < 100'000; ++i) source += open;
    source += is_pair ? std::string(100'000, part[1]) : "1";
    EXPECT_FALSE(testing::message_of<FormatError>([&] { render(source + " }}"); }).empty());
  }
  std::string ifs;
  for (int i = 0; i < 50'000; ++i) ifs += "{% if 1 %}";
  EXPECT_ERROR(FormatError, render(ifs), "nests deeper than 200 levels");
  std::string sum = "{{ 1";
  for (int i = 0; i < 50'000; ++i) sum += " + 1";
  EXPECT_ERROR(FormatError, render(sum + " }}"), "nests deeper than 200 levels");
  EXPECT_ERROR(FormatError, render(std::string(kMaxTemplateBytes + 1, 'x')), "allowed at most");
  std::string elifs = "{% if 0 %}";
  for (int i = 0; i < 5000; ++i) elifs += "{% elif 0 %}";
  EXPECT_EQ(render(elifs + "{% else %}x{% endif %}"), "x");  // side by side, not nested
}

TEST(Jinja, CirclesOfNamespacesAndMacrosAreFreed) {  // LeakSanitizer says so
  EXPECT_EQ(render("{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = b %}"
                   "{% macro m() %}{{ m is callable }}{% endmacro %}{% set a.m = m %}{{ a.m() }}"),
            "True");
}

TEST(LetterCase, IsPythons) {
  EXPECT_EQ(to_upper("stra\u00dfe \ufb01"), "STRASSE FI");
  EXPECT_EQ(to_lower("\u039f\u0394\u039f\u03a3 \u03a3\u0391\u03a3. \u0130"),
            "\u03bf\u03b4\u03bf\u03c2 \u03c3\u03b1\u03c2. i\u0307");
  EXPECT_EQ(lower_each("\u0391\u03a3"), "\u03b1\u03c3");
  EXPECT_EQ(to_title("\u01c4 it's \u00dfx"), "\u01c5 It'S Ssx");
  EXPECT_EQ(capitalize("\u01c6ABC"), "\u01c5abc");
  EXPECT_TRUE(is_printable(U'\u00e4'));
  EXPECT_FALSE(is_printable(U'\u200b'));
}

// What the fuzz tests put together: pieces of the fixtures' templates, and damage.
class Mixer {
 public:
  explicit Mixer(uint64_t seed) : random_(seed) {
    for (const auto& fixture_case : fixture_file()["cases"]) {
      sources_.push_back(fixture_case["template"].get<std::string>());
    }
  }
  std::string next() {
    std::string text = pick();
    switch (random_() % 4) {
      case 0:  // two halves
        return text.substr(0, random_() % (text.size() + 1)) + tail(pick());
      case 1:  // a word of one in the other
        return text.insert(random_() % (text.size() + 1), tail(pick()).substr(0, random_() % 12));
      case 2:
        return text + pick();
      default:
        return io::mutate(text, text.size(), random_);
    }
  }

 private:
  const std::string& pick() { return sources_[random_() % sources_.size()]; }
  std::string tail(const std::string& text) { return text.substr(random_() % (text.size() + 1)); }

  std::mt19937_64 random_;
  std::vector<std::string> sources_;
};

TEST(JinjaFuzz, AnyTextRendersOrIsRefused) {
  const Variables variables = variables_of(fixture_file()["data"]);
  const Limits limits{.steps = 20'000, .bytes = 1 << 20};
  Mixer mixer(11);
  int64_t rendered = 0;
  const int64_t rounds = qlora::test::fuzz_iterations(20'000);
  for (int64_t i = 0; i < rounds; ++i) {
    const std::string source = replace_invalid_utf8(mixer.next());
    try {
      const auto rendering = Template(source, "t").render(variables, kNow, limits);
      ASSERT_EQ(valid_utf8_prefix(rendering.text), rendering.text.size()) << source;
      ++rendered;
    } catch (const Error& error) {
      ASSERT_EQ(std::string(error.what()).find('\n'), std::string::npos) << error.what();
    }
  }
  EXPECT_GT(rendered, rounds / 10);
}

}  // namespace
}  // namespace qlora::data::jinja
