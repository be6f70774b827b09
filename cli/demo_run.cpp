#include "cli/demo_run.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <limits>
#include <optional>
#include <string_view>
#include <utility>

#include "cli/demo_question.h"
#include "cli/named_plans.h"
#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/base/parallel_for.h"
#include "loza/base/processor.h"
#include "loza/base/progress.h"
#include "loza/calibrate/calibrate.h"
#include "loza/calibrate/convert.h"
#include "loza/calibrate/gates_file.h"
#include "loza/calibrate/select.h"
#include "loza/checkpoint/checkpoint.h"
#include "loza/checkpoint/gguf.h"
#include "loza/engine/engine.h"
#include "loza/engine/speed.h"
#include "loza/evaluate/cases.h"
#include "loza/evaluate/run.h"
#include "loza/model/transformer.h"
#include "loza/tasks/tokenized.h"
#include "loza/tokenizer/tokenizer.h"
#include "loza/train/data.h"
#include "loza/train/finetune.h"

namespace loza::cli {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr std::int64_t kCalibrationLength = 704;  // 2.75 times what blocks of 32 see whole
// A short training run: enough to see losses fall, in seconds for a small model.
constexpr std::int64_t kRecoverySteps = 8, kRecoveryDocuments = 4;
constexpr double kRecoveryRate = 3e-4;
// A model for a shorter context than this streams in smaller blocks, or nothing would be left out.
constexpr std::int64_t kShortestUsualContext = 2048, kBlocksOfShortContext = 64;
constexpr std::uint64_t kEvaluationSeed = 1000;
// Of the time limit: another round of documents begins only before it.
constexpr double kShareBeforeNextRound = 0.7;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// A folder that an earlier demo wrote makes way; anything else of that name is not touched.
void remove_model_folder(const fs::path& folder) {
  if (fs::exists(folder / "config.json")) fs::remove_all(folder);
}

std::string name_of(const fs::path& folder) {
  return fs::absolute(folder).lexically_normal().filename().string();
}

// A model folder, opened.
struct Opened {
  Opened(const fs::path& folder, const ModelOptions& placement)
      : checkpoint(folder),
        tokenizer(Tokenizer::from_folder(folder)),
        model(load_model(checkpoint, placement)) {}

  AttentionPlan plan() const {
    return read_plan(checkpoint.config(), model.config().num_modules(),
                     (checkpoint.folder() / "config.json").string());
  }

  Checkpoint checkpoint;
  Tokenizer tokenizer;
  Transformer model;
};

// The job, a step a method; run() is the story.
class Demo {
 public:
  explicit Demo(const DemoOptions& options) : options_(options), scale_(options.scale) {}

  DemoReport run() {
    step("import", [&] { import(); });
    step("calibrate", [&] { calibrate_gates(); });
    step("evaluate", [&] { evaluate(); });
    step("convert", [&] { convert(); });
    if (scale_.num_recovery_steps > 0) step("recover", [&] { recover(); });
    step("answer", [&] { answer(); });
    step("time", [&] { time(); });
    report_.seconds = seconds_since(start_);
    report_.verdicts = judge(report_);
    return std::move(report_);
  }

 private:
  void step(const char* name, const std::function<void()>& work) {
    spdlog::info("{} ({:.0f} s so far)", name, seconds_since(start_));
    const auto began = Clock::now();
    work();
    report_.phases.push_back({name, seconds_since(began)});
  }
  bool is_late(double share) const {
    return scale_.max_seconds > 0 && seconds_since(start_) > share * scale_.max_seconds;
  }

  void import();
  void note_facts();
  void fit_to_context();
  void split_prose();
  void drop_long_lengths(std::int64_t longest);

  void calibrate_gates();
  DemoReport::Gates run_criterion(const std::string& criterion, std::int64_t num_seeds,
                                  std::int64_t num_steps);

  std::vector<NamedPlan> plans() const;
  void evaluate();
  std::vector<EvalCase> cases_of_round(std::int64_t index, const Haystack* prose,
                                       const Haystack* code) const;

  void convert();
  void recover();
  FinetuneOptions recovery_options() const;

  void answer();
  DemoReport::Answer generate(const std::string& subject, const Opened& opened,
                              const AttentionPlan& plan, const std::vector<std::int64_t>& prompt,
                              const std::string& expected, std::int64_t max_new) const;

  void time();

  fs::path zigzag_folder() const { return options_.out / "model-zigzag"; }
  fs::path recovered_folder() const { return options_.out / "model-recovered"; }

  const DemoOptions& options_;
  DemoScale scale_;
  BlockPattern pattern_;  // of the converted model: 128, 1, 7
  BlockPattern calibration_pattern_{32, 1, 7};
  std::string calibration_tasks_ = "lines,niah,noise";
  Clock::time_point start_ = Clock::now();
  DemoReport report_;
  fs::path prose_ = options_.prose, prose_to_train_;
  fs::path dense_folder_;
  std::optional<Opened> dense_;
  std::vector<EvalCase> cases_;          // that were scored
  std::vector<SubjectScores> subjects_;  // the first is dense
};

// --- Import -----------------------------------------------------------------------------

void Demo::import() {
  if (options_.gguf.empty()) {
    dense_folder_ = options_.model;
    report_.model = name_of(options_.model);
  } else {
    dense_folder_ = options_.out / "model-dense";
    report_.model = options_.gguf.stem().string();
    remove_model_folder(dense_folder_);
    import_gguf(options_.gguf, dense_folder_, {});
  }
  dense_.emplace(dense_folder_, options_.placement);
  fit_to_context();
  note_facts();
}

void Demo::fit_to_context() {
  const std::int64_t longest = dense_->model.config().max_position;
  if (longest < kShortestUsualContext && longest >= kCalibrationLength) {
    pattern_.block_size = longest / kBlocksOfShortContext;
    calibration_pattern_ = pattern_;
    scale_.answer_tasks = {"lines", "noise"};
    calibration_tasks_ = "lines,noise";
    scale_.num_questions = 8;
    const std::int64_t num_documents = 4 * scale_.answers.front().num_documents;
    scale_.answers = {{longest, num_documents}};
    scale_.texts = {{longest, num_documents}};
    scale_.speed_lengths = {longest / 4, longest};
    scale_.num_recovery_steps = kRecoverySteps;
    split_prose();
    report_.notes.push_back(
        fmt::format("The model is made for {} tokens: its modules stream in blocks of {}.", longest,
                    pattern_.block_size));
  }
  drop_long_lengths(longest);
}

// The second half of the text is to train on, the first one to score.
void Demo::split_prose() {
  const std::string text = read_file(options_.prose);
  const std::size_t middle = text.find('\n', text.size() / 2);
  if (middle == std::string::npos) {
    throw_bad_input(options_.prose.string(), "a text of several lines", "one line");
  }
  prose_ = options_.out / "prose-scored.txt";
  prose_to_train_ = options_.out / "prose-trained-on.txt";
  write_file_atomic(prose_, text.substr(0, middle));
  write_file_atomic(prose_to_train_, text.substr(middle + 1));
}

// Beyond what the model is made for there is nothing to compare.
void Demo::drop_long_lengths(std::int64_t longest) {
  const auto is_too_long = [&](const DocumentsOf& documents) { return documents.length > longest; };
  std::size_t num_dropped = std::erase_if(scale_.answers, is_too_long);
  num_dropped += std::erase_if(scale_.texts, is_too_long);
  num_dropped +=
      std::erase_if(scale_.speed_lengths, [&](std::int64_t length) { return length > longest; });
  if (num_dropped > 0) {
    report_.notes.push_back(fmt::format(
        "Lengths above {} tokens were left out: the model is made for no more.", longest));
  }
  if (scale_.answers.empty() || scale_.texts.empty()) {
    throw_bad_input(dense_folder_.string(),
                    fmt::format("a model for at least {} tokens", kCalibrationLength),
                    fmt::format("{}", longest));
  }
}

void Demo::note_facts() {
  const ModelConfig& config = dense_->model.config();
  report_.facts = {
      {"model", report_.model},
      {"parameters",
       fmt::format("{:.1f} M", static_cast<double>(dense_->model.num_parameters()) / 1e6)},
      {"attention modules", fmt::format("{}", config.num_modules())},
      {"computed in", dtype_name(attention::dtype_of(dense_->model.dtype()))},
      {"streaming modules see", fmt::format("{} + {} blocks of {} tokens", pattern_.sink_blocks,
                                            pattern_.recent_blocks, pattern_.block_size)},
      {"calibrated with",
       fmt::format("{} + {} blocks of {}, documents of {} tokens", calibration_pattern_.sink_blocks,
                   calibration_pattern_.recent_blocks, calibration_pattern_.block_size,
                   kCalibrationLength)},
      {"computed on", options_.placement.device},
      {"processor", processor_name()},
      {"threads", fmt::format("{}", num_threads())},
      {"loza", LOZA_VERSION}};
}

// --- Calibrate --------------------------------------------------------------------------

void Demo::calibrate_gates() {
  report_.calibrations.push_back(run_criterion("alpha", scale_.num_seeds, scale_.num_steps));
  if (scale_.num_nll_documents > 0) {
    report_.calibrations.push_back(run_criterion("nll", 1, scale_.num_nll_documents));
  } else {
    report_.notes.push_back("The criterion nll was left out at this scale.");
  }
}

DemoReport::Gates Demo::run_criterion(const std::string& criterion, std::int64_t num_seeds,
                                      std::int64_t num_steps) {
  DataOptions data_options;
  data_options.sources = calibration_tasks_;
  data_options.length = kCalibrationLength;
  data_options.prose = prose_;
  data_options.code = options_.code;
  CalibrateOptions options;
  options.criterion = criterion;
  options.num_seeds = num_seeds;
  options.num_steps = num_steps;
  options.pattern = calibration_pattern_;
  const Calibration calibration =
      calibrate(dense_->model, Data(data_options, dense_->tokenizer), options);
  if (report_.calibrations.empty()) write_gates(options_.out / "gates.json", calibration);

  const Stability seen = stability(calibration, options_.sparsity);
  DemoReport::Gates gates;
  gates.criterion = criterion;
  gates.alpha = calibration.alpha;
  for (const SeedCalibration& seed : calibration.seeds) gates.seeds.push_back(seed.alpha);
  gates.streaming = select_lowest(calibration.alpha, options_.sparsity).streaming;
  gates.rank_correlation = seen.mean_rank_correlation;
  gates.overlap = seen.mean_overlap;
  gates.num_tied_at_cut = seen.num_tied_at_cut;
  gates.num_tokens = calibration.num_tokens();
  gates.seconds = calibration.seconds();
  return gates;
}

// --- Evaluate ---------------------------------------------------------------------------

std::vector<NamedPlan> Demo::plans() const {
  const PlanOptions plan_options{options_.sparsity, pattern_};
  const auto by_name = [&](const std::string& shown, const std::string& name) {
    NamedPlan named = plan_by_name(name, dense_->model, dense_->checkpoint, plan_options);
    named.name = shown;
    return named;
  };
  std::vector<NamedPlan> plans = {by_name(kDense, "dense")};
  for (const DemoReport::Gates& gates : report_.calibrations) {
    const bool is_used = &gates == &report_.calibrations[0];
    plans.push_back({is_used ? kCalibrated : gates.criterion,
                     AttentionPlan::from_choice(
                         gates.streaming, pattern_,
                         fmt::format("{}, {} seeds", gates.criterion, gates.seeds.size()))});
  }
  plans.push_back(by_name("interleaved", "interleaved"));
  plans.push_back(by_name("interleaved-odd", "interleaved-odd"));
  for (std::int64_t i = 0; i < scale_.num_random_plans; ++i) {
    plans.push_back(by_name(fmt::format("random {}", i), fmt::format("random:{}", i)));
  }
  plans.push_back(by_name("all streaming", "streaming"));
  return plans;
}

// Document `index` of every task and length that has so many.
std::vector<EvalCase> Demo::cases_of_round(std::int64_t index, const Haystack* prose,
                                           const Haystack* code) const {
  CaseOptions options;
  options.num_documents = 1;
  options.first_document = index;
  options.num_questions = scale_.num_questions;
  options.seed = kEvaluationSeed;
  options.prose = prose;
  options.code = code;
  options.count_tokens = [&](std::string_view text) {
    return static_cast<std::int64_t>(dense_->tokenizer.encode(text).size());
  };
  const auto lengths_of_round = [&](const std::vector<DocumentsOf>& all) {
    std::vector<std::int64_t> lengths;
    for (const DocumentsOf& documents : all) {
      if (index < documents.num_documents) lengths.push_back(documents.length);
    }
    return lengths;
  };
  options.tasks = scale_.answer_tasks;
  options.lengths = lengths_of_round(scale_.answers);
  std::vector<EvalCase> cases = make_cases(options);
  options.tasks = {"ppl"};
  options.lengths = lengths_of_round(scale_.texts);
  for (EvalCase& text : make_cases(options)) cases.push_back(std::move(text));
  return cases;
}

// A round has at most one document of every task and length, the same for all plans: stopping
// after any of them leaves a fair comparison.
void Demo::evaluate() {
  const Haystack prose = Haystack::from_file(prose_);
  const Haystack code = Haystack::from_file(options_.code);
  const std::vector<NamedPlan> named = plans();
  std::int64_t num_rounds = 0;
  for (const auto* all : {&scale_.answers, &scale_.texts}) {
    for (const DocumentsOf& documents : *all) {
      num_rounds = std::max(num_rounds, documents.num_documents);
    }
  }
  for (std::int64_t round = 0; round < num_rounds; ++round) {
    if (round > 0 && is_late(kShareBeforeNextRound)) {
      report_.notes.push_back(fmt::format(
          "At most {} of {} documents of a task and length were evaluated: this machine is too "
          "slow for more in {:.0f} s.",
          round, num_rounds, scale_.max_seconds));
      break;
    }
    const std::vector<EvalCase> cases = cases_of_round(round, &prose, &code);
    RunOptions run_options;
    run_options.title =
        fmt::format("evaluating {} plans, round {} of {}", named.size(), round + 1, num_rounds);
    std::vector<SubjectScores> scores =
        score_cases(dense_->model, dense_->tokenizer, report_.model, named, cases, run_options);
    cases_.insert(cases_.end(), cases.begin(), cases.end());
    if (subjects_.empty()) {
      subjects_ = std::move(scores);
      continue;
    }
    for (std::size_t s = 0; s < subjects_.size(); ++s) {
      auto& all = subjects_[s].scores;
      all.insert(all.end(), scores[s].scores.begin(), scores[s].scores.end());
    }
  }
  report_.quality = make_report(cases_, subjects_);
}

// --- Convert ----------------------------------------------------------------------------

void Demo::convert() {
  remove_model_folder(zigzag_folder());
  const NamedPlan plan =
      plan_from_gates(options_.out / "gates.json", dense_->model, {options_.sparsity, pattern_});
  convert_model(dense_folder_, zigzag_folder(), {plan.plan, {}});
}

// --- Recover ----------------------------------------------------------------------------

// Half questions, half prose that nothing is scored on.
FinetuneOptions Demo::recovery_options() const {
  const std::int64_t longest = dense_->model.config().max_position;
  FinetuneOptions options;
  options.data.sources =
      fmt::format("{},{}*2", calibration_tasks_, fs::absolute(prose_to_train_).string());
  options.data.prose = prose_;
  options.data.code = options_.code;
  options.curriculum = {{longest, scale_.num_recovery_steps}};
  options.train.documents_per_step = kRecoveryDocuments;
  options.train.tokens_per_pass = 2 * longest;
  options.train.clip_norm = 1;
  options.train.schedule.peak = kRecoveryRate;
  options.train.schedule.decay = Schedule::Decay::kCosine;
  options.train.schedule.decay_steps = scale_.num_recovery_steps;
  return options;
}

void Demo::recover() {
  remove_model_folder(recovered_folder());
  {
    Opened zigzag(zigzag_folder(), options_.placement);
    finetune(zigzag.model, zigzag.checkpoint, zigzag.tokenizer, recovery_options(),
             recovered_folder(), {});
  }
  const Opened recovered(recovered_folder(), options_.placement);
  std::vector<SubjectScores> scores =
      score_cases(recovered.model, recovered.tokenizer, report_.model,
                  {{kRecovered, recovered.plan()}}, cases_, {.title = "evaluating again"});
  subjects_.push_back(std::move(scores[0]));
  report_.quality = make_report(cases_, subjects_);
  report_.notes.push_back(fmt::format(
      "'{}' has {} steps of {} documents behind it, half of them prose of the kind that "
      "is scored; no other row was trained.",
      kRecovered, scale_.num_recovery_steps, kRecoveryDocuments));
}

// --- Answer -----------------------------------------------------------------------------

DemoReport::Answer Demo::generate(const std::string& subject, const Opened& opened,
                                  const AttentionPlan& plan,
                                  const std::vector<std::int64_t>& prompt,
                                  const std::string& expected, std::int64_t max_new) const {
  EngineOptions engine_options;
  engine_options.max_sequences = 1;
  engine_options.num_tokens = static_cast<std::int64_t>(prompt.size()) + max_new;
  Engine engine(opened.model, plan, &opened.tokenizer, engine_options);
  Request request;
  request.prompt = prompt;
  request.max_new = max_new;
  request.stops = {"\n"};
  request.stop_ids = {opened.tokenizer.eos_id()};
  const Completion completion = engine.generate(std::move(request));
  DemoReport::Answer answer;
  answer.subject = subject;
  answer.text = trimmed(completion.text);
  answer.correct = begins_with_number(answer.text, expected);
  answer.prefill_s = completion.prefill_ms / 1000;
  const auto num_decoded = static_cast<double>(completion.ids.size()) - 1;
  if (completion.decode_ms > 0)
    answer.decode_tokens_per_s = 1000 * num_decoded / completion.decode_ms;
  answer.kv_full_bytes = completion.kv.full;
  answer.kv_streaming_bytes = completion.kv.streaming;
  return answer;
}

void Demo::answer() {
  const Asked asked = choose_question(cases_, subjects_[0]);
  const EvalCase& chosen = cases_[asked.case_idx];
  const TokenizedDocument document = tokenize_document(
      chosen.document, [&](std::string_view text) { return dense_->tokenizer.encode(text); });
  const std::int64_t end = document.answers[asked.turn_idx].begin;
  const std::vector<std::int64_t> prompt(document.ids.begin(), document.ids.begin() + end);
  const Turn& turn = chosen.document.turns[asked.turn_idx];

  DemoReport::Question question;
  question.about = fmt::format(
      "Task {}: the first question at this length that the dense model "
      "had right in the evaluation, now answered freely",
      chosen.task);
  question.num_tokens = end;
  question.text = shown_question(turn.question);
  question.expected = trimmed(turn.answer);
  const Opened zigzag(zigzag_folder(), options_.placement);
  const AttentionPlan dense_plan = AttentionPlan::dense(dense_->model.config().num_modules());
  // Small models' training scores answers alone: nothing taught them what follows one.
  constexpr std::int64_t kUsualMaxNew = 16;
  const AnswerSpan& span = document.answers[asked.turn_idx];
  const std::int64_t max_new = scale_.num_recovery_steps > 0 ? span.end - span.begin : kUsualMaxNew;
  question.answers = {
      generate(kDense, *dense_, dense_plan, prompt, question.expected, max_new),
      generate(kCalibrated, zigzag, zigzag.plan(), prompt, question.expected, max_new)};
  report_.questions.push_back(std::move(question));
}

// --- Time -------------------------------------------------------------------------------

void Demo::time() {
  const std::vector<NamedPlan> timed = {{kDense, subjects_[0].plan},
                                        {kCalibrated, subjects_[1].plan}};
  SpeedOptions speed_options;
  speed_options.repeats = 1;
  speed_options.num_decoded = 16;
  std::int64_t total = 0;
  for (const std::int64_t length : scale_.speed_lengths) total += 2 * length;
  Progress progress("timing", total);
  for (const std::int64_t length : scale_.speed_lengths) {
    if (is_late(/*share=*/0.95)) {
      report_.notes.push_back(
          fmt::format("Speed at {} tokens and more was not timed: no time was "
                      "left.",
                      length_name(length)));
      return;
    }
    for (const NamedPlan& named : timed) {
      const Speed speed = measure_speed(dense_->model, named.plan, length, speed_options);
      report_.speed.push_back({named.name, length, speed.prefill_per_second,
                               speed.decode_per_second, speed.kv.total()});
      progress.advance(length, fmt::format("{} at {}", named.name, length_name(length)));
    }
  }
}

}  // namespace

DemoScale DemoScale::fast() {
  DemoScale scale;
  scale.num_steps = 6;
  scale.num_nll_documents = 0;
  scale.num_random_plans = 1;
  scale.answers = {{2048, 1}};
  scale.texts = {{2048, 1}};
  scale.speed_lengths = {1024, 4096};
  scale.max_seconds = 110;
  return scale;
}

DemoScale DemoScale::usual() {
  DemoScale scale;
  scale.answers = {{2048, 2}, {4096, 1}};
  scale.texts = {{4096, 2}};
  scale.speed_lengths = {1024, 2048, 4096, 8192};
  scale.max_seconds = 330;
  return scale;
}

DemoScale DemoScale::full() {
  DemoScale scale = usual();
  scale.num_nll_documents = 8;
  scale.answer_tasks = {"lines", "niah", "noise"};
  scale.answers = {{2048, 6}, {4096, 6}, {7600, 6}};
  scale.texts = {{4096, 6}, {7600, 6}};
  scale.max_seconds = 0;
  return scale;
}

DemoReport run_demo(const DemoOptions& options) {
  fs::create_directories(options.out);
  return Demo(options).run();
}

}  // namespace loza::cli
