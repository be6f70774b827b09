#pragma once

#include <cstdint>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/attention/params.h"
#include "loza/attention/sequence.h"

// What the backward pass packs for BackwardStep, on the side of keys and of queries.
namespace loza::cpu {

// Sizes of one call's rows, in words and in panels of 16 numbers.
struct BackwardSizes {
  std::int64_t qk_words, v_words, qk_panels, v_panels;

  BackwardSizes(const ForwardParams& params, const TileKernels& kernels)
      : qk_words(kernels.words(params.qk_size)),
        v_words(kernels.words(params.v_size)),
        qk_panels((params.qk_size + kLanes - 1) / kLanes),
        v_panels((params.v_size + kLanes - 1) / kLanes) {}
};

// One key head of one sequence.
struct KeyHead {
  std::int64_t key_head = 0;
  SequenceRows rows;
  std::int64_t first_pos = 0;  // of the first query that has a position
  KeyLayout layout;            // of the keys that any query sees

  // Whether some query has a position; else the layout is empty.
  bool has_queries() const { return rows.q_begin < rows.q_end && first_pos < rows.end_pos(); }

  static KeyHead of(const ForwardParams& params, std::int64_t sequence_idx, std::int64_t key_head);
};

// Keys and values of a key head as A operands, in the layout's order.
class KeyOperands {
 public:
  // REQUIRES: the arguments outlive it.
  KeyOperands(const ForwardParams& params, const TileKernels& kernels, const BackwardSizes& sizes,
              const KeyHead& head);

  // Different blocks may be packed at the same time.
  void pack_block(std::int64_t slot);

  // Puts the keys from `first_key` of the layout on into a step.
  void fill(std::int64_t first_key, BackwardStep& step) const;

 private:
  const ForwardParams& params_;
  const TileKernels& kernels_;
  const BackwardSizes& sizes_;
  const KeyHead& head_;
  std::int64_t transposed_stride_ = 0;
  Buffer<Word> keys_, values_, keys_transposed_;
};

// Up to kTileRows queries of one head, with the gradient that is summed up for them. Kept and
// reused, it allocates once.
class QueryOperands {
 public:
  // Packs the queries at positions [begin_pos, end_pos) and begins their gradient at 0.
  void start(const BackwardParams& params, const TileKernels& kernels, const BackwardSizes& sizes,
             const SequenceRows& sequence, std::int64_t head_idx, std::int64_t begin_pos,
             std::int64_t end_pos);

  void fill(BackwardStep& step) const;

  // Writes the gradient to d_q, if that is asked for.
  void finish(const BackwardParams& params, const TileKernels& kernels) const;

 private:
  void load_statistics(const BackwardParams& params, const TileKernels& kernels);

  std::int64_t first_token_ = 0, count_ = 0, head_idx_ = 0;
  std::int64_t num_rows_ = 0;  // count_, padded to whole lanes
  Buffer<Word> queries_, d_outs_, queries_by_size_, d_outs_by_size_;
  Buffer<float> lse_log2_, delta_;  // [num_rows_]
  Buffer<float> d_queries_;         // [D, padded to whole lanes][num_rows_]
};

}  // namespace loza::cpu
