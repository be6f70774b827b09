#include "loza/calibrate/calibrate.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cmath>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/hash.h"
#include "loza/calibrate/criteria/criteria.h"

namespace loza {
namespace {

std::string criterion_names() {
  std::string names;
  for (const CriterionInfo& row : criteria()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", row.name);
  }
  return names;
}

void require(bool holds, const char* option, const char* expected, double got) {
  if (!holds) throw_usage(option, expected, fmt::format("{:g}", got));
}

void check_options(const CalibrateOptions& options) {
  require(options.num_seeds >= 1 && options.num_seeds <= 1000, "--seeds", "1 to 1000",
          static_cast<double>(options.num_seeds));
  require(options.num_steps >= 1 && options.num_steps <= 1'000'000, "--steps", "1 to 1000000",
          static_cast<double>(options.num_steps));
  require(options.documents_per_step >= 1 && options.documents_per_step <= 1'000'000, "--batch",
          "1 to 1000000", static_cast<double>(options.documents_per_step));
  require(options.lr > 0 && std::isfinite(options.lr), "--lr", "a number above 0", options.lr);
  require(options.l1 >= 0 && std::isfinite(options.l1), "--l1", "a number from 0", options.l1);
  require(options.start >= 0 && options.start <= 1, "--start", "a number from 0 to 1",
          options.start);
  const BlockPattern& pattern = options.pattern;
  LOZA_CHECK(pattern.block_size >= 1 && pattern.sink_blocks >= 0 && pattern.recent_blocks >= 1 &&
                 !pattern.is_full(),
             pattern.block_size, pattern.sink_blocks, pattern.recent_blocks);
}

// SHA-256 of names and bytes of all weights.
std::string hash_weights(const Transformer& model) {
  Sha256 hash;
  for (const auto& [name, tensor] : model.parameters()) {
    const at::Tensor bytes = tensor.detach().cpu().contiguous();
    hash.update(std::as_bytes(std::span(name)));
    hash.update({static_cast<const std::byte*>(bytes.data_ptr()), bytes.nbytes()});
  }
  return hash.hex_digest();
}

// What a seed is going to read: counted, hashed, and checked to have anything to say.
void survey_documents(const DrawDocument& draw, const CalibrateOptions& options,
                      SeedCalibration& result) {
  const std::int64_t exact_len = options.pattern.exact_len();
  Sha256 hash;
  std::int64_t num_short = 0;
  for (std::int64_t i = 0; i < options.num_documents(); ++i) {
    const TokenizedDocument document = draw(result.seed, i);
    hash_document(hash, document);
    result.num_tokens += document.length();
    if (document.length() <= exact_len) ++num_short;
  }
  result.data_hash = hash.hex_digest();
  if (num_short == options.num_documents()) {
    throw_usage(
        "calibration documents",
        fmt::format("some longer than {} tokens, which a streaming module sees whole", exact_len),
        "none", "give longer documents or a smaller --block-size");
  }
  if (num_short > 0) {
    spdlog::warn(
        "calibration: {} of {} documents of seed {} have at most {} tokens, which a "
        "streaming module sees whole: they say nothing",
        num_short, options.num_documents(), result.seed, exact_len);
  }
}

SeedCalibration run_seed(const CriterionInfo& criterion, const Transformer& model,
                         const DrawDocument& draw, const CalibrateOptions& options,
                         std::uint64_t seed, Group& group) {
  const auto start = std::chrono::steady_clock::now();
  SeedCalibration survey;
  survey.seed = seed;
  if (criterion.needs_documents) survey_documents(draw, options, survey);
  SeedCalibration result = criterion.run(model, draw, options, seed, group);
  result.seed = seed;
  result.num_tokens = survey.num_tokens;
  result.data_hash = survey.data_hash;
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - start;
  result.seconds = took.count();
  return result;
}

std::vector<double> mean_alpha(const std::vector<SeedCalibration>& seeds) {
  std::vector<double> mean(seeds[0].alpha.size(), 0.0);
  for (const SeedCalibration& seed : seeds) {
    for (std::size_t i = 0; i < mean.size(); ++i) {
      mean[i] += seed.alpha[i] / static_cast<double>(seeds.size());
    }
  }
  return mean;
}

}  // namespace

const std::vector<CriterionInfo>& criteria() {
  using namespace criterion;
  static const std::vector<CriterionInfo> rows = {
      {"alpha", "learnt gates, weights frozen", true, run_alpha},
      {"nll", "what opening one module alone gains", true, run_nll},
      {"nll-mirror", "what closing one module alone loses", true, run_nll_mirror},
      {"interleaved", "every other module full, from the second", false, run_interleaved},
      {"interleaved-odd", "every other module full, from the first", false, run_interleaved_odd},
      {"random", "any choice", false, run_random},
      {"first", "the first modules streaming", false, run_first},
      {"last", "the last modules streaming", false, run_last},
  };
  return rows;
}

const CriterionInfo* find_criterion(std::string_view name) {
  const auto& rows = criteria();
  const auto row = std::find_if(rows.begin(), rows.end(),
                                [&](const CriterionInfo& info) { return info.name == name; });
  return row == rows.end() ? nullptr : &*row;
}

std::int64_t Calibration::num_tokens() const {
  std::int64_t sum = 0;
  for (const SeedCalibration& seed : seeds) sum += seed.num_tokens;
  return sum;
}

double Calibration::seconds() const {
  double sum = 0;
  for (const SeedCalibration& seed : seeds) sum += seed.seconds;
  return sum;
}

std::string Calibration::data_hash() const {
  std::string all;
  for (const SeedCalibration& seed : seeds) all += seed.data_hash;
  return all.empty() ? all : sha256_hex(all);
}

Calibration calibrate(const Transformer& model, const DrawDocument& draw,
                      const CalibrateOptions& options, Group& group) {
  const CriterionInfo* criterion = find_criterion(options.criterion);
  if (criterion == nullptr) {
    throw_usage("--criterion", fmt::format("one of {}", criterion_names()),
                fmt::format("'{}'", options.criterion));
  }
  check_options(options);
  if (model.config().has_rope_by_kind || model.config().sink_is_capped) {
    throw_bad_input("config.json: streaming_sparse_attention",
                    "full and streaming modules that rotate alike: a gate mixes both",
                    "rope_parameters or a capped sink",
                    "calibrate the model from which this one was converted");
  }
  for (const auto& [name, tensor] : model.parameters()) LOZA_CHECK(!tensor.requires_grad(), name);

  Calibration result;
  result.options = options;
  result.weights_hash = hash_weights(model);
  for (std::int64_t i = 0; i < options.num_seeds; ++i) {
    const std::uint64_t seed = options.first_seed + static_cast<std::uint64_t>(i);
    result.seeds.push_back(run_seed(*criterion, model, draw, options, seed, group));
  }
  result.alpha = mean_alpha(result.seeds);
  const std::string after = hash_weights(model);
  LOZA_CHECK(after == result.weights_hash, after, result.weights_hash);
  return result;
}

}  // namespace loza
