#include "loza/evaluate/demo_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "loza/base/table.h"

namespace loza {
namespace {

using Verdict = DemoReport::Verdict;

constexpr double kMaxTextLoss = 0.01;  // nats a token that calibration may cost
constexpr double kMinRankCorrelation = 0.95;

std::string column_name(const Cell& cell) {
  return fmt::format("{} {}", cell.task, length_name(cell.length));
}

std::string hits_text(const Interval& hits) { return fmt::format("{:.0f} %", 100 * hits.value); }

Verdict judge_answers(const Cell& cell, const Cell& dense) {
  return {fmt::format("{} is within dense's interval, or above it, on {}", cell.subject,
                      column_name(cell)),
          fmt::format("{}; dense {} [{:.0f}, {:.0f}], {} answers", hits_text(*cell.exact_match),
                      hits_text(*dense.exact_match), 100 * dense.exact_match->low,
                      100 * dense.exact_match->high, cell.num_answers),
          within_interval(cell, dense)};
}

Verdict judge_text(const Cell& cell) {
  const Interval difference = cell.nll_difference.value_or(Interval{});
  return {
      fmt::format("{} loses at most {} nats a token on plain text ({})", cell.subject, kMaxTextLoss,
                  column_name(cell)),
      fmt::format("{:+.4f} [{:+.4f}, {:+.4f}]", difference.value, difference.low, difference.high),
      difference.value <= kMaxTextLoss};
}

std::vector<Verdict> judge_calibrated(const EvalReport& quality) {
  std::vector<Verdict> verdicts;
  for (const Cell& cell : quality.cells) {
    const Cell* dense = find_cell(quality, cell.task, cell.length, kDense);
    const bool is_judged = cell.subject == kCalibrated || cell.subject == kRecovered;
    if (!is_judged || dense == nullptr) continue;
    const bool has_answers = cell.exact_match && dense->exact_match;
    verdicts.push_back(has_answers ? judge_answers(cell, *dense) : judge_text(cell));
  }
  return verdicts;
}

// Hits of a subject over all tasks and lengths, every answer counting the same.
std::optional<Interval> overall_hits(const EvalReport& quality, const std::string& subject) {
  std::int64_t hits = 0, answers = 0;
  for (const Cell& cell : quality.cells) {
    if (cell.subject != subject || !cell.exact_match) continue;
    hits += std::llround(cell.exact_match->value * static_cast<double>(cell.num_answers));
    answers += cell.num_answers;
  }
  if (answers == 0) return {};
  return wilson_interval(hits, answers);
}

// Subjects whose modules were chosen without looking at the model.
bool is_uncalibrated(const std::string& subject) {
  return subject.rfind("interleaved", 0) == 0 || subject.rfind("random", 0) == 0 ||
         subject == "all streaming";
}

std::vector<Verdict> judge_uncalibrated(const EvalReport& quality) {
  std::vector<Verdict> verdicts;
  const std::optional<Interval> calibrated = overall_hits(quality, kCalibrated);
  for (const EvalReport::Subject& subject : quality.subjects) {
    if (!calibrated || !is_uncalibrated(subject.name)) continue;
    const Interval hits = *overall_hits(quality, subject.name);
    verdicts.push_back(
        {fmt::format("{} finds clearly fewer answers than calibrated", subject.name),
         fmt::format("{} [{:.0f}, {:.0f}] of all answers; calibrated {} [{:.0f}, {:.0f}]",
                     hits_text(hits), 100 * hits.low, 100 * hits.high, hits_text(*calibrated),
                     100 * calibrated->low, 100 * calibrated->high),
         hits.high < calibrated->low});
  }
  return verdicts;
}

std::vector<Verdict> judge_seeds(const std::vector<DemoReport::Gates>& calibrations) {
  if (calibrations.empty() || calibrations[0].seeds.size() < 2) return {};
  const DemoReport::Gates& gates = calibrations[0];
  return {{fmt::format("the seeds of {} rank the modules alike: correlation at least {}",
                       gates.criterion, kMinRankCorrelation),
           fmt::format("{:.3f}; {:.0f} % of the full modules chosen by both",
                       gates.rank_correlation, 100 * gates.overlap),
           gates.rank_correlation >= kMinRankCorrelation}};
}

const DemoReport::Speed* find_speed(const DemoReport& report, const std::string& subject,
                                    std::int64_t length) {
  const auto found =
      std::find_if(report.speed.begin(), report.speed.end(), [&](const DemoReport::Speed& speed) {
        return speed.subject == subject && speed.length == length;
      });
  return found == report.speed.end() ? nullptr : &*found;
}

std::vector<Verdict> judge_speed(const DemoReport& report) {
  std::int64_t longest = 0;
  for (const DemoReport::Speed& speed : report.speed) longest = std::max(longest, speed.length);
  const auto* dense = find_speed(report, kDense, longest);
  const auto* calibrated = find_speed(report, kCalibrated, longest);
  if (dense == nullptr || calibrated == nullptr) return {};
  const std::string at = fmt::format(" at {} tokens", length_name(longest));
  return {
      {"calibrated needs less KV memory" + at,
       fmt::format("{} against {}", bytes_text(calibrated->kv_bytes), bytes_text(dense->kv_bytes)),
       calibrated->kv_bytes < dense->kv_bytes},
      {"calibrated reads a prompt faster" + at,
       fmt::format("{:.0f} against {:.0f} tokens/s", calibrated->prefill_tokens_per_s,
                   dense->prefill_tokens_per_s),
       calibrated->prefill_tokens_per_s > dense->prefill_tokens_per_s},
      {"calibrated writes faster" + at,
       fmt::format("{:.1f} against {:.1f} tokens/s", calibrated->decode_tokens_per_s,
                   dense->decode_tokens_per_s),
       calibrated->decode_tokens_per_s > dense->decode_tokens_per_s}};
}

// JSON has no NaN.
Json finite_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json gates_json(const DemoReport::Gates& gates) {
  return Json{{"criterion", gates.criterion},
              {"alpha", gates.alpha},
              {"seeds", gates.seeds},
              {"streaming", gates.streaming},
              {"rank_correlation", finite_or_null(gates.rank_correlation)},
              {"overlap", finite_or_null(gates.overlap)},
              {"tied_at_cut", gates.num_tied_at_cut},
              {"tokens", gates.num_tokens},
              {"seconds", gates.seconds}};
}

Json speed_json(const DemoReport::Speed& speed) {
  return Json{{"subject", speed.subject},
              {"length", speed.length},
              {"prefill_tokens_per_s", speed.prefill_tokens_per_s},
              {"decode_tokens_per_s", speed.decode_tokens_per_s},
              {"kv_bytes", speed.kv_bytes}};
}

Json question_json(const DemoReport::Question& question) {
  Json out{{"about", question.about},
           {"tokens", question.num_tokens},
           {"question", question.text},
           {"expected", question.expected}};
  out["answers"] = Json::array();
  for (const DemoReport::Answer& answer : question.answers) {
    out["answers"].push_back(Json{{"subject", answer.subject},
                                  {"text", answer.text},
                                  {"correct", answer.correct},
                                  {"prefill_s", answer.prefill_s},
                                  {"decode_tokens_per_s", answer.decode_tokens_per_s},
                                  {"kv_full_bytes", answer.kv_full_bytes},
                                  {"kv_streaming_bytes", answer.kv_streaming_bytes}});
  }
  return out;
}

std::string speed_table(const std::vector<DemoReport::Speed>& speeds) {
  Table table({"speed", "length", "prefill tokens/s", "decode tokens/s", "KV memory"});
  for (const DemoReport::Speed& speed : speeds) {
    table.add_row({speed.subject, length_name(speed.length),
                   fmt::format("{:.0f}", speed.prefill_tokens_per_s),
                   fmt::format("{:.1f}", speed.decode_tokens_per_s), bytes_text(speed.kv_bytes)});
  }
  return table.to_string();
}

std::string gates_text(const DemoReport::Gates& gates) {
  std::string map;
  for (const bool streaming : gates.streaming) map += streaming ? '1' : '0';
  std::string line = fmt::format("{}: streaming {}, {} seed{}", gates.criterion, map,
                                 gates.seeds.size(), gates.seeds.size() == 1 ? "" : "s");
  if (std::isfinite(gates.rank_correlation)) {
    line += fmt::format(", rank correlation {:.3f}, same full modules {:.0f} %",
                        gates.rank_correlation, 100 * gates.overlap);
  }
  return line + fmt::format(", {} tied at the cut, {} tokens in {:.0f} s\n", gates.num_tied_at_cut,
                            gates.num_tokens, gates.seconds);
}

std::string question_text(const DemoReport::Question& question) {
  std::string out =
      fmt::format("{} ({} tokens)\n  question    {}\n  expected    {}\n", question.about,
                  question.num_tokens, question.text, question.expected);
  for (const DemoReport::Answer& answer : question.answers) {
    out += fmt::format("  {:<11} {}  [{}; KV {} full + {} streaming; prefill {:.1f} s]\n",
                       answer.subject, answer.text, answer.correct ? "correct" : "wrong",
                       bytes_text(answer.kv_full_bytes), bytes_text(answer.kv_streaming_bytes),
                       answer.prefill_s);
  }
  return out;
}

}  // namespace

std::vector<Verdict> judge(const DemoReport& report) {
  std::vector<Verdict> verdicts;
  for (std::vector<Verdict> part :
       {judge_calibrated(report.quality), judge_uncalibrated(report.quality),
        judge_seeds(report.calibrations), judge_speed(report)}) {
    verdicts.insert(verdicts.end(), part.begin(), part.end());
  }
  return verdicts;
}

Json demo_json(const DemoReport& report) {
  Json out;
  out["model"] = report.model;
  out["facts"] = Json::object();
  for (const DemoReport::Fact& fact : report.facts) out["facts"][fact.name] = fact.value;
  out["calibrations"] = Json::array();
  for (const auto& gates : report.calibrations) out["calibrations"].push_back(gates_json(gates));
  out["quality"] = report_json(report.quality);
  out["speed"] = Json::array();
  for (const auto& speed : report.speed) out["speed"].push_back(speed_json(speed));
  out["questions"] = Json::array();
  for (const auto& question : report.questions) {
    out["questions"].push_back(question_json(question));
  }
  out["verdicts"] = Json::array();
  for (const Verdict& verdict : report.verdicts) {
    out["verdicts"].push_back(
        Json{{"claim", verdict.claim}, {"holds", verdict.holds}, {"evidence", verdict.evidence}});
  }
  out["phases"] = Json::array();
  for (const DemoReport::Phase& phase : report.phases) {
    out["phases"].push_back(Json{{"name", phase.name}, {"seconds", phase.seconds}});
  }
  out["notes"] = report.notes;
  out["seconds"] = report.seconds;
  return out;
}

std::string demo_text(const DemoReport& report) {
  std::string out = report_tables(report.quality) + "\n" + speed_table(report.speed) + "\n";
  for (const auto& gates : report.calibrations) out += gates_text(gates);
  out += "\n";
  for (const auto& question : report.questions) out += question_text(question) + "\n";
  for (const Verdict& verdict : report.verdicts) {
    out +=
        fmt::format("{}  {}: {}\n", verdict.holds ? "yes" : "NO ", verdict.claim, verdict.evidence);
  }
  for (const std::string& note : report.notes) out += "note: " + note + "\n";
  return out;
}

std::string bytes_text(std::int64_t bytes) {
  constexpr std::array kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 999.5 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
  return fmt::format("{:.{}f} {}", value, decimals, kUnits[unit]);
}

}  // namespace loza
