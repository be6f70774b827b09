#include "loza/engine/scheduler.h"

#include <gtest/gtest.h>

#include <map>

#include "loza/base/random.h"
#include "tests/engine/core/small_row.h"

namespace loza {
namespace {

const std::vector<BlockPattern> kPatterns = {BlockPattern::full(4), BlockPattern{4, 1, 3}};

std::unique_ptr<Sequence> sequence_of(std::int64_t id, std::int64_t prompt_len,
                                      std::int64_t max_new) {
  Request request;
  request.prompt.assign(static_cast<std::size_t>(prompt_len), 0);
  request.max_new = max_new;
  return std::make_unique<Sequence>(id, std::move(request));
}

// What the engine does with a step's pieces, without a model.
void pretend_to_run(const std::vector<Piece>& pieces) {
  for (const Piece& piece : pieces) {
    Sequence& sequence = *piece.sequence;
    const bool wants_token = piece.ends_pending();
    sequence.num_computed += piece.num_new;
    if (!wants_token) continue;
    sequence.ids.push_back(0);
    if (sequence.num_generated() == sequence.request.max_new) {
      sequence.finished = FinishReason::kLength;
    }
  }
}

TEST(Scheduler, ChunksAPromptThenDecodes) {
  KvCache cache(small_row(), kPatterns, {1, 64});
  Scheduler scheduler(cache, 8);
  scheduler.submit(sequence_of(0, 20, 3));
  std::vector<std::int64_t> steps;
  while (scheduler.has_work()) {
    const std::vector<Piece> pieces = scheduler.schedule();
    ASSERT_EQ(pieces.size(), 1u);
    steps.push_back(pieces[0].num_new);
    EXPECT_EQ(cache.length(0), pieces[0].sequence->num_computed + pieces[0].num_new);
    pretend_to_run(pieces);
    scheduler.settle();
  }
  EXPECT_EQ(steps, (std::vector<std::int64_t>{8, 8, 4, 1, 1}));
  EXPECT_EQ(cache.num_open(), 0);
}

TEST(Scheduler, DecodingDoesNotStarveWhilePromptsCome) {
  KvCache cache(small_row(), kPatterns, {4, 256});
  Scheduler scheduler(cache, 4);
  scheduler.submit(sequence_of(0, 4, 20));
  pretend_to_run(scheduler.schedule());
  scheduler.submit(sequence_of(1, 60, 1));
  std::vector<std::int64_t> turns;
  for (int step = 0; step < 8; ++step) {
    const std::vector<Piece> pieces = scheduler.schedule();
    turns.push_back(pieces[0].sequence->request_id);
    pretend_to_run(pieces);
    scheduler.settle();
  }
  // Sequence 0 gets every second step.
  EXPECT_EQ(std::count(turns.begin(), turns.end(), 0), 4);
}

TEST(Scheduler, ACancelledSequenceRunsNoMore) {
  KvCache cache(small_row(), kPatterns, {2, 64});
  Scheduler scheduler(cache, 8);
  for (const std::int64_t id : {0, 1, 2}) scheduler.submit(sequence_of(id, 8, 4));
  pretend_to_run(scheduler.schedule());
  scheduler.find(0)->finished = FinishReason::kCancelled;
  scheduler.find(2)->finished = FinishReason::kCancelled;
  EXPECT_EQ(scheduler.find(3), nullptr);
  for (const Piece& piece : scheduler.schedule()) EXPECT_EQ(piece.sequence->request_id, 1);
  EXPECT_EQ(scheduler.settle().size(), 2u);
  EXPECT_EQ(scheduler.num_waiting(), 0);
  EXPECT_EQ(scheduler.num_running(), 1);
}

// Random arrivals, cancellations and ends: every request ends, in a bounded number of steps,
// nobody overtakes in the queue, no step is larger than a chunk, no memory is lost.
TEST(Scheduler, RandomLoad) {
  std::int64_t num_requests = 0, num_steps = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Random random(seed);
    const std::int64_t chunk_len = 1 + random.below(20);
    const std::int64_t num_tokens = 40 + random.below(100);
    KvCache cache(small_row(), kPatterns, {1 + random.below(5), num_tokens});
    Scheduler scheduler(cache, chunk_len);
    std::int64_t next_id = 0, last_admitted = -1, num_done = 0;
    const std::int64_t total = 1 + random.below(60);
    std::map<std::int64_t, std::int64_t> waited;  // steps since a decoding sequence last ran
    while (next_id < total || scheduler.has_work()) {
      ASSERT_LT(++num_steps, 10'000'000);
      while (next_id < total && random.below(3) == 0) {
        const std::int64_t prompt_len = 1 + random.below(30), max_new = 1 + random.below(11);
        scheduler.submit(sequence_of(next_id++, prompt_len, max_new));
      }
      if (random.below(50) == 0 && next_id > 0) {
        Sequence* sequence = scheduler.find(random.below(next_id));
        if (sequence != nullptr) sequence->finished = FinishReason::kCancelled;
      }
      const std::vector<Piece> pieces = scheduler.schedule();
      std::int64_t step_len = 0;
      bool is_prefill = false;
      for (const Piece& piece : pieces) {
        ASSERT_FALSE(piece.sequence->finished);
        ASSERT_GE(piece.num_new, 1);
        ASSERT_LE(piece.num_new, piece.sequence->num_pending());
        is_prefill = is_prefill || piece.sequence->num_generated() == 0;
        if (piece.sequence->num_computed == 0) {
          ASSERT_GT(piece.sequence->request_id, last_admitted) << "overtaken";
          last_admitted = piece.sequence->request_id;
        }
        step_len += piece.num_new;
        waited[piece.sequence->request_id] = 0;
      }
      if (is_prefill) ASSERT_LE(step_len, chunk_len) << "a prefill step";
      for (auto& [id, steps] : waited) {
        const Sequence* sequence = scheduler.find(id);
        if (sequence != nullptr && !sequence->finished && sequence->num_generated() > 0) {
          ASSERT_LE(steps++, 1) << "a sequence that decodes waits";
        }
      }
      pretend_to_run(pieces);
      for (const auto& sequence : scheduler.settle()) {
        waited.erase(sequence->request_id);
        ++num_done;
      }
      ASSERT_EQ(cache.num_open(), scheduler.num_running());
    }
    ASSERT_EQ(num_done, total);
    ASSERT_EQ(cache.used_bytes().total(), 0);
    ASSERT_EQ(cache.page_groups()[0].num_promised(), 0);
    num_requests += total;
  }
  std::printf("%ld requests, %ld steps\n", num_requests, num_steps);
}

}  // namespace
}  // namespace loza
