#pragma once

#include <cstdint>
#include <vector>

#include "loza/attention/cpu/buffer.h"
#include "loza/attention/cpu/query_rows.h"
#include "loza/attention/cpu/steps.h"
#include "loza/attention/cpu/tile.h"
#include "loza/attention/params.h"

namespace loza::cpu {

// Keys and values of a forward call, packed once for all query tiles and for all heads that
// share them. Only blocks that some query sees are read.
class PackedKeys {
 public:
  // Packs, in parallel. REQUIRES: `params` outlives it.
  PackedKeys(const ForwardParams& params, const TileKernels& kernels);

  // REQUIRES: some query of the sequence sees the step's keys. `value_rows` is room for the
  // addresses that the step may refer to.
  PackedStep step(std::int64_t sequence_idx, std::int64_t key_head, const KeyStep& step,
                  std::vector<const void*>& value_rows) const;

 private:
  // One key head of one sequence.
  struct Head {
    std::int64_t sequence_idx = 0, key_head = 0;
    KeyLayout layout;
    std::int64_t keys = 0, values = 0;  // first words
    std::int64_t value_panel_stride = 0;
    std::int64_t first_block = 0;  // of block_is_finite_
  };

  void lay_out();
  void pack_block(const Head& head, std::int64_t slot);
  // Addresses of rows at positions [first_pos, first_pos + count); null for those after the end.
  void find_rows(const Head& head, const TensorView& view, std::int64_t first_pos,
                 std::int64_t count, std::vector<const void*>& rows) const;

  const ForwardParams& params_;
  const TileKernels& kernels_;
  std::int64_t qk_words_ = 0;
  std::vector<Head> heads_;  // [B, G]
  std::int64_t num_words_ = 0, num_blocks_ = 0;
  Buffer<Word> words_;
  Buffer<bool> block_is_finite_;  // the values of a packed block
};

}  // namespace loza::cpu
