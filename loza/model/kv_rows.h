#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

#include "loza/attention/attention.h"

// Rows of a module's KV cache between tensors and pages. A row is what one token leaves
// behind; its layout is the model's, these functions only move it. Pages and rows lie on one
// device.
namespace loza {

// The rows that a prefill chunk needs: of each sequence the past ones that some new query
// sees, then the new ones.
struct ChunkRows {
  at::Tensor rows;                 // [S, row]
  attention::Sequences sequences;  // q_offsets are the new tokens'
};

// new_rows [T, row]; offsets [B+1] of the new tokens; kv.lengths include them.
// REQUIRES: the visible past is alive in the pages.
ChunkRows gather_chunk(const PagedKvView& kv, const BlockPattern& pattern,
                       const std::vector<std::int64_t>& offsets, const at::Tensor& new_rows);

// Writes each sequence's new rows to their pages; in a ring, those that a later row of the
// same call would overwrite are left out.
void write_rows(const PagedKvView& kv, const std::vector<std::int64_t>& offsets,
                const at::Tensor& new_rows);

// The same of one new row a sequence, whose places [B] int64 are on the device as the pages are:
// rows counted over all pages. REQUIRES: kv says how many pages there are.
void write_rows(const PagedKvView& kv, const at::Tensor& places, const at::Tensor& new_rows);

}  // namespace loza
