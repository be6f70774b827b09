#pragma once

#include <cstdint>
#include <vector>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/query_rows.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/attention/params.h"

namespace loza::cpu {

// Keys and values of one key head that some queries of a sequence see, packed once for all tiles of
// those queries and all heads that share them. Only blocks that some query sees are read. Kept and
// reused, it allocates only what it lacks.
class PackedKeys {
 public:
  // For queries at positions [first_query_pos, end_pos) of the sequence. Lays out and packs nothing
  // yet. REQUIRES: 0 <= first_query_pos < end_pos; `params` and `kernels` outlive its use.
  void start(const ForwardParams& params, const TileKernels& kernels, std::int64_t sequence_idx,
             std::int64_t key_head, std::int64_t first_query_pos, std::int64_t end_pos);

  std::int64_t num_blocks() const { return layout_.num_blocks(); }
  // That it keeps.
  std::int64_t num_bytes() const { return words_.size() * std::int64_t{sizeof(Word)}; }
  // Blocks may be packed by several threads. REQUIRES: 0 <= slot < num_blocks().
  void pack_block(std::int64_t slot);

  // REQUIRES: all blocks are packed, and some of the queries sees the step's keys. `value_rows` is
  // room for the addresses that the step may refer to.
  PackedStep step(const KeyStep& step, std::vector<const void*>& value_rows) const;

 private:
  // Addresses of rows at positions [first_pos, first_pos + count); null for those after the end.
  void find_rows(const TensorView& view, std::int64_t first_pos, std::int64_t count,
                 std::vector<const void*>& rows) const;

  const ForwardParams* params_ = nullptr;
  const TileKernels* kernels_ = nullptr;
  std::int64_t sequence_idx_ = 0, key_head_ = 0;
  KeyLayout layout_;
  std::int64_t qk_words_ = 0, value_panel_stride_ = 0;
  Word* values_ = nullptr;  // behind the keys
  Buffer<Word> words_;
  Buffer<bool> block_is_finite_;  // the values of a packed block
};

}  // namespace loza::cpu
