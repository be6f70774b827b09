#include "loza/evaluate/score.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>
#include <limits>
#include <optional>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/evaluate/report.h"
#include "loza/evaluate/run.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

// Small enough that a short document has tokens which a streaming module can't see.
constexpr BlockPattern kSmall{4, 1, 2};

// One tiny checkpoint for all tests of this file.
class TinyModel : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    temp_.emplace();
    make_tiny("llama", folder(), /*seed=*/3);
  }
  static void TearDownTestSuite() { temp_.reset(); }

  static std::filesystem::path folder() { return *temp_ / "tiny"; }
  static Transformer load() { return Transformer::load(Checkpoint(folder()), at::kFloat); }

  static AttentionPlan streaming(std::int64_t num_modules) {
    return AttentionPlan::from_choice(
        std::vector<bool>(static_cast<std::size_t>(num_modules), true), kSmall, "all streaming");
  }

  // Random ids; the marks are put by the test.
  static TokenizedDocument random_document(std::int64_t length, std::int64_t vocab_size,
                                           std::uint64_t seed) {
    Random random(seed);
    TokenizedDocument document;
    for (std::int64_t i = 0; i < length; ++i) document.ids.push_back(random.below(vocab_size));
    document.is_answer.assign(static_cast<std::size_t>(length), 0);
    document.is_scored = document.is_answer;
    return document;
  }
  static void add_answer(TokenizedDocument& document, std::int64_t begin, std::int64_t end,
                         bool scored = true) {
    document.answers.push_back({begin, end, scored});
    for (std::int64_t p = begin; p < end; ++p) {
      document.is_answer[static_cast<std::size_t>(p)] = 1;
      document.is_scored[static_cast<std::size_t>(p)] = scored ? 1 : 0;
    }
  }

  static std::optional<loza::testing::TempFolder> temp_;
};
std::optional<loza::testing::TempFolder> TinyModel::temp_;

// The obvious way: the document up to a token is run for that token alone.
at::Tensor log_probabilities(const Transformer& model, const TokenizedDocument& document,
                             std::int64_t pos, const AttentionPlan& plan) {
  const at::NoGradGuard no_grad;
  PlannedCore core(plan);
  const std::vector<std::int64_t> before(document.ids.begin(), document.ids.begin() + pos);
  const at::Tensor hidden = model.forward(ForwardBatch::whole(before, core));
  return model.logits(hidden.slice(0, pos - 1))[0].to(at::kDouble).log_softmax(0);
}

UnitScore slow_answer(const Transformer& model, const TokenizedDocument& document,
                      const AnswerSpan& span, const AttentionPlan& plan) {
  UnitScore unit{true, true, span.end - span.begin, 0};
  for (std::int64_t p = span.begin; p < span.end; ++p) {
    const at::Tensor scores = log_probabilities(model, document, p, plan);
    const std::int64_t id = document.ids[static_cast<std::size_t>(p)];
    unit.nll -= scores[id].item<double>();
    unit.exact = unit.exact && scores.argmax().item<std::int64_t>() == id;
  }
  return unit;
}

// Writes the model's own greedy continuation into [begin, end).
void write_greedy(const Transformer& model, TokenizedDocument& document, std::int64_t begin,
                  std::int64_t end, const AttentionPlan& plan) {
  for (std::int64_t p = begin; p < end; ++p) {
    document.ids[static_cast<std::size_t>(p)] =
        log_probabilities(model, document, p, plan).argmax().item<std::int64_t>();
  }
}

TEST_F(TinyModel, ScoresEqualTheObviousScorers) {
  const Transformer model = load();
  const std::int64_t num_modules = model.config().num_modules();
  const std::vector<AttentionPlan> plans = {AttentionPlan::dense(num_modules),
                                            streaming(num_modules)};
  TokenizedDocument document = random_document(48, model.config().vocab_size, 1);
  write_greedy(model, document, 20, 23, plans[0]);
  add_answer(document, 20, 23);
  add_answer(document, 30, 31, /*scored=*/false);
  add_answer(document, 40, 45);

  const std::vector<DocumentScore> together = score_under_plans(model, document, plans);
  for (std::size_t i = 0; i < plans.size(); ++i) {
    const DocumentScore alone = score_under_plans(model, document, {plans[i]})[0];
    ASSERT_EQ(together[i].units.size(), 2u);
    ASSERT_EQ(alone.units.size(), 2u);
    const std::vector<AnswerSpan> scored = {document.answers[0], document.answers[2]};
    for (std::size_t u = 0; u < 2; ++u) {
      const UnitScore expected = slow_answer(model, document, scored[u], plans[i]);
      for (const UnitScore& got : {together[i].units[u], alone.units[u]}) {
        EXPECT_TRUE(got.is_answer);
        EXPECT_EQ(got.num_tokens, expected.num_tokens);
        EXPECT_EQ(got.exact, expected.exact);
        EXPECT_NEAR(got.nll, expected.nll, 1e-4 * expected.nll);
      }
    }
  }
  EXPECT_TRUE(together[0].units[0].exact);
  EXPECT_FALSE(together[0].units[1].exact);
  // Half of the context is out of the streaming modules' sight: the plans must differ.
  EXPECT_GT(std::abs(together[0].units[1].nll - together[1].units[1].nll), 1e-4);
}

TEST_F(TinyModel, ExactMatchNeedsEveryToken) {
  const Transformer model = load();
  const AttentionPlan plan = AttentionPlan::dense(model.config().num_modules());
  for (std::int64_t wrong = 10; wrong < 14; ++wrong) {
    TokenizedDocument document = random_document(14, model.config().vocab_size, 2);
    add_answer(document, 10, 14);
    write_greedy(model, document, 10, 14, plan);
    EXPECT_TRUE(score_under_plans(model, document, {plan})[0].units[0].exact);
    auto& id = document.ids[static_cast<std::size_t>(wrong)];
    id = (id + 1) % model.config().vocab_size;
    EXPECT_FALSE(score_under_plans(model, document, {plan})[0].units[0].exact) << wrong;
  }
}

TEST_F(TinyModel, PlainTextIsCutIntoStretches) {
  const Transformer model = load();
  const AttentionPlan plan = AttentionPlan::dense(model.config().num_modules());
  TokenizedDocument document = random_document(200, model.config().vocab_size, 4);
  for (std::size_t p = 50; p < 200; ++p) document.is_answer[p] = document.is_scored[p] = 1;
  const DocumentScore score = score_under_plans(model, document, {plan})[0];
  ASSERT_EQ(score.units.size(), 3u);  // 64 + 64 + 22
  double expected = 0;
  for (std::int64_t p = 178; p < 200; ++p) {
    expected -= log_probabilities(model, document, p, plan)[document.ids[p]].item<double>();
  }
  EXPECT_EQ(score.units[2].num_tokens, 22);
  EXPECT_FALSE(score.units[2].is_answer);
  EXPECT_NEAR(score.units[2].nll, expected, 1e-4 * expected);
}

// The shared beginning stops before the first scored token, wherever that is, and plans of
// other block sizes shorten it.
TEST_F(TinyModel, SharedBeginningChangesNothing) {
  const Transformer model = load();
  const std::int64_t n = model.config().num_modules();
  AttentionPlan mixed = AttentionPlan::dense(n);
  mixed.patterns.back() = BlockPattern{2, 1, 1};
  const std::vector<AttentionPlan> plans = {streaming(n), mixed, AttentionPlan::dense(n),
                                            streaming(n)};
  for (const std::int64_t first : {1, 2, 3, 4, 5, 12, 13, 40, 59}) {
    TokenizedDocument document = random_document(60, model.config().vocab_size, 5);
    add_answer(document, first, first + 1);
    const std::vector<DocumentScore> together = score_under_plans(model, document, plans);
    for (std::size_t i = 0; i < plans.size(); ++i) {
      const UnitScore expected = slow_answer(model, document, document.answers[0], plans[i]);
      EXPECT_NEAR(together[i].units[0].nll, expected.nll, 1e-4 * expected.nll)
          << "first scored token " << first << ", plan " << i;
    }
    EXPECT_EQ(together[0].units[0].nll, together[3].units[0].nll);
  }
}

TEST_F(TinyModel, NothingScoredGivesNoUnits) {
  const Transformer model = load();
  const AttentionPlan plan = AttentionPlan::dense(model.config().num_modules());
  const TokenizedDocument document = random_document(9, model.config().vocab_size, 6);
  EXPECT_TRUE(score_under_plans(model, document, {plan, plan})[1].units.empty());
}

TEST_F(TinyModel, BrokenNumbersAreAnError) {
  const Transformer model = load();
  const AttentionPlan plan = AttentionPlan::dense(model.config().num_modules());
  TokenizedDocument document = random_document(9, model.config().vocab_size, 7);
  add_answer(document, 5, 7);
  const at::NoGradGuard no_grad;
  for (const auto& [name, weight] : model.parameters()) {
    if (name == "model.norm.weight") weight.fill_(std::numeric_limits<float>::quiet_NaN());
  }
  try {
    score_under_plans(model, document, {plan});
    FAIL() << "NaN logits were scored";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ExitCode::kFailed);
  }
}

TEST_F(TinyModel, RowsAreScoredAndPooled) {
  const Transformer model = load();
  const Tokenizer tokenizer = Tokenizer::from_folder(folder());
  const AttentionPlan dense = AttentionPlan::dense(model.config().num_modules());
  std::vector<EvalCase> cases = {
      {"answers", 0, 0, {"one two three", {{"? ", "four"}, {"? ", "five", false}}}},
      {"answers", 0, 1, {"a longer prompt", {{" and its ", "answer"}}}},
      {"text", 0, 0, {"a plain text that is scored whole, from its second token on", {}, 0}}};
  const std::vector<SubjectScores> scores =
      score_cases(model, tokenizer, "tiny", {{"dense", dense}, {"again", dense}}, cases,
                  {.title = "scoring", .window_len = 16});
  const EvalReport report = make_report(cases, scores);
  const Cell& answers = *find_cell(report, "answers", 0, "dense");
  EXPECT_EQ(answers.num_answers, 2);
  EXPECT_EQ(answers.num_tokens, static_cast<std::int64_t>(tokenizer.encode("four").size() +
                                                          tokenizer.encode("answer").size()));
  // Windows predict every token but their own first one.
  const auto text_len =
      static_cast<std::int64_t>(tokenizer.encode(cases[2].document.prompt).size());
  ASSERT_GT(text_len, 16);
  const std::int64_t num_windows = text_len / 16 + (text_len % 16 >= 2 ? 1 : 0);
  const std::int64_t num_kept = text_len % 16 == 1 ? text_len - 1 : text_len;
  EXPECT_EQ(find_cell(report, "text", 0, "again")->num_tokens, num_kept - num_windows);
  EXPECT_EQ(find_cell(report, "answers", 0, "again")->nll_difference->value, 0);

  const EvalCase nothing = {"text", 0, 1, {"", {}, 0}};
  EXPECT_THROW(score_cases(model, tokenizer, "tiny", {{"dense", dense}}, {nothing}), Error);
}

}  // namespace
}  // namespace loza
