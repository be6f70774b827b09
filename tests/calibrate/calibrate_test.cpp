#include "loza/calibrate/calibrate.h"

#include <ATen/CPUGeneratorImpl.h>
#include <fmt/format.h>
#include <gtest/gtest.h>
#include <torch/torch.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "loza/base/error.h"
#include "loza/base/file.h"
#include "loza/calibrate/convert.h"
#include "loza/calibrate/gated_core.h"
#include "loza/calibrate/gates_file.h"
#include "loza/calibrate/losses.h"
#include "loza/calibrate/select.h"
#include "tests/calibrate/far_model.h"
#include "tests/support/temp_folder.h"

namespace loza {
namespace {

using testing::bytes_of;
using testing::FarModel;
using testing::TempFolder;

// 24 tokens are seen whole; documents have 96.
constexpr BlockPattern kPattern{8, 1, 2};

Transformer load(const FarModel& far, at::ScalarType dtype = at::kFloat) {
  const TempFolder folder;
  far.write(folder / "model");
  return Transformer::load(Checkpoint(folder / "model"), dtype);
}

TokenizedDocument draw(std::uint64_t seed, std::int64_t index) {
  return FarModel::document(seed, index);
}

bool bit_equal(const at::Tensor& a, const at::Tensor& b) {
  const at::Tensor x = a.detach().contiguous(), y = b.detach().contiguous();
  return x.scalar_type() == y.scalar_type() && x.sizes() == y.sizes() &&
         std::memcmp(x.data_ptr(), y.data_ptr(), x.nbytes()) == 0;
}

std::vector<std::int64_t> random_ids(std::int64_t length, std::uint64_t seed) {
  Random random(seed);
  std::vector<std::int64_t> ids;
  for (std::int64_t t = 0; t < length; ++t) ids.push_back(random.below(FarModel::kVocab));
  return ids;
}

double answer_nll(const Transformer& model, const TokenizedDocument& document,
                  const AttentionPlan& plan) {
  PlannedCore core(plan);
  const AnswerRows answers = answer_rows(document, at::kCPU);
  return lm_loss(model, answer_hidden(model, document, answers, core), answers.targets)
      .item<double>();
}

std::int64_t highest(const std::vector<double>& alpha) {
  return std::max_element(alpha.begin(), alpha.end()) - alpha.begin();
}

// The ground that the other tests stand on: the carrier alone decides the answers.
TEST(FarModel, NeedsItsCarrier) {
  const at::NoGradGuard no_grad;
  const Transformer model = load({});
  for (std::int64_t i = 0; i < 5; ++i) {
    const TokenizedDocument document = draw(9, i);
    std::vector<bool> all(6, true), all_but_carrier = all, carrier(6, false);
    all_but_carrier[3] = false;
    carrier[3] = true;
    const auto nll = [&](const std::vector<bool>& streaming) {
      return answer_nll(model, document, AttentionPlan::from_choice(streaming, kPattern, ""));
    };
    EXPECT_LT(nll(std::vector<bool>(6, false)), 0.2);
    EXPECT_LT(nll(all_but_carrier), 0.2);
    EXPECT_GT(nll(carrier), 1.5);
    EXPECT_GT(nll(all), 1.5);
  }
}

// Every criterion that looks finds the carrier: 20 models of other noise and carriers, other
// documents each.
void expect_found(const CalibrateOptions& options) {
  int found = 0;
  double margin = std::numeric_limits<double>::infinity();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    FarModel far;
    far.seed = seed;
    far.carrier = static_cast<std::int64_t>(seed % 6);
    const Transformer model = load(far);
    CalibrateOptions seeded = options;
    seeded.first_seed = 100 + seed;
    seeded.pattern = kPattern;
    std::vector<double> alpha = calibrate(model, draw, seeded).alpha;
    EXPECT_EQ(highest(alpha), far.carrier) << options.criterion << ", seed " << seed;
    if (highest(alpha) == far.carrier) ++found;
    std::sort(alpha.begin(), alpha.end());
    margin = std::min(margin, (alpha[5] - alpha[4]) / (alpha[5] - alpha[0]));
  }
  std::printf("%s: %d of 20 found, lead over the second at least %.2f of the range\n",
              options.criterion.c_str(), found, margin);
  EXPECT_EQ(found, 20);
}

TEST(Criteria, AlphaFindsTheCarrier) { expect_found({}); }
TEST(Criteria, AlphaWithLmLossFindsTheCarrier) {
  expect_found({.loss = CalibrateOptions::Loss::kLm, .start = 0.5});
}
TEST(Criteria, NllFindsTheCarrier) { expect_found({.criterion = "nll", .num_steps = 4}); }
TEST(Criteria, NllMirrorFindsTheCarrier) {
  expect_found({.criterion = "nll-mirror", .num_steps = 4});
}

TEST(Criteria, NllIsItsDefinition) {
  const at::NoGradGuard no_grad;
  const Transformer model = load({});
  for (const bool mirror : {false, true}) {
    CalibrateOptions options{
        .criterion = mirror ? "nll-mirror" : "nll", .pattern = kPattern, .num_steps = 2};
    const std::vector<double> alpha = calibrate(model, draw, options).alpha;
    for (std::size_t module = 0; module < 6; ++module) {
      std::vector<bool> base(6, !mirror), changed = base;
      changed[module] = mirror;
      double expected = 0;
      for (const std::int64_t i : {0, 1}) {
        const TokenizedDocument document = draw(0, i);
        const double difference =
            answer_nll(model, document, AttentionPlan::from_choice(base, kPattern, "")) -
            answer_nll(model, document, AttentionPlan::from_choice(changed, kPattern, ""));
        expected += 0.5 * (mirror ? -difference : difference);
      }
      EXPECT_NEAR(alpha[module], expected, 1e-6) << mirror << " " << module;
    }
  }
}

TEST(Criteria, BaselinesChooseWhatTheySay) {
  const Transformer model = load({});
  const auto layer_type = [&](const std::string& criterion, double sparsity) {
    const Calibration calibration = calibrate(model, {}, {.criterion = criterion});
    EXPECT_EQ(calibration.num_tokens(), 0);
    EXPECT_EQ(calibration.data_hash(), "");
    return select_plan(calibration.alpha, sparsity, kPattern, "").layer_type();
  };
  EXPECT_EQ(layer_type("interleaved", 0.5), "101010");
  EXPECT_EQ(layer_type("interleaved-odd", 0.5), "010101");
  EXPECT_EQ(layer_type("first", 0.5), "111000");
  EXPECT_EQ(layer_type("last", 0.5), "000111");
  EXPECT_EQ(layer_type("last", 1.0 / 3), "000011");

  std::set<std::vector<double>> draws;
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    const Calibration a = calibrate(model, {}, {.criterion = "random", .first_seed = seed});
    EXPECT_EQ(a.alpha, calibrate(model, {}, {.criterion = "random", .first_seed = seed}).alpha);
    draws.insert(a.alpha);
  }
  EXPECT_EQ(draws.size(), 20u);
}

TEST(Criteria, InterleavedSpreadsAtAnySparsity) {
  FarModel far;
  far.num_layers = 16;
  const Transformer model = load(far);
  const std::vector<double> alpha = calibrate(model, {}, {.criterion = "interleaved"}).alpha;
  EXPECT_EQ(select_plan(alpha, 0.75, kPattern, "").layer_type(), "1110111011101110");
  EXPECT_EQ(select_plan(alpha, 0.25, kPattern, "").layer_type(), "1000100010001000");
}

// ---- the gated core ----

TEST(GatedCore, GradientsEqualFiniteDifferences) {
  const Transformer model = load({}, at::kDouble);
  const TokenizedDocument document = draw(1, 0);
  const AnswerRows answers = answer_rows(document, at::kCPU);
  at::Tensor probe;  // a direction in hidden space: any loss is such a one locally
  at::Tensor teacher;
  {
    const at::NoGradGuard no_grad;
    PlannedCore full(AttentionPlan::dense(6));
    teacher = answer_hidden(model, document, answers, full);
    probe = at::randn(teacher.sizes(), at::make_generator<at::CPUGeneratorImpl>(4), at::kDouble);
  }
  const auto loss = [&](const at::Tensor& gates, bool distill) {
    GatedCore core(gates, kPattern);
    const at::Tensor hidden = answer_hidden(model, document, answers, core);
    return distill ? distill_loss(hidden, teacher) : (hidden * probe).sum();
  };
  int cases = 0;
  for (const bool distill : {true, false}) {
    for (const auto& start : std::vector<std::vector<double>>{{0.3, 0.9, 0.5, 0.7, 0.1, 0.6},
                                                              {1, 1, 1, 1, 1, 1},
                                                              {0, 0, 0, 0, 0, 0},
                                                              {1, 0, 0.5, 1, 0, 0.5},
                                                              {-0.2, 1.3, 0.4, 0.8, 2, -1}}) {
      at::Tensor gates = torch::tensor(start, at::kDouble).requires_grad_();
      loss(gates, distill).backward();
      const at::Tensor grad = gates.grad().clone();
      const at::NoGradGuard no_grad;
      for (std::int64_t i = 0; i < 6; ++i, ++cases) {
        constexpr double kStep = 1e-5;
        at::Tensor up = gates.detach().clone(), down = gates.detach().clone();
        up[i] += kStep;
        down[i] -= kStep;
        const double difference =
            (loss(up, distill) - loss(down, distill)).item<double>() / (2 * kStep);
        const double error = std::abs(grad[i].item<double>() - difference);
        EXPECT_LE(error, 1e-7 * std::abs(difference) + 1e-9) << distill << " " << start << " " << i;
      }
    }
  }
  std::printf("%d derivatives equal finite differences in fp64\n", cases);
}

TEST(GatedCore, GatesAtOneAreTheModel) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Transformer model = load({}, dtype);
    PlannedCore full(AttentionPlan::dense(6));
    for (const bool learns : {true, false}) {
      const at::Tensor gates = at::ones({6}).requires_grad_(learns);
      GatedCore core(gates, kPattern);
      for (const std::int64_t length : {1, 7, 24, 25, 96, 333}) {
        const auto ids = random_ids(length, static_cast<std::uint64_t>(length));
        const at::Tensor original = model.logits(model.forward(ForwardBatch::whole(ids, full)));
        const at::Tensor gated = model.logits(model.forward(ForwardBatch::whole(ids, core)));
        EXPECT_TRUE(bit_equal(original, gated)) << dtype << " " << length << " " << learns;
      }
    }
  }
}

TEST(GatedCore, GatesAtZeroAreAllStreaming) {
  const Transformer model = load({});
  PlannedCore streaming(AttentionPlan::from_choice(std::vector<bool>(6, true), kPattern, ""));
  for (const bool learns : {true, false}) {
    GatedCore core(at::zeros({6}).requires_grad_(learns), kPattern);
    const auto ids = random_ids(200, 1);
    EXPECT_TRUE(bit_equal(model.forward(ForwardBatch::whole(ids, streaming)),
                          model.forward(ForwardBatch::whole(ids, core))));
  }
}

// Mixed gates choose between two models module by module.
TEST(GatedCore, MixesInBetween) {
  const at::NoGradGuard no_grad;
  const auto attend = [](double gate, at::ScalarType dtype) {
    const auto generator = at::make_generator<at::CPUGeneratorImpl>(3);
    const auto random = [&] { return at::randn({60, 2, 16}, generator).to(dtype); };
    const at::Tensor q = random(), k = random(), v = random();
    GatedCore core(at::full({1}, gate), kPattern);
    return core.attend(0, q, k, v, attention::Sequences::whole({0, 60}), 0.25).to(at::kDouble);
  };
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const at::Tensor full = attend(1, dtype), streaming = attend(0, dtype);
    EXPECT_GT((full - streaming).abs().max().item<double>(), 0.1);
    for (const double gate : {0.25, 0.5, 0.9}) {
      const double error =
          (attend(gate, dtype) - (gate * full + (1 - gate) * streaming)).abs().max().item<double>();
      EXPECT_LT(error, dtype == at::kFloat ? 1e-6 : 1e-2) << gate;
    }
  }
}

// Several sequences: one that is seen whole and one that is not; and all seen whole, where the
// gates can learn nothing.
TEST(GatedCore, SkipsWhatIsSeenWhole) {
  const Transformer model = load({});
  const auto run = [&](const std::vector<std::int64_t>& lengths, const at::Tensor& gates) {
    GatedCore core(gates, {16, 1, 2});  // blocks of whole vector lanes: the same sums
    ForwardBatch batch = ForwardBatch::whole(random_ids(lengths[0] + lengths[1], 5), core);
    batch.positions = at::cat({at::arange(lengths[0]), at::arange(lengths[1])});
    batch.offsets = {0, lengths[0], lengths[0] + lengths[1]};
    return model.forward(batch);
  };
  for (const double start : {0.0, 0.4, 1.0}) {
    at::Tensor gates = at::full({6}, start).requires_grad_();
    const at::Tensor short_ones = run({48, 40}, gates);
    EXPECT_FALSE(short_ones.requires_grad());
    EXPECT_TRUE(bit_equal(short_ones, run({48, 40}, at::ones({6}))));

    const at::Tensor mixed = run({48, 120}, gates);
    ASSERT_TRUE(mixed.requires_grad());
    EXPECT_TRUE(bit_equal(mixed.slice(0, 0, 48), run({48, 120}, at::ones({6})).slice(0, 0, 48)));
    mixed.slice(0, 0, 48).square().sum().backward();
    // Rows that see everything: both branches are equal and the gradient is 0.
    EXPECT_EQ(gates.grad().abs().max().item<double>(), 0) << start;
    gates.mutable_grad().zero_();
    (run({48, 120}, gates).slice(0, 120) * at::arange(48)).sum().backward();
    EXPECT_GT(gates.grad().abs().min().item<double>(), 0) << start;
  }
}

// ---- calibrate ----

TEST(Calibrate, IsTheSameEveryTime) {
  const Transformer model = load({});
  const CalibrateOptions options{.num_seeds = 3, .pattern = kPattern, .num_steps = 4};
  const Calibration a = calibrate(model, draw, options), b = calibrate(model, draw, options);
  EXPECT_EQ(gates_json(a), gates_json(b));
  ASSERT_EQ(a.seeds.size(), 3u);
  EXPECT_EQ(a.num_tokens(), 3 * 4 * 96);
  EXPECT_EQ(a.seeds[2].losses.size(), 4u);
  EXPECT_NE(a.seeds[0].data_hash, a.seeds[1].data_hash);
  EXPECT_NE(a.seeds[0].alpha, a.seeds[1].alpha);
  for (std::size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(a.alpha[i], (a.seeds[0].alpha[i] + a.seeds[1].alpha[i] + a.seeds[2].alpha[i]) / 3,
                1e-15);
    EXPECT_GE(a.alpha[i], 0);
    EXPECT_LE(a.alpha[i], 1);
  }
  CalibrateOptions later = options;
  later.first_seed = 2;
  later.num_seeds = 1;
  EXPECT_EQ(calibrate(model, draw, later).alpha, a.seeds[2].alpha);
}

TEST(Calibrate, FrozenMeansFrozen) {
  const Transformer model = load({});
  std::vector<at::Tensor> before;
  for (const auto& [name, tensor] : model.parameters()) before.push_back(tensor.clone());
  const CalibrateOptions options{.pattern = kPattern, .num_steps = 2};
  const Calibration first = calibrate(model, draw, options);
  EXPECT_EQ(first.weights_hash.size(), 64u);
  for (std::size_t i = 0; i < before.size(); ++i) {
    EXPECT_TRUE(bit_equal(before[i], model.parameters()[i].second));
    EXPECT_FALSE(model.parameters()[i].second.grad().defined());
  }
  // Someone changes one weight while it runs.
  const auto meddle = [&](std::uint64_t seed, std::int64_t index) {
    model.parameters()[5].second.view(-1)[0] += 1e-3;
    return draw(seed, index);
  };
  EXPECT_THROW(calibrate(model, meddle, options), std::logic_error);
  EXPECT_NE(calibrate(model, draw, options).weights_hash, first.weights_hash);
}

TEST(Calibrate, NamesWhatIsWrong) {
  const Transformer model = load({});
  const auto code_of = [&](const CalibrateOptions& options, const DrawDocument& draw_document) {
    try {
      calibrate(model, draw_document, options);
    } catch (const Error& error) {
      return error.code();
    }
    return ExitCode::kOk;
  };
  const CalibrateOptions good{.pattern = kPattern, .num_steps = 1};
  EXPECT_EQ(code_of(good, draw), ExitCode::kOk);
  const auto with = [&](auto change) {
    CalibrateOptions options = good;
    change(options);
    return code_of(options, draw);
  };
  constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
  EXPECT_EQ(with([](auto& o) { o.criterion = "beta"; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.num_seeds = 0; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.num_steps = 0; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.lr = 0; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.lr = kNaN; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.l1 = -1; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.start = 1.5; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.start = kNaN; }), ExitCode::kUsage);
  EXPECT_EQ(with([](auto& o) { o.pattern = {8, 1, 11}; }), ExitCode::kUsage);  // 96 seen whole
  EXPECT_EQ(with([](auto& o) { o.pattern = {8, 1, 10}; }), ExitCode::kOk);
  EXPECT_EQ(code_of(good,
                    [](std::uint64_t seed, std::int64_t index) {
                      TokenizedDocument document = draw(seed, index);
                      document.is_answer.assign(document.ids.size(), 0);
                      return document;
                    }),
            ExitCode::kBadInput);
}

// ---- convert ----

TEST(Convert, ChangesTheConfigAlone) {
  const TempFolder folder;
  const FarModel far;
  far.write(folder / "model");
  folder.write("model/chat_template.jinja", "{{ anything }}\n");
  const AttentionPlan plan =
      AttentionPlan::from_choice({true, false, true, false, true, false}, {128, 1, 7}, "test");
  convert_model(folder / "model", folder / "zigzag", {plan, {}});
  EXPECT_EQ(bytes_of(folder / "model/model.safetensors"),
            bytes_of(folder / "zigzag/model.safetensors"));
  EXPECT_EQ(bytes_of(folder / "zigzag/chat_template.jinja"), "{{ anything }}\n");
  Json config = parse_json(bytes_of(folder / "zigzag/config.json"), "config");
  const Json expected = {
      {"sink_size", 128}, {"recent_size", 896}, {"sparsity", 0.5}, {"layer_type", "101010"}};
  EXPECT_EQ(config["streaming_sparse_attention"], expected);
  config.erase("streaming_sparse_attention");
  EXPECT_EQ(config, parse_json(bytes_of(folder / "model/config.json"), "config"));
  EXPECT_EQ(read_plan(Checkpoint(folder / "zigzag").config(), 6, "config").patterns, plan.patterns);

  EXPECT_THROW(convert_model(folder / "model", folder / "zigzag", {plan, {}}), Error);
  const AttentionPlan other = AttentionPlan::dense(5);
  EXPECT_THROW(convert_model(folder / "model", folder / "other", {other, {}}), Error);
  EXPECT_FALSE(std::filesystem::exists(folder / "other"));
  // A converted model converts again: the new plan replaces the old one.
  convert_model(folder / "zigzag", folder / "dense", {AttentionPlan::dense(6), {}});
  EXPECT_EQ(parse_json(bytes_of(folder / "dense/config.json"), "config"),
            parse_json(bytes_of(folder / "model/config.json"), "config"));
}

// Up to 8 blocks a converted model is the original, bit for bit; beyond it is not.
TEST(Convert, IsExactUpToEightBlocks) {
  const at::NoGradGuard no_grad;
  const TempFolder folder;
  FarModel{}.write(folder / "model");
  const BlockPattern pattern{16, 1, 7};  // blocks of whole vector lanes: the same sums
  convert_model(
      folder / "model", folder / "zigzag",
      {AttentionPlan::from_choice({true, true, false, true, true, true}, pattern, ""), {}});
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    const Checkpoint dense(folder / "model"), zigzag(folder / "zigzag");
    const Transformer a = Transformer::load(dense, dtype), b = Transformer::load(zigzag, dtype);
    PlannedCore core_a(read_plan(dense.config(), 6, "")), core_b(read_plan(zigzag.config(), 6, ""));
    int equal = 0;
    for (std::int64_t length = 1; length <= 128; ++length) {
      const auto ids = random_ids(length, 77);
      const bool same = bit_equal(a.logits(a.forward(ForwardBatch::whole(ids, core_a))),
                                  b.logits(b.forward(ForwardBatch::whole(ids, core_b))));
      EXPECT_TRUE(same) << dtype << " " << length;
      if (same) ++equal;
    }
    std::printf("%s: %d of 128 lengths bit-equal\n", at::toString(dtype), equal);
    const auto ids = random_ids(129, 77);
    EXPECT_FALSE(bit_equal(a.forward(ForwardBatch::whole(ids, core_a)).slice(0, 128),
                           b.forward(ForwardBatch::whole(ids, core_b)).slice(0, 128)));
  }
}

// ---- the report ----

Calibration sample_calibration() {
  Calibration calibration;
  calibration.seeds.resize(2);
  calibration.seeds[0].alpha = {0.1, 0.9, 0.2, 0.8};
  calibration.seeds[1].seed = 1;
  calibration.seeds[1].alpha = {0.1, 0.7, 0.8, 0.2};
  calibration.alpha = {0.1, 0.8, 0.5, 0.5};
  return calibration;
}

TEST(Report, SaysSpreadTiesAndAgreement) {
  const Calibration calibration = sample_calibration();
  const Stability stable = stability(calibration, 0.5);
  EXPECT_EQ(stable.lowest, 0.1);
  EXPECT_EQ(stable.median, 0.5);
  EXPECT_EQ(stable.highest, 0.8);
  EXPECT_EQ(stable.num_tied_at_cut, 2);
  ASSERT_EQ(stable.pairs.size(), 1u);
  EXPECT_NEAR(stable.mean_rank_correlation, 0.4, 1e-12);  // ranks 0 3 1 2 and 0 2 3 1
  EXPECT_EQ(stable.mean_overlap, 0.5);                    // full {1, 3} and {1, 2}
  const std::string text = report_text(calibration, 0.5);
  for (const char* piece : {"2 of 4 streaming", "0.8000  ###################-----  full",
                            "2 modules tie at the cut", "rank correlation 0.400, 50%"}) {
    EXPECT_NE(text.find(piece), std::string::npos) << piece << "\n" << text;
  }
  const Json json = report_json(calibration, 0.5);
  EXPECT_EQ(json["layer_type"], "1010");
  EXPECT_EQ(json["stability"]["num_tied_at_cut"], 2);
  EXPECT_EQ(json["alpha"], Json(calibration.alpha));
}

TEST(Report, OneSeedHasNoAgreement) {
  Calibration calibration = sample_calibration();
  calibration.seeds.resize(1);
  const Stability stable = stability(calibration, 0.25);
  EXPECT_TRUE(std::isnan(stable.mean_rank_correlation));
  EXPECT_TRUE(report_json(calibration, 0.25)["stability"]["rank_correlation"].is_null());
}

}  // namespace
}  // namespace loza
