#include "loza/evaluate/report_html.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string_view>
#include <utility>

#include "loza/evaluate/svg_chart.h"

namespace loza {
namespace {

using Gates = DemoReport::Gates;
using Speed = DemoReport::Speed;

// Beside chart_style(), whose colours it uses.
constexpr std::string_view kStyle = R"(
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 32px 24px 64px; max-width: 1180px; background: var(--bg);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 8px; }
h2 { font-size: 20px; margin: 44px 0 6px; }
h3 { font-size: 14px; margin: 0 0 6px; }
p { margin: 6px 0; max-width: 78ch; }
.soft, figcaption { color: var(--soft); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr)); gap: 12px;
  margin: 20px 0; }
.tile { background: var(--panel); border-radius: 10px; padding: 14px 16px; }
.tile b { display: block; font-size: 22px; line-height: 1.25; }
.tile span { color: var(--soft); font-size: 13px; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(340px, 1fr)); gap: 18px; }
.pair { display: grid; grid-template-columns: minmax(0, 3fr) minmax(0, 2fr); gap: 24px;
  align-items: start; }
@media (max-width: 860px) { .pair { grid-template-columns: minmax(0, 1fr); } }
figure { margin: 0; background: var(--panel); border-radius: 10px; padding: 14px 16px; }
figcaption { font-size: 13px; margin-top: 4px; }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; margin: 0 5px 0 12px; }
.key.dense { background: var(--dense); } .key.zigzag { background: var(--zigzag); }
.key.other { background: var(--other); } .key.grey { background: var(--grey); }
.scroll { overflow-x: auto; margin: 14px 0; }
table { border-collapse: collapse; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 10px; border-bottom: 1px solid var(--grid); text-align: right;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.words { white-space: normal; display: block; text-align: left; max-width: 60ch; }
th { color: var(--soft); font-weight: 600; }
td small { color: var(--soft); }
.yes, .no { font-weight: 700; } .yes { color: var(--yes); } .no { color: var(--no); }
blockquote { margin: 8px 0; padding: 10px 14px; border-left: 3px solid var(--grid);
  background: var(--panel); border-radius: 0 10px 10px 0; white-space: pre-wrap;
  overflow-wrap: anywhere; }
code { font: 13px ui-monospace, "SF Mono", Menlo, Consolas, monospace; overflow-wrap: anywhere; }
)";

std::string escaped(std::string_view text) { return escape_markup(text); }

// A cell of a table that may have several lines, to the left.
std::string words(std::string_view text) {
  return R"(<span class="words">)" + escaped(text) + "</span>";
}

// One table: a header and rows of cells that are markup already.
std::string table(const std::vector<std::string>& header,
                  const std::vector<std::vector<std::string>>& rows) {
  std::string out = R"(<div class="scroll"><table><thead><tr>)";
  for (const std::string& cell : header) out += "<th>" + cell + "</th>";
  out += "</tr></thead><tbody>\n";
  for (const auto& row : rows) {
    out += "<tr>";
    for (const std::string& cell : row) out += "<td>" + cell + "</td>";
    out += "</tr>\n";
  }
  return out + "</tbody></table></div>\n";
}

std::string figure(const std::string& title, const std::string& chart,
                   const std::string& caption = "") {
  std::string out = "<figure><h3>" + escaped(title) + "</h3>\n" + chart;
  if (!caption.empty()) out += "<figcaption>" + caption + "</figcaption>";
  return out + "</figure>\n";
}

std::string css_class(const std::string& subject, const DemoReport& report) {
  if (subject == kDense) return "dense";
  if (subject == kCalibrated) return "zigzag";
  const auto is_criterion = [&](const Gates& gates) { return gates.criterion == subject; };
  const auto& found = report.calibrations;
  return std::any_of(found.begin(), found.end(), is_criterion) ? "other" : "grey";
}

std::string yes_or_no(bool holds) {
  return holds ? R"(<span class="yes">✓ yes</span>)" : R"(<span class="no">✗ no</span>)";
}

// --- The first screen -------------------------------------------------------------------

std::string tile(const std::string& value, const std::string& what) {
  return R"(<div class="tile"><b>)" + escaped(value) + "</b><span>" + escaped(what) +
         "</span></div>\n";
}

// The longest length at which both subjects were timed.
std::pair<const Speed*, const Speed*> longest_speeds(const DemoReport& report) {
  std::pair<const Speed*, const Speed*> found{nullptr, nullptr};
  for (const Speed& dense : report.speed) {
    if (dense.subject != kDense) continue;
    for (const Speed& calibrated : report.speed) {
      const bool is_longer = found.first == nullptr || dense.length > found.first->length;
      if (calibrated.subject == kCalibrated && calibrated.length == dense.length && is_longer) {
        found = {&dense, &calibrated};
      }
    }
  }
  return found;
}

std::string tiles(const DemoReport& report) {
  std::string out = R"(<div class="tiles">)";
  for (const EvalReport::Subject& subject : report.quality.subjects) {
    if (subject.name != kCalibrated) continue;
    out += tile(fmt::format("{} of {}", subject.num_streaming, subject.layer_type.size()),
                "attention modules stream, without training");
  }
  const auto [dense, calibrated] = longest_speeds(report);
  if (dense != nullptr) {
    const std::string at = " at " + length_name(dense->length) + " tokens";
    out +=
        tile(fmt::format("{} → {}", bytes_text(dense->kv_bytes), bytes_text(calibrated->kv_bytes)),
             "KV memory" + at);
    out +=
        tile(fmt::format("{:.2f}×", calibrated->prefill_tokens_per_s / dense->prefill_tokens_per_s),
             "speed of reading" + at);
    out +=
        tile(fmt::format("{:.2f}×", calibrated->decode_tokens_per_s / dense->decode_tokens_per_s),
             "speed of writing" + at);
  }
  return out + "</div>\n";
}

std::string verdict_section(const DemoReport& report) {
  if (report.verdicts.empty()) return "";
  std::vector<std::vector<std::string>> rows;
  for (const DemoReport::Verdict& verdict : report.verdicts) {
    rows.push_back({escaped(verdict.claim), yes_or_no(verdict.holds), words(verdict.evidence)});
  }
  return "<h2>What the numbers say</h2>\n" +
         table({"claim", "", R"(<span class="words">measured here</span>)"}, rows);
}

// --- Gates ------------------------------------------------------------------------------

std::string gates_figure(const Gates& gates, bool is_used) {
  std::vector<Column> columns;
  for (std::size_t i = 0; i < gates.alpha.size(); ++i) {
    Column column{fmt::format("{}", i), gates.streaming[i] ? "grey" : "zigzag", gates.alpha[i], {}};
    if (gates.seeds.size() > 1) {
      for (const auto& seed : gates.seeds) column.dots.push_back(seed[i]);
    }
    columns.push_back(std::move(column));
  }
  std::string caption =
      R"(<span class="key zigzag"></span>stays full<span class="key grey"></span>becomes streaming)";
  if (gates.seeds.size() > 1) caption += "; dots: the single seeds";
  const std::string title = is_used ? gates.criterion + ": the converted model's" : gates.criterion;
  return figure(title,
                column_chart(gates.criterion + " by attention module", columns, "attention module",
                             "need to look far"),
                caption);
}

std::string finite_text(double value, int decimals) {
  return std::isfinite(value) ? fmt::format("{:.{}f}", value, decimals) : "–";
}

std::string gates_numbers(const std::vector<Gates>& calibrations) {
  std::vector<std::string> header = {"module"};
  std::vector<std::vector<std::string>> rows;
  for (const Gates& gates : calibrations) header.push_back(escaped(gates.criterion));
  for (std::size_t i = 0; i < calibrations[0].alpha.size(); ++i) {
    std::vector<std::string> row = {fmt::format("{}", i)};
    for (const Gates& gates : calibrations) {
      row.push_back(fmt::format("{:.3f} <small>{}</small>", gates.alpha[i],
                                gates.streaming[i] ? "streams" : "full"));
    }
    rows.push_back(std::move(row));
  }
  return "<details><summary>Every gate as a number</summary>" + table(header, rows) +
         "</details>\n";
}

std::string gates_section(const DemoReport& report) {
  if (report.calibrations.empty()) return "";
  std::string figures;
  std::vector<std::vector<std::string>> rows;
  for (const Gates& gates : report.calibrations) {
    figures += gates_figure(gates, &gates == &report.calibrations[0]);
    rows.push_back(
        {escaped(gates.criterion), fmt::format("{}", gates.seeds.size()),
         finite_text(gates.rank_correlation, 3),
         std::isfinite(gates.overlap) ? fmt::format("{:.0f} %", 100 * gates.overlap) : "–",
         fmt::format("{}", gates.num_tied_at_cut), fmt::format("{}", gates.num_tokens),
         fmt::format("{:.0f} s", gates.seconds)});
  }
  return "<h2>Which modules need to look far</h2>\n"
         "<p class=\"soft\">One number an attention module, found with every weight frozen. The "
         "lowest become streaming: they see the first block and the last few.</p>\n"
         "<div class=\"grid\">" +
         figures + "</div>\n" +
         table({"criterion", "seeds", "rank correlation", "same full modules", "tied at the cut",
                "tokens read", "time"},
               rows) +
         gates_numbers(report.calibrations);
}

// --- Quality ----------------------------------------------------------------------------

struct Panel {
  std::string task;
  std::int64_t length = 0;
};

std::vector<Panel> panels_of(const EvalReport& quality) {
  std::vector<Panel> panels;
  for (const Cell& cell : quality.cells) {
    const bool is_new =
        panels.empty() || panels.back().task != cell.task || panels.back().length != cell.length;
    if (is_new) panels.push_back({cell.task, cell.length});
  }
  return panels;
}

std::string answers_panel(const DemoReport& report, const Panel& panel) {
  std::vector<Bar> bars;
  std::int64_t num_answers = 0;
  for (const EvalReport::Subject& subject : report.quality.subjects) {
    const Cell* cell = find_cell(report.quality, panel.task, panel.length, subject.name);
    if (cell == nullptr || !cell->exact_match) continue;
    const Interval& hits = *cell->exact_match;
    num_answers = cell->num_answers;
    bars.push_back({subject.name, css_class(subject.name, report), 100 * hits.value, 100 * hits.low,
                    100 * hits.high, fmt::format("{:.0f} %", 100 * hits.value)});
  }
  const std::string title = fmt::format("{}, {} tokens", panel.task, length_name(panel.length));
  return figure(title, bar_chart(title, bars, 0, 100),
                fmt::format("exact answers of {}, with 95 % intervals", num_answers));
}

std::string text_panel(const DemoReport& report, const Panel& panel) {
  std::vector<Bar> bars;
  double low = 1e9, high = 0;
  for (const EvalReport::Subject& subject : report.quality.subjects) {
    const Cell* cell = find_cell(report.quality, panel.task, panel.length, subject.name);
    if (cell == nullptr) continue;
    // The subject's distance to the first one is what matters, not the text's difficulty.
    const Interval difference = cell->nll_difference.value_or(Interval{});
    low = std::min(low, difference.low);
    high = std::max(high, difference.high);
    bars.push_back({subject.name, css_class(subject.name, report), difference.value, difference.low,
                    difference.high, fmt::format("{:+.3f}", difference.value)});
  }
  const std::string title = fmt::format("{}, {} tokens", panel.task, length_name(panel.length));
  const double axis_max = std::max(high * 1.05, 0.01);
  return figure(title, bar_chart(title, bars, std::min(low, 0.0), axis_max),
                fmt::format("nats a token more than {}, with 95 % intervals; less is better",
                            escaped(report.quality.subjects[0].name)));
}

std::string quality_cell(const Cell& cell) {
  if (!cell.exact_match) {
    return fmt::format("{:.3f} <small>[{:.3f}, {:.3f}]</small>", cell.nll.value, cell.nll.low,
                       cell.nll.high);
  }
  const Interval& hits = *cell.exact_match;
  return fmt::format("{:.0f} % <small>[{:.0f}, {:.0f}]</small> {:.2f}", 100 * hits.value,
                     100 * hits.low, 100 * hits.high, cell.nll.value);
}

std::string quality_numbers(const EvalReport& quality, const std::vector<Panel>& panels) {
  std::vector<std::string> header = {"plan"};
  for (const Panel& panel : panels) {
    header.push_back(escaped(panel.task + " " + length_name(panel.length)));
  }
  std::vector<std::vector<std::string>> rows;
  for (const EvalReport::Subject& subject : quality.subjects) {
    std::vector<std::string> row = {escaped(subject.name)};
    for (const Panel& panel : panels) {
      const Cell* cell = find_cell(quality, panel.task, panel.length, subject.name);
      row.push_back(cell == nullptr ? "–" : quality_cell(*cell));
    }
    rows.push_back(std::move(row));
  }
  return table(header, rows);
}

std::string plan_maps(const EvalReport& quality) {
  std::vector<std::vector<std::string>> rows;
  for (const EvalReport::Subject& subject : quality.subjects) {
    rows.push_back({escaped(subject.name), "<code>" + escaped(subject.layer_type) + "</code>",
                    fmt::format("{}", subject.num_streaming), escaped(subject.origin)});
  }
  return "<details><summary>Which modules stream in each plan (1 = streaming)</summary>" +
         table({"plan", "modules", "streaming", "chosen by"}, rows) + "</details>\n";
}

std::string quality_section(const DemoReport& report) {
  if (report.quality.subjects.empty()) return "";
  const std::vector<Panel> panels = panels_of(report.quality);
  std::string figures;
  for (const Panel& panel : panels) {
    const Cell* first =
        find_cell(report.quality, panel.task, panel.length, report.quality.subjects[0].name);
    figures += first != nullptr && first->exact_match ? answers_panel(report, panel)
                                                      : text_panel(report, panel);
  }
  return "<h2>Quality by plan and length</h2>\n"
         "<p class=\"soft\">The same documents under every plan, the same weights, no training. "
         "Numbers below: exact answers with their 95 % interval, then nats an answer token; for "
         "plain text nats a token.</p>\n"
         "<p class=\"soft\"><span class=\"key dense\"></span>the model as it came"
         "<span class=\"key zigzag\"></span>calibrated by gates"
         "<span class=\"key other\"></span>calibrated otherwise"
         "<span class=\"key grey\"></span>chosen without looking</p>\n"
         "<div class=\"grid\">" +
         figures + "</div>\n" + quality_numbers(report.quality, panels) + plan_maps(report.quality);
}

// --- Time and memory --------------------------------------------------------------------

template <typename Value>
std::string speed_figure(const DemoReport& report, const std::string& title,
                         const std::string& y_title, Value value) {
  std::vector<Line> lines;
  std::vector<std::pair<double, std::string>> ticks;
  for (const Speed& speed : report.speed) {
    const auto length = static_cast<double>(speed.length);
    const auto same_subject = [&](const Line& line) { return line.label == speed.subject; };
    auto line = std::find_if(lines.begin(), lines.end(), same_subject);
    if (line == lines.end()) {
      lines.push_back({speed.subject, css_class(speed.subject, report), {}});
      line = lines.end() - 1;
    }
    line->points.push_back({length, value(speed)});
    ticks.push_back({length, length_name(speed.length)});
  }
  std::sort(ticks.begin(), ticks.end());
  ticks.erase(std::unique(ticks.begin(), ticks.end()), ticks.end());
  for (Line& line : lines) std::sort(line.points.begin(), line.points.end());
  return figure(title, line_chart({.label = title + " by length",
                                   .lines = std::move(lines),
                                   .x_title = "tokens",
                                   .y_title = y_title,
                                   .x_axis = LineChart::XAxis::kLogarithmic,
                                   .x_ticks = std::move(ticks),
                                   .has_dots = true}));
}

std::string speed_section(const DemoReport& report) {
  if (report.speed.empty()) return "";
  constexpr double kMiB = 1024.0 * 1024.0;
  std::vector<std::vector<std::string>> rows;
  for (const Speed& speed : report.speed) {
    rows.push_back({escaped(speed.subject), length_name(speed.length),
                    fmt::format("{:.0f}", speed.prefill_tokens_per_s),
                    fmt::format("{:.1f}", speed.decode_tokens_per_s), bytes_text(speed.kv_bytes)});
  }
  return "<h2>Time and KV memory by length</h2>\n<div class=\"grid\">" +
         speed_figure(report, "Reading a prompt", "tokens/s",
                      [](const Speed& s) { return s.prefill_tokens_per_s; }) +
         speed_figure(report, "Writing, one token at a time", "tokens/s",
                      [](const Speed& s) { return s.decode_tokens_per_s; }) +
         speed_figure(report, "KV memory of one sequence", "MiB",
                      [](const Speed& s) { return static_cast<double>(s.kv_bytes) / kMiB; }) +
         "</div>\n" +
         table({"model", "tokens", "reading, tokens/s", "writing, tokens/s", "KV memory"}, rows);
}

// --- Question and answers ---------------------------------------------------------------

std::string question_markup(const DemoReport::Question& question) {
  std::string out =
      fmt::format("<p class=\"soft\">{} ({} tokens)</p>\n<blockquote>{}</blockquote>",
                  escaped(question.about), question.num_tokens, escaped(question.text));
  std::vector<std::vector<std::string>> rows;
  for (const DemoReport::Answer& answer : question.answers) {
    rows.push_back({escaped(answer.subject), words(answer.text), yes_or_no(answer.correct),
                    bytes_text(answer.kv_full_bytes), bytes_text(answer.kv_streaming_bytes),
                    fmt::format("{:.1f} s", answer.prefill_s),
                    fmt::format("{:.1f}", answer.decode_tokens_per_s)});
  }
  return out + "<p>Expected: <b>" + escaped(question.expected) + "</b></p>\n" +
         table({"model", "answer", "correct", "KV, full modules", "KV, streaming modules",
                "reading", "writing, tokens/s"},
               rows);
}

std::string question_section(const DemoReport& report) {
  if (report.questions.empty()) return "";
  std::string out = "<h2>A question about a long text</h2>\n";
  for (const DemoReport::Question& question : report.questions) out += question_markup(question);
  return out;
}

// --- How it was made --------------------------------------------------------------------

std::string making_section(const DemoReport& report) {
  std::vector<std::vector<std::string>> facts, phases;
  for (const DemoReport::Fact& fact : report.facts) {
    facts.push_back({escaped(fact.name), escaped(fact.value)});
  }
  for (const DemoReport::Phase& phase : report.phases) {
    phases.push_back({escaped(phase.name), fmt::format("{:.1f} s", phase.seconds)});
  }
  phases.push_back({"<b>all</b>", fmt::format("<b>{:.1f} s</b>", report.seconds)});
  std::string notes;
  for (const std::string& note : report.notes) notes += "<li>" + escaped(note) + "</li>\n";
  if (!notes.empty()) notes = "<ul>" + notes + "</ul>\n";
  return "<h2>How this was made</h2>\n" + notes + "<div class=\"pair\"><div>" +
         table({"", ""}, facts) + "</div><div>" + table({"part of the job", "time"}, phases) +
         "</div></div>\n";
}

}  // namespace

std::string report_html(const DemoReport& report) {
  const std::string title =
      "loza: " + escaped(report.model) + " with half of its attention streaming";
  return "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"/>\n"
         "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n<title>" +
         title + "</title>\n<style>" + chart_style() + std::string(kStyle) +
         "</style></head><body>\n<h1>" + title + "</h1>\n" + tiles(report) +
         verdict_section(report) + gates_section(report) + quality_section(report) +
         speed_section(report) + question_section(report) + making_section(report) +
         "</body></html>\n";
}

}  // namespace loza
