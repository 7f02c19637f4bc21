#include "cli/output.h"

#include <gtest/gtest.h>

namespace qlora::cli {
namespace {

TEST(TerminalSafe, TakesAwayWhatATerminalObeys) {
  EXPECT_EQ(terminal_safe("\x1b[31mred\a\r\x7f", LineBreaks::kKeep), "?[31mred???");
  EXPECT_EQ(terminal_safe("a\nb\tc", LineBreaks::kKeep), "a\nb\tc");
  EXPECT_EQ(terminal_safe("a\nb\tc", LineBreaks::kReplace), "a?b\tc");
  EXPECT_EQ(terminal_safe("\xC2\x9B[31m", LineBreaks::kKeep), "?[31m");  // C1 CSI
  EXPECT_EQ(terminal_safe("\xC2\xA9 \xEA\xB0\x80", LineBreaks::kKeep), "\xC2\xA9 \xEA\xB0\x80");
  EXPECT_EQ(terminal_safe("\xC2", LineBreaks::kKeep), "\xC2");  // cut off: no C1
  EXPECT_EQ(terminal_safe(std::string("\0", 1), LineBreaks::kKeep), "?");
}

TEST(FactsText, AlignsAndChoosesUnits) {
  const Json facts = {{"kind", "safetensors"},   {"size_bytes", 1300000000}, {"wall_seconds", 192},
                      {"tied_embeddings", true}, {"nothing", nullptr},       {"rate", 0.5},
                      {"count", 1234567}};
  EXPECT_EQ(facts_text(facts),
            "kind             safetensors\n"
            "size             1.3 GB\n"
            "wall             3m12s\n"
            "tied embeddings  yes\n"
            "nothing          -\n"
            "rate             0.5\n"
            "count            1,234,567\n");
}

TEST(FactsText, IndentsSectionsAndDrawsTables) {
  const Json facts = {{"model", {{"layers", 2}}},
                      {"names", {"q_proj", "v_proj"}},
                      {"empty", Json::array()},
                      {"tensors",
                       {{{"name", "a"}, {"shape", {2, 1024}}, {"size_bytes", 10}},
                        {{"name", "long.name"}, {"shape", Json::array()}, {"size_bytes", 2000}}}}};
  EXPECT_EQ(facts_text(facts),
            "model\n"
            "  layers  2\n"
            "names  q_proj, v_proj\n"
            "empty  none\n"
            "tensors\n"
            "  name       shape       size\n"
            "  a          [2, 1,024]  10 B\n"
            "  long.name  []          2 kB\n");
}

TEST(FactsText, ATextFromAFileCannotSteerTheTerminal) {
  EXPECT_EQ(facts_text({{"name", "\x1b]0;owned\a\n"}}), "name  ?]0;owned??\n");
}

}  // namespace
}  // namespace qlora::cli
