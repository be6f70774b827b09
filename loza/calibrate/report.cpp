#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "loza/calibrate/calibrate.h"
#include "loza/calibrate/select.h"

namespace loza {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

std::string bar(double share) {
  constexpr int kWidth = 24;
  const int filled = static_cast<int>(std::lround(std::clamp(share, 0.0, 1.0) * kWidth));
  return std::string(static_cast<std::size_t>(filled), '#') +
         std::string(static_cast<std::size_t>(kWidth - filled), '-');
}

// Where bars begin and end: the gates' own range, or the values' where they leave it.
std::pair<double, double> bar_range(const std::vector<double>& alpha) {
  const auto [low, high] = std::minmax_element(alpha.begin(), alpha.end());
  if (*low >= 0 && *high <= 1) return {0, 1};
  return {*low, *high > *low ? *high : *low + 1};
}

std::string gate_lines(const std::vector<double>& alpha, const Selection& selection) {
  const auto [low, high] = bar_range(alpha);
  std::string text;
  for (std::size_t i = 0; i < alpha.size(); ++i) {
    text +=
        fmt::format("{:>6}  {:>8.4f}  {}  {}\n", i, alpha[i], bar((alpha[i] - low) / (high - low)),
                    selection.streaming[i] ? "streaming" : "full");
  }
  return text;
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::string plural(std::int64_t count, const char* noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

std::string heading(const Calibration& calibration) {
  const BlockPattern& pattern = calibration.options.pattern;
  std::string text =
      fmt::format("{}, {}", calibration.options.criterion,
                  plural(static_cast<std::int64_t>(calibration.seeds.size()), "seed"));
  if (calibration.num_tokens() > 0) {
    text += fmt::format(", {} sink and {} recent blocks of {}, {} tokens", pattern.sink_blocks,
                        pattern.recent_blocks, pattern.block_size, calibration.num_tokens());
  }
  return text + fmt::format(", {:.1f} s\n", calibration.seconds());
}

std::string agreement_lines(const Stability& stability) {
  std::string text;
  for (const Stability::Pair& pair : stability.pairs) {
    text += fmt::format(
        "seeds {} and {}: rank correlation {:.3f}, {:.0f}% of the full modules "
        "the same\n",
        pair.first_seed, pair.second_seed, pair.rank_correlation, 100 * pair.overlap);
  }
  return text;
}

Json pattern_json(const BlockPattern& pattern) {
  return {{"block_size", pattern.block_size},
          {"sink_blocks", pattern.sink_blocks},
          {"recent_blocks", pattern.recent_blocks}};
}

Json options_json(const CalibrateOptions& options) {
  Json json = {{"steps", options.num_steps}, {"documents_per_step", options.documents_per_step}};
  if (options.criterion != "alpha") return json;
  json["loss"] = options.loss == CalibrateOptions::Loss::kDistill ? "distill" : "lm";
  json["lr"] = options.lr;
  json["lr_decay"] =
      options.lr_decay == CalibrateOptions::LrDecay::kConstant ? "constant" : "trapezoid";
  json["l1"] = options.l1;
  json["start"] = options.start;
  json["clamp"] = options.clamp;
  json["average"] = options.average;
  return json;
}

// NaN has no JSON form; null says that there is no such number.
Json number_or_null(double value) { return std::isfinite(value) ? Json(value) : Json(); }

Json stability_json(const Stability& stability) {
  Json pairs = Json::array();
  for (const Stability::Pair& pair : stability.pairs) {
    pairs.push_back({{"seeds", {pair.first_seed, pair.second_seed}},
                     {"rank_correlation", number_or_null(pair.rank_correlation)},
                     {"overlap", pair.overlap}});
  }
  return {{"sparsity", stability.sparsity},
          {"lowest", stability.lowest},
          {"median", stability.median},
          {"highest", stability.highest},
          {"num_tied_at_cut", stability.num_tied_at_cut},
          {"rank_correlation", number_or_null(stability.mean_rank_correlation)},
          {"overlap", number_or_null(stability.mean_overlap)},
          {"pairs", pairs}};
}

}  // namespace

Stability stability(const Calibration& calibration, double sparsity) {
  Stability result;
  result.sparsity = sparsity;
  const auto [low, high] = std::minmax_element(calibration.alpha.begin(), calibration.alpha.end());
  result.lowest = *low;
  result.median = median(calibration.alpha);
  result.highest = *high;
  result.num_tied_at_cut = select_lowest(calibration.alpha, sparsity).num_tied_at_cut;
  double correlation = 0, overlap = 0;
  const auto& seeds = calibration.seeds;
  for (std::size_t a = 0; a < seeds.size(); ++a) {
    for (std::size_t b = a + 1; b < seeds.size(); ++b) {
      const Stability::Pair pair{seeds[a].seed, seeds[b].seed,
                                 rank_correlation(seeds[a].alpha, seeds[b].alpha),
                                 full_overlap(select_lowest(seeds[a].alpha, sparsity),
                                              select_lowest(seeds[b].alpha, sparsity))};
      correlation += pair.rank_correlation;
      overlap += pair.overlap;
      result.pairs.push_back(pair);
    }
  }
  const auto num_pairs = static_cast<double>(result.pairs.size());
  result.mean_rank_correlation = result.pairs.empty() ? kNaN : correlation / num_pairs;
  result.mean_overlap = result.pairs.empty() ? kNaN : overlap / num_pairs;
  return result;
}

std::string report_text(const Calibration& calibration, double sparsity) {
  const Selection selection = select_lowest(calibration.alpha, sparsity);
  const Stability stable = stability(calibration, sparsity);
  std::string text = heading(calibration);
  text += fmt::format("module     alpha  at sparsity {:g}: {} of {} streaming\n", sparsity,
                      selection.num_streaming(), calibration.num_modules());
  text += gate_lines(calibration.alpha, selection);
  text += fmt::format("alpha: lowest {:.4f}, median {:.4f}, highest {:.4f}\n", stable.lowest,
                      stable.median, stable.highest);
  text +=
      stable.num_tied_at_cut == 0
          ? "no ties at the cut\n"
          : fmt::format("{} modules tie at the cut: their index decided\n", stable.num_tied_at_cut);
  return text + agreement_lines(stable);
}

Json gates_json(const Calibration& calibration) {
  Json seeds = Json::array();
  for (const SeedCalibration& seed : calibration.seeds) {
    seeds.push_back({{"seed", seed.seed},
                     {"alpha", seed.alpha},
                     {"tokens", seed.num_tokens},
                     {"data_hash", seed.data_hash}});
  }
  return {{"alpha", calibration.alpha},
          {"criterion", calibration.options.criterion},
          {"pattern", pattern_json(calibration.options.pattern)},
          {"options", options_json(calibration.options)},
          {"seeds", seeds},
          {"data_hash", calibration.data_hash()},
          {"weights_hash", calibration.weights_hash}};
}

Json report_json(const Calibration& calibration, double sparsity) {
  Json json = gates_json(calibration);
  for (std::size_t i = 0; i < calibration.seeds.size(); ++i) {
    json["seeds"][i]["losses"] = calibration.seeds[i].losses;
    json["seeds"][i]["trajectory"] = calibration.seeds[i].trajectory;
    json["seeds"][i]["seconds"] = calibration.seeds[i].seconds;
  }
  json["tokens"] = calibration.num_tokens();
  json["seconds"] = calibration.seconds();
  json["stability"] = stability_json(stability(calibration, sparsity));
  json["layer_type"] = select_plan(calibration.alpha, sparsity, calibration.options.pattern,
                                   calibration.options.criterion)
                           .layer_type();
  return json;
}

}  // namespace loza
