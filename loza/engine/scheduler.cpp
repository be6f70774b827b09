#include "loza/engine/scheduler.h"

#include <algorithm>
#include <utility>

#include "loza/base/check.h"

namespace loza {

const char* finish_reason_name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kBroken:
      return "broken";
    case FinishReason::kCancelled:
      return "cancelled";
  }
  return "?";
}

Sequence::Sequence(std::int64_t id, Request asked)
    : request_id(id),
      request(std::move(asked)),
      prompt_len(static_cast<std::int64_t>(request.prompt.size())),
      ids(request.prompt),
      sampler(request.sampling),
      stream(request.stops) {}

Scheduler::Scheduler(KvCache& cache, std::int64_t chunk_len)
    : cache_(cache), chunk_len_(chunk_len) {
  LOZA_CHECK(chunk_len >= 1, chunk_len);
}

void Scheduler::submit(std::unique_ptr<Sequence> sequence) {
  waiting_.push_back(std::move(sequence));
}

std::vector<Piece> Scheduler::schedule() {
  admit();
  std::vector<Piece> prefill = prefill_pieces();
  std::vector<Piece> decode = decode_pieces();
  last_was_prefill_ = decode.empty() || (!prefill.empty() && !last_was_prefill_);
  std::vector<Piece> pieces = last_was_prefill_ ? std::move(prefill) : std::move(decode);
  for (const Piece& piece : pieces) cache_.append(*piece.sequence->kv, piece.num_new);
  return pieces;
}

void Scheduler::admit() {
  while (!waiting_.empty() && cache_.can_open(waiting_.front()->max_len())) {
    Sequence& sequence = *waiting_.front();
    sequence.kv = cache_.open(sequence.max_len());
    sequence.started = Clock::now();
    running_.push_back(std::move(waiting_.front()));
    waiting_.pop_front();
  }
}

std::vector<Piece> Scheduler::prefill_pieces() const {
  std::vector<Piece> pieces;
  std::int64_t room = chunk_len_;
  for (const auto& sequence : running_) {
    if (sequence->finished || sequence->num_generated() > 0 || room == 0) continue;
    const std::int64_t num_new = std::min(sequence->num_pending(), room);
    pieces.push_back({sequence.get(), num_new});
    room -= num_new;
  }
  return pieces;
}

std::vector<Piece> Scheduler::decode_pieces() const {
  std::vector<Piece> pieces;
  for (const auto& sequence : running_) {
    if (!sequence->finished && sequence->num_generated() > 0) pieces.push_back({sequence.get(), 1});
  }
  return pieces;
}

std::vector<std::unique_ptr<Sequence>> Scheduler::settle() {
  std::vector<std::unique_ptr<Sequence>> done;
  const auto take = [&](auto& from) {
    for (auto& sequence : from) {
      if (!sequence->finished) continue;
      if (sequence->kv) cache_.close(*sequence->kv);
      done.push_back(std::move(sequence));
    }
    std::erase(from, nullptr);
  };
  take(running_);
  take(waiting_);
  return done;
}

Sequence* Scheduler::find(std::int64_t request_id) {
  for (const auto& sequence : running_) {
    if (sequence->request_id == request_id) return sequence.get();
  }
  for (const auto& sequence : waiting_) {
    if (sequence->request_id == request_id) return sequence.get();
  }
  return nullptr;
}

}  // namespace loza
