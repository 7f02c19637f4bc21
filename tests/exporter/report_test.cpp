#include "exporter/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "exporter/card.h"
#include "io/atomic_file.h"
#include "tests/support/temporary_folder.h"

namespace qlora::exporter {
namespace {

using nlohmann::json;

ExportReport sample() {
  ExportReport r;
  r.title = "Tiny <model> & \"co\"";
  r.base_model = "org/tiny";
  r.adapter = "out";
  r.grid = "awq, 4 bits";
  r.protocol = "held-out rows";
  r.calibration = "512 rows, 100 tokens";
  r.settings = {{"bits", 4}, {"name", "</pre><script>alert(1)</script>"}};
  r.stages = {
      {.name = "base, 16 bits", .kind = StageKind::kBase16, .perplexity = 20.0, .bytes = 1'000'000},
      {.name = "adapter on NF4",
       .kind = StageKind::kAdapter,
       .perplexity = 10.0,
       .kl_divergence = 0.0,
       .top1_agreement = 1.0},
      {.name = "awq <4>",
       .kind = StageKind::kQuantized,
       .perplexity = 11.0,
       .kl_divergence = 0.02,
       .top1_agreement = 0.957,
       .bytes = 250'000,
       .tokens_per_second = 1234.5,
       .peak_memory_bytes = 500'000'000,
       .is_chosen = true,
       .note = "a | note"}};
  r.layers = {
      {.module = "model.layers.0.mlp.down_proj",
       .bits = 4,
       .group_size = 64,
       .mse = 1e-5,
       .sqnr_db = 21.3,
       .objective_rtn = 5.0,
       .objective = 3.0,
       .damping = 0.1,
       .seconds = 0.5,
       .adapter_over_step = 0.2,
       .fell_back = true},
      {.module = "model.layers.1.mlp.down_proj", .mse = std::numeric_limits<double>::quiet_NaN()}};
  r.warnings = {"something <b>bold</b>"};
  r.gate = GateResult{1.05, 1.1, false, {"asymmetric", "more samples"}};
  r.seconds = 61;
  r.peak_memory_bytes = 900'000'000;
  return r;
}

TEST(ExportReport, DerivesRatiosFromItsStages) {
  const ExportReport r = sample();
  const StageResult& awq = r.stages[2];
  EXPECT_DOUBLE_EQ(*size_ratio(r, awq), 4.0);
  EXPECT_DOUBLE_EQ(*saved_percent(r, awq), 75.0);
  EXPECT_DOUBLE_EQ(*perplexity_ratio(r, awq), 1.1);
  EXPECT_FALSE(size_ratio(r, r.stages[1]));
  EXPECT_EQ(chosen_stage(r), &awq);
  EXPECT_EQ(find_stage(r, StageKind::kMerged), nullptr);
  ExportReport no_adapter = r;
  no_adapter.stages.erase(no_adapter.stages.begin() + 1);
  EXPECT_DOUBLE_EQ(*perplexity_ratio(no_adapter, no_adapter.stages[1]), 0.55);
  EXPECT_EQ(chosen_stage(ExportReport{}), nullptr);
  EXPECT_FALSE(perplexity_ratio(ExportReport{}, awq));
}

TEST(ExportReport, JsonHoldsEveryNumberAndNullForTheRest) {
  const json j = json::parse(to_json(sample()).dump());
  EXPECT_EQ(j["stages"].size(), 3u);
  EXPECT_EQ(j["stages"][2]["kind"], "quantized");
  EXPECT_EQ(j["stages"][2]["chosen"], true);
  EXPECT_EQ(j["stages"][2]["bytes"], 250'000);
  EXPECT_EQ(j["stages"][2]["size_ratio"], 4.0);
  EXPECT_EQ(j["stages"][0]["kl_divergence"], nullptr);
  EXPECT_EQ(j["layers"][0]["fell_back"], true);
  EXPECT_EQ(j["layers"][1]["mse"], nullptr);  // NaN has no JSON
  EXPECT_EQ(j["gate"]["passed"], false);
  EXPECT_EQ(j["gate"]["advice"].size(), 2u);
  EXPECT_EQ(j["settings"]["bits"], 4);
  EXPECT_EQ(json::parse(to_json(ExportReport{}).dump())["gate"], nullptr);
}

size_t occurrences(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(ExportReport, HtmlIsSelfContainedAndEscaped) {
  const std::string html = report_html(sample());
  for (const char* outside : {"http:", "https:", "src=", "href=", "@import", "url(", "<script"}) {
    EXPECT_EQ(occurrences(html, outside), 0u) << outside;
  }
  EXPECT_EQ(occurrences(html, "<b>"), 0u);
  EXPECT_EQ(occurrences(html, "awq <4>"), 0u);
  EXPECT_NE(html.find("Tiny &lt;model&gt; &amp; &quot;co&quot;"), std::string::npos);
  EXPECT_NE(html.find("Gate: perplexity ratio 1.1000, allowed at most 1.0500: not passed"),
            std::string::npos);
  EXPECT_NE(html.find("more samples"), std::string::npos);
  EXPECT_NE(html.find("75.0%"), std::string::npos);
  EXPECT_EQ(occurrences(html, "<svg"), 4u);  // perplexity, size, KL, speed
  EXPECT_EQ(occurrences(html, "<svg"), occurrences(html, "</svg>"));
  EXPECT_EQ(occurrences(html, "<table>"), occurrences(html, "</table>"));
  EXPECT_EQ(occurrences(html, "<tr"), occurrences(html, "</tr>"));
  EXPECT_EQ(occurrences(html, "nan"), 0u);
  EXPECT_NE(html.find("rounded to nearest"), std::string::npos);
  EXPECT_GT(report_html(ExportReport{}).size(), 500u);
}

TEST(ExportReport, BarsAreAsLongAsTheirValues) {
  const std::string html = report_html(sample());
  // Perplexities 20, 10, 11 over 480 units.
  for (const char* width :
       {"width=\"480.0\"", "width=\"240.0\"", "width=\"264.0\"", "width=\"120.0\""}) {
    EXPECT_NE(html.find(width), std::string::npos) << width;
  }
  EXPECT_EQ(occurrences(html, "class=\"bar chosen\""), 4u);
}

TEST(ExportReport, MarkdownTableHasOneLineAStage) {
  const std::string text = stages_markdown(sample());
  EXPECT_EQ(occurrences(text, "\n"), 5u);
  EXPECT_NE(text.find("| awq  4> (this one) | 11.000 | 1.1000 | 0.02000 | 95.70% | 0.0003 | 4.00x "
                      "| 75.0% |"),
            std::string::npos)
      << text;
}

TEST(ExportReport, IsWrittenAsTwoFiles) {
  const testing::TemporaryFolder folder;
  write_report(folder.path(), sample());
  EXPECT_EQ(json::parse(io::read_file(folder / "report.json"))["title"], sample().title);
  EXPECT_EQ(io::read_file(folder / "report.html"), report_html(sample()));
}

Preflight grid(const GridOptions& options) {
  Preflight p;
  p.grid = resolve_grid(options);
  p.group_size = 64;
  return p;
}

const CardFacts kFacts{.name = "tiny-awq",
                       .base_model = "org/tiny",
                       .licence = "apache-2.0",
                       .gguf_file = "tiny.gguf",
                       .dataset = "rows.jsonl"};

TEST(ModelCard, HasFrontMatterNumbersAndCommands) {
  const std::string card = model_card(grid({}), sample(), kFacts);
  EXPECT_TRUE(
      card.starts_with("---\nbase_model: \"org/tiny\"\nbase_model_relation: quantized\n"
                       "license: \"apache-2.0\"\nlibrary_name: transformers\n"))
      << card;
  for (const char* part :
       {"- awq\n- 4-bit\n", "bits: 4\n  group_size: 64\n  symmetric: false\n",
        "vllm serve ./tiny-awq --dtype float16\n", "hf upload tiny-awq . --repo-type model\n",
        "| base, 16 bits |", "fine-tuned on rows.jsonl", "gptqmodel", "[report.html](report.html)",
        "Gate: perplexity ratio 1.1000"}) {
    EXPECT_NE(card.find(part), std::string::npos) << part << "\n" << card;
  }
  EXPECT_EQ(card.find("- awq\n- 4-bit\n- awq"), std::string::npos);  // no tag twice
  EXPECT_EQ(card.find("<b>"), std::string::npos);
}

TEST(ModelCard, LeavesOutWhatIsNotKnown) {
  CardFacts facts = kFacts;
  facts.base_model = "../models/tiny";  // a path is no name of a hub
  facts.licence = "";
  facts.dataset = "";
  const std::string card = model_card(grid({.type = QuantizationType::kNone}), {}, facts);
  EXPECT_EQ(card.find("base_model:"), std::string::npos);
  EXPECT_EQ(card.find("license:"), std::string::npos);
  EXPECT_EQ(card.find("quantization:"), std::string::npos);
  EXPECT_EQ(card.find("fine-tuned"), std::string::npos);
}

TEST(ServeCommand, FollowsTheFormat) {
  using F = ExportFormat;
  using Q = QuantizationType;
  EXPECT_EQ(serve_command(grid({.type = Q::kFp8}), kFacts), "vllm serve ./tiny-awq");
  EXPECT_EQ(serve_command(grid({.type = Q::kGptq}), kFacts),
            "vllm serve ./tiny-awq --dtype float16");
  EXPECT_EQ(serve_command(grid({.type = Q::kRtn, .format = F::kGguf}), kFacts),
            "llama-server -m tiny-awq/tiny.gguf");
  EXPECT_EQ(serve_command(grid({.type = Q::kGptq, .format = F::kGptqV2}), kFacts), "");
  EXPECT_EQ(serve_command(grid({.type = Q::kRtn, .format = F::kNf4}), kFacts),
            "vllm serve ./tiny-awq --quantization bitsandbytes");
  CardFacts odd = kFacts;
  odd.name = "a b;rm -rf $HOME";
  EXPECT_EQ(serve_command(grid({.type = Q::kNone}), odd), "vllm serve ./a-b-rm--rf--HOME");
  EXPECT_EQ(upload_command(odd), "hf upload a-b-rm--rf--HOME . --repo-type model");
}

}  // namespace
}  // namespace qlora::exporter
