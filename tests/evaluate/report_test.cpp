#include "loza/evaluate/report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "demo_fixture.h"
#include "loza/base/error.h"
#include "loza/evaluate/report_html.h"
#include "loza/evaluate/svg_chart.h"

namespace loza {
namespace {

SubjectScores subject(const std::string& name, std::vector<DocumentScore> scores) {
  return {name, "model", AttentionPlan::dense(2), std::move(scores)};
}

// --- EvalReport -------------------------------------------------------------------------

TEST(EvalReport, PoolsDocumentsOfATaskAndLength) {
  const std::vector<EvalCase> cases = {
      {"niah", 2048, 0, {}}, {"niah", 2048, 1, {}}, {"niah", 4096, 0, {}}};
  const EvalReport report =
      make_report(cases, {subject("a", {answers_score(3, 7, 1.0), answers_score(5, 7, 2.0),
                                        answers_score(0, 7, 4.0)})});
  ASSERT_EQ(report.cells.size(), 2u);
  const Cell& short_cell = *find_cell(report, "niah", 2048, "a");
  EXPECT_EQ(short_cell.num_documents, 2);
  EXPECT_EQ(short_cell.num_answers, 14);
  EXPECT_EQ(short_cell.num_tokens, 28);
  EXPECT_DOUBLE_EQ(short_cell.exact_match->value, 8.0 / 14);
  EXPECT_DOUBLE_EQ(short_cell.nll.value, (7 * 1.0 + 7 * 2.0) / 28);
  EXPECT_FALSE(short_cell.exact_match_difference);
  EXPECT_DOUBLE_EQ(find_cell(report, "niah", 4096, "a")->nll.value, 2.0);
  EXPECT_EQ(find_cell(report, "lines", 4096, "a"), nullptr);
  EXPECT_EQ(find_cell(report, "niah", 4096, "b"), nullptr);
}

TEST(EvalReport, ComparesUnitByUnit) {
  const std::vector<EvalCase> cases = {{"niah", 2048, 0, {}}};
  const EvalReport report = make_report(
      cases, {subject("a", {answers_score(20, 40, 1.0)}), subject("b", {answers_score(2, 40, 1.5)}),
              subject("c", {answers_score(19, 40, 1.0)})});
  const Cell& a = *find_cell(report, "niah", 2048, "a");
  const Cell& b = *find_cell(report, "niah", 2048, "b");
  const Cell& c = *find_cell(report, "niah", 2048, "c");
  EXPECT_DOUBLE_EQ(b.exact_match_difference->value, -18.0 / 40);
  EXPECT_LT(b.exact_match_difference->high, 0);
  EXPECT_DOUBLE_EQ(b.nll_difference->value, 0.25);
  EXPECT_FALSE(within_interval(b, a));
  EXPECT_TRUE(within_interval(c, a));
  EXPECT_TRUE(within_interval(a, a));
  EXPECT_FALSE(c.exact_match_difference->high < 0);
}

TEST(EvalReport, DoesNotCompareTokensOfTwoTokenizers) {
  DocumentScore other = answers_score(4, 8, 1.0);
  for (UnitScore& unit : other.units) unit.num_tokens = 3;
  const EvalReport report = make_report(
      {{"niah", 2048, 0, {}}}, {subject("a", {answers_score(4, 8, 1.0)}), subject("b", {other})});
  const Cell& cell = *find_cell(report, "niah", 2048, "b");
  EXPECT_TRUE(cell.exact_match_difference);
  EXPECT_FALSE(cell.nll_difference);
}

TEST(EvalReport, JsonReadsBackAsTheSameNumbers) {
  const EvalReport report = sample_demo_report().quality;
  const Json json = parse_json(report_json(report).dump(), "report");
  ASSERT_EQ(json["subjects"].size(), report.subjects.size());
  ASSERT_EQ(json["cells"].size(), report.cells.size());
  EXPECT_EQ(json["subjects"][1]["layer_type"], report.subjects[1].layer_type);
  for (std::size_t i = 0; i < report.cells.size(); ++i) {
    const Cell& cell = report.cells[i];
    const Json& read = json["cells"][i];
    EXPECT_EQ(read["task"], cell.task);
    EXPECT_EQ(read["subject"], cell.subject);
    EXPECT_EQ(read["answers"], cell.num_answers);
    EXPECT_EQ(read["nll"]["value"].get<double>(), cell.nll.value);
    EXPECT_EQ(read["nll"]["low"].get<double>(), cell.nll.low);
    EXPECT_EQ(read["exact_match"].is_null(), !cell.exact_match.has_value());
    if (cell.exact_match) {
      EXPECT_EQ(read["exact_match"]["high"].get<double>(), cell.exact_match->high);
    }
    EXPECT_EQ(read["nll_difference"].is_null(), !cell.nll_difference.has_value());
  }
}

TEST(EvalReport, TableMarksWhatIsWorse) {
  const std::vector<EvalCase> cases = {{"niah", 2048, 0, {}}};
  const std::string table =
      report_tables(make_report(cases, {subject("good", {answers_score(20, 40, 1.0)}),
                                        subject("bad", {answers_score(2, 40, 1.0)})}));
  EXPECT_NE(table.find("2k, 40 answers"), std::string::npos) << table;
  EXPECT_NE(table.find("50 [35,  65]   0.50"), std::string::npos) << table;
  EXPECT_NE(table.find("5 [ 1,  17]*  0.50"), std::string::npos) << table;
}

TEST(Lengths, AreReadAndNamed) {
  EXPECT_EQ(parse_length("1k"), 1024);
  EXPECT_EQ(parse_length("7600"), 7600);
  EXPECT_EQ(parse_length("1M"), 1048576);
  for (const std::int64_t length : {1, 512, 1000, 1024, 7600, 8192, 1048576}) {
    EXPECT_EQ(parse_length(length_name(length)), length);
  }
  for (const char* bad : {"", "k", "0", "-1", "1.5k", "1kk", "1 k", "17m", "99999999999999999999",
                          "9223372036854775807k", "1g", "0x10"}) {
    EXPECT_THROW(parse_length(bad), Error) << bad;
  }
}

// --- DemoReport -------------------------------------------------------------------------

const DemoReport::Verdict* find_verdict(const DemoReport& report, const std::string& part) {
  for (const auto& verdict : report.verdicts) {
    if (verdict.claim.find(part) != std::string::npos) return &verdict;
  }
  return nullptr;
}

TEST(Verdicts, FollowTheNumbers) {
  DemoReport report = sample_demo_report();
  EXPECT_TRUE(find_verdict(report, "niah 4k")->holds);
  EXPECT_TRUE(find_verdict(report, "plain text")->holds);
  EXPECT_TRUE(find_verdict(report, "interleaved finds")->holds);
  EXPECT_FALSE(find_verdict(report, "random 2")->holds);  // a lucky draw is said to be one
  EXPECT_TRUE(find_verdict(report, "rank the modules alike")->holds);
  EXPECT_TRUE(find_verdict(report, "KV memory at 8k")->holds);

  report.calibrations[0].rank_correlation = 0.9;
  for (DemoReport::Speed& speed : report.speed) {
    if (speed.subject == kCalibrated) speed.decode_tokens_per_s = 1;
  }
  for (Cell& cell : report.quality.cells) {
    if (cell.subject != kCalibrated) continue;
    if (cell.exact_match) cell.exact_match->value = 0.02;
    if (cell.nll_difference) cell.nll_difference->value = 0.011;
  }
  report.verdicts = judge(report);
  EXPECT_FALSE(find_verdict(report, "rank the modules alike")->holds);
  EXPECT_FALSE(find_verdict(report, "writes faster")->holds);
  EXPECT_FALSE(find_verdict(report, "niah 4k")->holds);
  EXPECT_FALSE(find_verdict(report, "plain text")->holds);
  EXPECT_FALSE(find_verdict(report, "interleaved finds")->holds);
}

TEST(Verdicts, AreNotMadeWithoutNumbers) {
  EXPECT_TRUE(judge(DemoReport{}).empty());
  DemoReport one_seed = sample_demo_report();
  one_seed.calibrations[0].seeds.resize(1);
  one_seed.verdicts = judge(one_seed);
  EXPECT_EQ(find_verdict(one_seed, "rank the modules alike"), nullptr);
}

TEST(DemoJson, HoldsWhatThePageShows) {
  const DemoReport report = sample_demo_report();
  const Json json = parse_json(demo_json(report).dump(), "report.json");
  EXPECT_EQ(json["model"], report.model);
  EXPECT_EQ(json["speed"].size(), report.speed.size());
  EXPECT_EQ(json["calibrations"][0]["alpha"].get<std::vector<double>>(),
            report.calibrations[0].alpha);
  EXPECT_TRUE(json["calibrations"][1]["rank_correlation"].is_null());
  EXPECT_EQ(json["questions"][0]["answers"][1]["subject"], "calibrated");
  EXPECT_EQ(json["verdicts"].size(), report.verdicts.size());
}

TEST(Bytes, HaveThreeDigits) {
  EXPECT_EQ(bytes_text(0), "0 B");
  EXPECT_EQ(bytes_text(999), "999 B");
  EXPECT_EQ(bytes_text(1024), "1.00 KiB");
  EXPECT_EQ(bytes_text(1023 * 1024), "1.00 MiB");
  EXPECT_EQ(bytes_text(40 << 20), "40.0 MiB");
  EXPECT_EQ(bytes_text(std::int64_t{5} << 40), "5.00 TiB");
}

// --- The page ---------------------------------------------------------------------------

// A small reader of what loza writes: every tag is closed in order, attributes are quoted, and
// '<' and '&' stand only where they begin a tag or an entity. Returns what is wrong, or "".
std::string markup_error(const std::string& page) {
  std::vector<std::string> open;
  std::size_t at = page.find('>') + 1;  // after the DOCTYPE
  while (at < page.size()) {
    if (page[at] == '&') {
      const std::size_t end = page.find(';', at);
      if (end == std::string::npos || end - at > 7) return "a bare & at " + page.substr(at, 30);
    }
    if (page[at] != '<') {
      ++at;
      continue;
    }
    const std::size_t end = page.find('>', at);
    if (end == std::string::npos) return "an unclosed tag";
    const std::string tag = page.substr(at + 1, end - at - 1);
    at = end + 1;
    if (tag.find('<') != std::string::npos) return "a < inside <" + tag + ">";
    if (std::count(tag.begin(), tag.end(), '"') % 2 != 0) return "an open quote in <" + tag + ">";
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag[0] == '/') {
      if (open.empty() || "/" + open.back() != tag) return "</...> out of order: " + tag;
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
      if (name == "style") at = page.find("</style>", at);
    }
  }
  return open.empty() ? "" : "never closed: " + open.back();
}

TEST(ReportHtml, IsWellFormedAndNeedsNothingElse) {
  const std::string page = report_html(sample_demo_report());
  EXPECT_EQ(markup_error(page), "");
  for (const char* outside : {"http:", "https:", "//", "<script", "<link", "<img", "<iframe",
                              "@import", "url(", "src=", "href="}) {
    EXPECT_EQ(page.find(outside), std::string::npos) << outside;
  }
  EXPECT_EQ(page.find("nan"), std::string::npos);
  EXPECT_EQ(page.find("inf"), std::string::npos);
  for (const char* shown : {"<svg", "niah, 4k tokens", "interleaved, odd", "4711023.", "0.970"}) {
    EXPECT_NE(page.find(shown), std::string::npos) << shown;
  }
}

TEST(ReportHtml, EscapesHostileText) {
  const std::string hostile = "</td><script>alert('x')</script>\"&\x01\xff<!-- \xED\xA0\x80";
  DemoReport report = sample_demo_report();
  report.model = hostile;
  report.facts.push_back({hostile, hostile});
  report.notes.push_back(hostile);
  report.calibrations[0].criterion = hostile;
  report.questions[0].text = report.questions[0].about = report.questions[0].expected = hostile;
  report.questions[0].answers[0].text = report.questions[0].answers[0].subject = hostile;
  report.speed[0].subject = hostile;
  report.phases[0].name = hostile;
  report.quality.subjects[3].name = report.quality.subjects[3].origin = hostile;
  report.verdicts = {{hostile, hostile, true}};
  for (Cell& cell : report.quality.cells) {
    if (cell.task == "noise") cell.task = hostile;
  }
  const std::string page = report_html(report);
  EXPECT_EQ(markup_error(page), "");
  EXPECT_EQ(page.find("<script"), std::string::npos);
  EXPECT_EQ(page.find("<!--"), std::string::npos);
  EXPECT_EQ(page.find('\x01'), std::string::npos);
  EXPECT_EQ(page.find('\xff'), std::string::npos);
}

TEST(ReportHtml, StandsWithoutAnyNumbers) {
  EXPECT_EQ(markup_error(report_html(DemoReport{})), "");
}

TEST(SvgChart, ShowsEveryValueInsideItsFrame) {
  const std::string chart =
      column_chart("gates", {{"0", "zigzag", 0.2, {-0.3, 1.7}}, {"1", "grey", -0.1, {}}}, "x", "y");
  EXPECT_EQ(markup_error("<!DOCTYPE>" + chart), "");
  for (std::size_t at = chart.find("cy=\""); at != std::string::npos;
       at = chart.find("cy=\"", at + 1)) {
    const double y = std::stod(chart.substr(at + 4));
    EXPECT_GE(y, 20);
    EXPECT_LE(y, 220);
  }
  // One length alone still has an axis.
  EXPECT_EQ(markup_error("<!DOCTYPE>" + line_chart({.label = "speed",
                                                    .lines = {{"a", "dense", {{1024, 5.0}}}},
                                                    .x_title = "tokens",
                                                    .y_title = "tokens/s",
                                                    .x_axis = LineChart::XAxis::kLogarithmic,
                                                    .x_ticks = {{1024, "1k"}},
                                                    .has_dots = true})),
            "");
}

TEST(SvgChart, LinesStayInsideALinearAxis) {
  const LineChart chart{.label = "loss",
                        .lines = {{"a<b", "series-0", {{7, 0.5}, {950, 3.5}, {1234567, 2}}},
                                  {"none", "series-1", {}}},
                        .x_title = "step",
                        .y_title = "nats"};
  const std::string drawn = line_chart(chart);
  EXPECT_EQ(markup_error("<!DOCTYPE>" + drawn), "");
  EXPECT_NE(drawn.find(">1,000,000</text>"), std::string::npos) << drawn;
  EXPECT_EQ(drawn.find("<circle"), std::string::npos);
  const std::size_t path = drawn.find("<path d=\"M") + 9;
  double previous = 0;
  int points = 0;
  for (std::size_t at = path; drawn[at] != '"'; ++at) {
    if (drawn[at] != 'M' && drawn[at] != 'L') continue;
    std::size_t used = 0;
    const double x = std::stod(drawn.substr(at + 1), &used);
    const double y = std::stod(drawn.substr(at + 1 + used));
    EXPECT_GE(x, std::max(previous, 56.0));
    EXPECT_LE(x, chart.width - chart.label_width);
    EXPECT_GE(y, 24);
    EXPECT_LE(y, chart.height - 44);
    previous = x;
    ++points;
  }
  EXPECT_EQ(points, 3);
  EXPECT_EQ(markup_error("<!DOCTYPE>" + line_chart({.label = "nothing"})), "");
}

TEST(SvgChart, AFileNeedsNoPage) {
  const std::string chart = line_chart({.label = "l", .lines = {{"a", "series-5", {{0, 1}}}}});
  const std::string file = svg_file(chart);
  EXPECT_TRUE(file.starts_with("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox="));
  EXPECT_EQ(file.find("var("), std::string::npos);
  EXPECT_EQ(markup_error("<!DOCTYPE>" + file), "");
  // The page's variables are those that its rules use.
  const std::string style = chart_style();
  for (std::size_t at = style.find("var("); at != style.npos; at = style.find("var(", at + 1)) {
    const std::string name = style.substr(at + 4, style.find(')', at) - at - 4);
    EXPECT_NE(style.find(name + ": #"), std::string::npos) << name;
  }
}

}  // namespace
}  // namespace loza
