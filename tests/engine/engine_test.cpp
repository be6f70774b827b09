// The engine on small random models: what it says does not depend on how it was computed.
#include "loza/engine/engine.h"

#include <gtest/gtest.h>
#include <torch/torch.h>
#include <unistd.h>

#include <filesystem>
#include <limits>

#include "loza/base/error.h"
#include "loza/base/random.h"
#include "loza/base/utf8.h"
#include "loza/engine/speed.h"

namespace loza {
namespace {

namespace fs = std::filesystem;

// A family's tiny model, loaded once for all tests.
class Tiny {
 public:
  static Tiny& of(const std::string& family) {
    static std::map<std::string, std::unique_ptr<Tiny>> loaded;
    auto& tiny = loaded[family];
    if (!tiny) tiny = std::make_unique<Tiny>(family);
    return *tiny;
  }
  explicit Tiny(const std::string& family)
      : folder_(fs::temp_directory_path() / fmt::format("loza_engine_{}_{}", family, ::getpid())),
        model(load(family, folder_)),
        tokenizer(Tokenizer::from_folder(folder_)) {
    fs::remove_all(folder_);
  }

  // Every second module streams; the first is full.
  AttentionPlan zigzag() const {
    std::vector<bool> streaming(static_cast<std::size_t>(model.config().num_modules()));
    for (std::size_t i = 1; i < streaming.size(); i += 2) streaming[i] = true;
    return AttentionPlan::from_choice(streaming, kPattern, "test");
  }
  AttentionPlan all_streaming() const {
    return AttentionPlan::from_choice(
        std::vector<bool>(static_cast<std::size_t>(model.config().num_modules()), true), kPattern,
        "test");
  }
  std::vector<std::int64_t> random_ids(std::int64_t length, std::uint64_t seed) const {
    Random random(seed);
    std::vector<std::int64_t> ids;
    for (std::int64_t i = 0; i < length; ++i) ids.push_back(random.below(tokenizer.vocab_size()));
    return ids;
  }

  static constexpr BlockPattern kPattern{8, 1, 2};

 private:
  static Transformer load(const std::string& family, const fs::path& folder) {
    fs::remove_all(folder);
    make_tiny(family, folder, 7);
    return Transformer::load(Checkpoint(folder), at::kFloat);
  }
  fs::path folder_;

 public:
  Transformer model;
  Tokenizer tokenizer;
};

Request request_of(std::vector<std::int64_t> prompt, std::int64_t max_new) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_new = max_new;
  return request;
}

Completion generate(const Tiny& tiny, const AttentionPlan& plan, Request request,
                    std::int64_t chunk_len = 512) {
  const auto length = static_cast<std::int64_t>(request.prompt.size()) + request.max_new;
  Engine engine(tiny.model, plan, &tiny.tokenizer, {1, length, chunk_len, 0, /*poison=*/true});
  return engine.generate(std::move(request));
}

// Logits of all positions through the caches, chunk by chunk. storage[i]: where module i keeps
// its rows; not necessarily by what it sees.
at::Tensor cached_logits(const Tiny& tiny, const AttentionPlan& plan,
                         const std::vector<BlockPattern>& storage,
                         const std::vector<std::int64_t>& ids, std::int64_t chunk_len) {
  const c10::InferenceMode no_gradients;
  const auto num_tokens = static_cast<std::int64_t>(ids.size());
  KvCache cache(kv_row_of(tiny.model.config(), DType::kF32), storage,
                {1, num_tokens, 0, /*poison=*/true});
  const KvSequence sequence = cache.open(num_tokens);
  const at::Tensor all_ids = torch::tensor(ids, at::kLong);
  std::vector<at::Tensor> logits;
  for (std::int64_t begin = 0; begin < num_tokens; begin += chunk_len) {
    const std::int64_t end = std::min(begin + chunk_len, num_tokens);
    cache.append(sequence, end - begin);
    ForwardBatch batch;
    batch.ids = all_ids.slice(0, begin, end);
    batch.positions = at::arange(begin, end, at::kLong);
    batch.offsets = {0, end - begin};
    batch.plan = &plan;
    batch.kv = &cache.views({sequence});
    logits.push_back(tiny.model.logits(tiny.model.forward(batch)));
  }
  return at::cat(logits);
}

at::Tensor whole_logits(const Tiny& tiny, const AttentionPlan& plan,
                        const std::vector<std::int64_t>& ids) {
  const c10::InferenceMode no_gradients;
  PlannedCore core(plan);
  return tiny.model.logits(tiny.model.forward(ForwardBatch::whole(ids, core)));
}

void expect_close(const at::Tensor& logits, const at::Tensor& expected, const std::string& what) {
  ASSERT_EQ(logits.sizes(), expected.sizes()) << what;
  ASSERT_TRUE(at::isfinite(logits).all().item<bool>()) << what << ": a row that holds no token";
  const at::Tensor errors = (logits - expected).abs().amax(1);
  const double scale = expected.abs().max().item<double>();
  EXPECT_LE(errors.max().item<double>(), 2e-5 * scale)
      << what << ", worst at position " << errors.argmax().item<std::int64_t>();
}

class EngineOf : public testing::TestWithParam<std::string> {
 protected:
  Tiny& tiny() { return Tiny::of(GetParam()); }
};

TEST_P(EngineOf, ChunksOfAnyLengthGiveTheLogitsOfTheWhole) {
  for (const AttentionPlan& plan : {tiny().zigzag(), tiny().all_streaming()}) {
    const std::vector<std::int64_t> ids = tiny().random_ids(90, 1);
    const at::Tensor whole = whole_logits(tiny(), plan, ids);
    for (const std::int64_t chunk_len : {1, 2, 3, 7, 8, 9, 15, 16, 17, 40, 64, 90}) {
      expect_close(cached_logits(tiny(), plan, plan.patterns, ids, chunk_len), whole,
                   fmt::format("plan {}, chunks of {}", plan.layer_type(), chunk_len));
    }
  }
}

TEST_P(EngineOf, RingsGiveTheLogitsOfPages) {
  const AttentionPlan plan = tiny().all_streaming();
  const std::vector<BlockPattern> pages(plan.patterns.size(),
                                        BlockPattern::full(Tiny::kPattern.block_size));
  const std::vector<std::int64_t> ids = tiny().random_ids(75, 2);
  for (const std::int64_t chunk_len : {1, 5, 8, 33}) {
    expect_close(cached_logits(tiny(), plan, plan.patterns, ids, chunk_len),
                 cached_logits(tiny(), plan, pages, ids, chunk_len),
                 fmt::format("chunks of {}", chunk_len));
  }
}

TEST_P(EngineOf, TextDoesNotDependOnTheChunks) {
  const Request request = request_of(tiny().random_ids(61, 3), 20);
  const Completion whole = generate(tiny(), tiny().zigzag(), request);
  EXPECT_EQ(whole.reason, FinishReason::kLength);
  EXPECT_EQ(whole.ids.size(), 20u);
  for (const std::int64_t chunk_len : {1, 4, 16, 60, 61}) {
    const Completion chunked = generate(tiny(), tiny().zigzag(), request, chunk_len);
    EXPECT_EQ(chunked.ids, whole.ids) << "chunks of " << chunk_len;
    EXPECT_EQ(chunked.text, whole.text);
  }
}

TEST_P(EngineOf, TextDoesNotDependOnTheCompany) {
  constexpr std::int64_t kNumRequests = 12;
  std::vector<Request> requests;
  for (std::int64_t i = 0; i < kNumRequests; ++i) {
    requests.push_back(request_of(tiny().random_ids(1 + i * 7 % 50, 10 + i), 3 + i * 5 % 17));
    if (i % 3 == 1) requests.back().sampling = {0.8, 20, 0.95, 0, static_cast<std::uint64_t>(i)};
  }
  Engine engine(tiny().model, tiny().zigzag(), &tiny().tokenizer, {4, 200, 32, 0, /*poison=*/true});
  for (const Request& request : requests) engine.submit(request);
  std::int64_t num_done = 0;
  while (engine.has_work()) {
    for (const Completion& completion : engine.step()) {
      const auto i = static_cast<std::size_t>(completion.request_id);
      const Completion alone = generate(tiny(), tiny().zigzag(), requests[i]);
      EXPECT_EQ(completion.ids, alone.ids) << "request " << i;
      EXPECT_EQ(completion.text, alone.text);
      EXPECT_EQ(completion.kv, alone.kv);
      ++num_done;
    }
  }
  EXPECT_EQ(num_done, kNumRequests);
  EXPECT_EQ(engine.cache().used_bytes().total(), 0);
}

TEST_P(EngineOf, StreamedPiecesAreTheText) {
  Request request = request_of(tiny().random_ids(5, 4), 60);
  request.sampling = {1.5, 0, 1, 0, 1};
  std::string streamed;
  request.on_text = [&](std::string_view piece) {
    EXPECT_FALSE(piece.empty());
    EXPECT_EQ(utf8_error(piece), piece.size());
    streamed += piece;
  };
  const Completion completion = generate(tiny(), tiny().zigzag(), request);
  EXPECT_EQ(streamed, completion.text);
  EXPECT_FALSE(streamed.empty());
}

// Every place of the text as the beginning of a stop string, of lengths that cross tokens.
TEST_P(EngineOf, StopStringsAcrossTokens) {
  Request request = request_of(tiny().random_ids(6, 5), 24);
  request.sampling = {1, 0, 1, 0, 3};
  const Completion whole = generate(tiny(), tiny().zigzag(), request);
  int num_stopped = 0;
  for (std::size_t begin = 0; begin < whole.text.size(); ++begin) {
    for (const std::size_t size : {1, 2, 3, 7}) {
      const std::string stop = whole.text.substr(begin, size);
      if (stop.size() < size || utf8_error(stop) != stop.size() ||
          stop.find("\uFFFD") != std::string::npos) {
        continue;
      }
      Request stopping = request;
      stopping.stops = {stop};
      std::string streamed;
      stopping.on_text = [&](std::string_view piece) { streamed += piece; };
      const Completion completion = generate(tiny(), tiny().zigzag(), stopping);
      ASSERT_EQ(completion.reason, FinishReason::kStop) << '"' << stop << '"';
      ASSERT_EQ(completion.text, whole.text.substr(0, whole.text.find(stop)));
      ASSERT_EQ(streamed, completion.text);
      ASSERT_TRUE(std::equal(completion.ids.begin(), completion.ids.end(), whole.ids.begin()));
      ++num_stopped;
    }
  }
  std::printf("%d stop strings\n", num_stopped);
  EXPECT_GT(num_stopped, 10);
}

TEST_P(EngineOf, StopIdsEndTheTextAndAreNoPartOfIt) {
  Request request = request_of(tiny().random_ids(6, 6), 12);
  request.sampling = {1, 0, 1, 0, 4};
  const Completion whole = generate(tiny(), tiny().zigzag(), request);
  request.stop_ids = {-1, whole.ids[7]};
  const Completion stopped = generate(tiny(), tiny().zigzag(), request);
  const auto first = std::find(whole.ids.begin(), whole.ids.end(), whole.ids[7]);
  EXPECT_EQ(stopped.reason, FinishReason::kStop);
  EXPECT_EQ(stopped.ids, std::vector<std::int64_t>(whole.ids.begin(), first + 1));
  EXPECT_TRUE(whole.text.starts_with(stopped.text.substr(0, stopped.text.find("\uFFFD"))));
  EXPECT_LT(stopped.text.size(), whole.text.size());
}

TEST_P(EngineOf, TheSeedDecides) {
  Request request = request_of(tiny().random_ids(8, 7), 24);
  request.sampling = {1, 0, 1, 0, 5};
  const Completion first = generate(tiny(), tiny().zigzag(), request);
  EXPECT_EQ(generate(tiny(), tiny().zigzag(), request).ids, first.ids);
  request.sampling.seed = 6;
  EXPECT_NE(generate(tiny(), tiny().zigzag(), request).ids, first.ids);
}

TEST_P(EngineOf, StreamingModulesKeepTheSameBytesAtAnyLength) {
  const KvRow row = kv_row_of(tiny().model.config(), DType::kF32);
  const std::int64_t num_modules = tiny().model.config().num_modules();
  const std::int64_t ring_bytes = (1 + num_ring_blocks(Tiny::kPattern, 8)) * 8 * row.size_bytes();
  for (const std::int64_t prompt_len : {1, 30, 100, 300}) {
    const Request request = request_of(tiny().random_ids(prompt_len, 8), 5);
    const std::int64_t cached = prompt_len + 4;
    const KvBytes all = generate(tiny(), tiny().all_streaming(), request).kv;
    EXPECT_EQ(all, (KvBytes{0, num_modules * ring_bytes})) << prompt_len;
    const AttentionPlan plan = tiny().zigzag();
    const KvBytes half = generate(tiny(), plan, request).kv;
    EXPECT_EQ(half.streaming, plan.num_streaming() * ring_bytes);
    EXPECT_EQ(half.full,
              (num_modules - plan.num_streaming()) * ((cached + 63) / 64 * 64) * row.size_bytes())
        << prompt_len;
  }
}

TEST_P(EngineOf, BudgetErrors) {
  const AttentionPlan plan = tiny().zigzag();
  const auto code_of = [](const auto& action) {
    try {
      action();
    } catch (const Error& error) {
      EXPECT_FALSE(error.text().remedy.empty());
      return error.code();
    }
    return ExitCode::kOk;
  };
  EXPECT_EQ(code_of([&] {
              Engine(tiny().model, plan, nullptr, {.num_tokens = 4096, .budget_bytes = 1000});
            }),
            ExitCode::kDoesNotFit);
  Engine engine(tiny().model, plan, nullptr, {.max_sequences = 2, .num_tokens = 64});
  EXPECT_EQ(code_of([&] { engine.submit(request_of(tiny().random_ids(54, 9), 12)); }),
            ExitCode::kDoesNotFit);
  EXPECT_FALSE(engine.has_work());
  // The last token needs no place: 54 + 11 - 1 tokens fill a page exactly.
  EXPECT_EQ(engine.generate(request_of(tiny().random_ids(54, 9), 11)).ids.size(), 11u);
  // Two that fit alone but not together take turns.
  engine.submit(request_of(tiny().random_ids(20, 9), 8));
  engine.submit(request_of(tiny().random_ids(20, 9), 8));
  std::vector<std::vector<std::int64_t>> texts;
  while (engine.has_work()) {
    EXPECT_LE(engine.cache().num_open(), 1);
    for (const Completion& completion : engine.step()) texts.push_back(completion.ids);
  }
  ASSERT_EQ(texts.size(), 2u);
  EXPECT_EQ(texts[0], texts[1]);
}

TEST_P(EngineOf, RequestsAreChecked) {
  Engine engine(tiny().model, tiny().zigzag(), &tiny().tokenizer, {});
  std::vector<Request> wrong(8, request_of({1, 2, 3}, 4));
  wrong[0].prompt = {};
  wrong[1].prompt = {-1};
  wrong[2].prompt = {tiny().model.config().vocab_size};
  wrong[3].max_new = 0;
  wrong[4].max_new = std::numeric_limits<std::int64_t>::max();
  wrong[5].stops = {"a", ""};
  wrong[6].sampling.temperature = std::nan("");
  wrong[7].sampling.top_p = 2;
  for (const Request& request : wrong) {
    try {
      engine.submit(request);
      FAIL() << "no error";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ExitCode::kUsage);
    }
  }
  EXPECT_FALSE(engine.has_work());
}

TEST_P(EngineOf, CancelledRequestsGiveTheirMemoryBack) {
  Engine engine(tiny().model, tiny().zigzag(), &tiny().tokenizer, {2, 200, 8, 0, true});
  const std::int64_t running = engine.submit(request_of(tiny().random_ids(20, 1), 50));
  const std::int64_t kept = engine.submit(request_of(tiny().random_ids(20, 2), 10));
  const std::int64_t waiting = engine.submit(request_of(tiny().random_ids(20, 3), 50));
  for (int i = 0; i < 8; ++i) EXPECT_TRUE(engine.step().empty());
  engine.cancel(running);
  engine.cancel(waiting);
  engine.cancel(99);
  const std::vector<Completion> cancelled = engine.step();
  ASSERT_EQ(cancelled.size(), 2u);
  for (const Completion& completion : cancelled) {
    EXPECT_EQ(completion.reason, FinishReason::kCancelled);
  }
  EXPECT_EQ(engine.cache().num_open(), 1);
  while (engine.has_work()) {
    for (const Completion& completion : engine.step()) {
      EXPECT_EQ(completion.request_id, kept);
      EXPECT_EQ(completion.ids,
                generate(tiny(), tiny().zigzag(), request_of(tiny().random_ids(20, 2), 10)).ids);
    }
  }
}

TEST_P(EngineOf, BrokenNumbersEndTheirRequestAlone) {
  Tiny broken(GetParam());
  const AttentionPlan plan = broken.zigzag();
  constexpr std::int64_t kBrokenId = 5;
  std::vector<std::int64_t> good = broken.random_ids(20, 11), bad = broken.random_ids(20, 12);
  std::replace(good.begin(), good.end(), kBrokenId, kBrokenId + 1);
  bad[3] = kBrokenId;
  if (broken.model.config().tied_embeddings) GTEST_SKIP() << "one row would break every logit";
  for (auto& [name, tensor] : broken.model.parameters()) {
    if (name == "model.embed_tokens.weight") {
      tensor[kBrokenId].fill_(std::numeric_limits<float>::quiet_NaN());
    }
  }
  Engine engine(broken.model, plan, &broken.tokenizer, {2, 200, 16, 0, false});
  for (int round = 0; round < 3; ++round) {
    engine.submit(request_of(bad, 5));
    engine.submit(request_of(good, 5));
    while (engine.has_work()) {
      for (const Completion& completion : engine.step()) {
        const bool is_bad = completion.request_id % 2 == 0;
        EXPECT_EQ(completion.reason, is_bad ? FinishReason::kBroken : FinishReason::kLength);
        EXPECT_EQ(completion.ids.empty(), is_bad);
        if (is_bad) continue;
        EXPECT_EQ(completion.ids, generate(broken, plan, request_of(good, 5)).ids);
      }
    }
  }
}

TEST_P(EngineOf, SpeedIsMeasured) {
  const AttentionPlan plan = tiny().zigzag();
  SpeedOptions options;
  options.num_decoded = 3;
  options.repeats = 2;
  for (const std::int64_t length : {1, 17, 64}) {
    const Speed speed = measure_speed(tiny().model, plan, length, options);
    EXPECT_EQ(speed.length, length);
    EXPECT_GT(speed.prefill_per_second, 0);
    EXPECT_GT(speed.decode_per_second, 0);
    EXPECT_EQ(speed.kv,
              kv_bytes_at(kv_row_of(tiny().model.config(), DType::kF32), plan.patterns, length));
  }
  options.budget_bytes = 100;
  EXPECT_THROW(measure_speed(tiny().model, plan, 64, options), Error);
}

INSTANTIATE_TEST_SUITE_P(Families, EngineOf,
                         testing::Values("llama", "deepseek_v3", "longcat_flash"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace loza
