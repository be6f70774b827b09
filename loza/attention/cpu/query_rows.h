#pragma once

#include <cstdint>
#include <vector>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/softmax_state.h"
#include "loza/attention/cpu/tile.h"

namespace loza::cpu {

// Keys and values of one step, packed for ForwardStep.
struct PackedStep {
  const Word* keys = nullptr;
  const Word* values = nullptr;
  std::int64_t value_panel_stride = 0;
  std::int64_t num_keys = 0;
  // Where the values come from, [num_keys]; null when all of them are finite.
  const void* const* value_rows = nullptr;
};

// Keys and values of one step as they lie in memory, and what will be read after them.
struct RowStep {
  const void* const* keys = nullptr;    // [num_keys]
  const void* const* values = nullptr;  // [num_keys]
  std::int64_t num_keys = 0;
  const std::vector<MemoryRange>* coming = nullptr;  // may be null
};

// Sizes of one call.
struct RowSizes {
  DType dtype = DType::kF32;
  std::int64_t qk_size = 0, v_size = 0;  // D, V
  double scale = 1;

  std::int64_t v_panels() const { return (v_size + kLanes - 1) / kLanes; }
};

// Which of a row's queries meets a step's keys: that of sink_q (params.h), or that of q.
enum class Scorer : bool { kQuery, kSinkQuery };

// How query rows meet keys: packed ones (PackedStep), or as they lie (RowStep).
enum class Reading : bool { kPacked, kRows };

// Query rows on their way over the keys: their packed queries, and what online softmax knows of
// each so far. Not thread-safe; kept and reused, it allocates once.
class QueryRows {
 public:
  // Begins anew with these queries [count], D elements each, and as many sink queries, or none.
  // REQUIRES: the kernels read rows of such sizes, if they are to be read.
  void start(const TileKernels& kernels, const RowSizes& sizes, Reading reading,
             const std::vector<const void*>& queries, const std::vector<const void*>& sink_queries);

  // Row r meets keys visible[r] of the step.
  void meet(const PackedStep& step, const std::vector<ColumnRange>& visible, Scorer scorer);

  // Rows [first_row, first_row + num_rows) meet all keys of the step.
  void read(const RowStep& step, std::int64_t first_row, std::int64_t num_rows, Scorer scorer);

  std::int64_t count() const { return count_; }
  // What row r has summed up; valid until start().
  SoftmaxState state(std::int64_t row) const;

 private:
  // As meet(), when some value is not finite: a row's values are packed without those that it
  // does not see, since 0 * NaN is NaN.
  void meet_row_by_row(const PackedStep& step, const std::vector<ColumnRange>& visible,
                       Scorer scorer);
  ForwardStep forward_step(const PackedStep& step, Scorer scorer) const;
  const Word* scoring_queries(Scorer scorer) const {
    return (has_sink_queries_ && scorer == Scorer::kSinkQuery ? sink_queries_ : queries_).data();
  }

  const TileKernels* kernels_ = nullptr;
  RowSizes sizes_;
  std::int64_t count_ = 0, qk_words_ = 0;
  bool has_sink_queries_ = false;
  Buffer<Word> queries_, sink_queries_, seen_values_, widened_keys_;
  Buffer<float> max_, sum_, out_;
};

}  // namespace loza::cpu
