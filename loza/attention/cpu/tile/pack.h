#pragma once

#include <cstddef>
#include <cstring>

#include "loza/attention/cpu/tile.h"

// Packing of rows into operands, and what is done with single rows. Include after a words_*.h.
namespace loza::cpu {
namespace {

// Bytes that hold `count` elements from element `first` on; null stays null.
template <DType dtype>
inline const char* element_address(const void* row, std::int64_t first) {
  constexpr std::int64_t bytes = dtype == DType::kF32 ? 4 : 2;
  return row == nullptr ? nullptr : static_cast<const char*>(row) + first * bytes;
}

// At least kLanes * kWordElements elements of a row from element `first` on, with zeros for
// those that it does not have. `room` holds them when the row itself can't be read so far.
template <DType dtype>
inline const void* whole_chunk(const void* row, std::int64_t first, std::int64_t size,
                               std::int64_t chunk, float (&room)[kLanes]) {
  constexpr std::int64_t bytes = dtype == DType::kF32 ? 4 : 2;
  if (row != nullptr && first + chunk <= size) return element_address<dtype>(row, first);
  std::memset(room, 0, sizeof room);
  const std::int64_t there = size - first < chunk ? size - first : chunk;
  if (row != nullptr && there > 0) {
    std::memcpy(room, element_address<dtype>(row, first), static_cast<std::size_t>(there * bytes));
  }
  return room;
}

inline std::int64_t words_of(std::int64_t elements) {
  return (elements + kWordElements - 1) / kWordElements;
}

template <DType dtype>
void pack_rows_of(const RowPointers& from, std::int64_t stride, Word* to) {
  constexpr std::int64_t chunk = kLanes * kWordElements;
  const std::int64_t words = words_of(from.size);
  for (std::int64_t i = 0; i < from.count; ++i) {
    for (std::int64_t w = 0; w < words; w += kLanes) {
      float room[kLanes];
      const Words row_words = words_of_row<dtype>(
          whole_chunk<dtype>(from.rows[i], w * kWordElements, from.size, chunk, room));
      if (w + kLanes <= stride) {
        store_words(row_words, to + i * stride + w);
      } else {
        Word last[kLanes];
        store_words(row_words, last);
        std::memcpy(to + i * stride + w, last, static_cast<std::size_t>(stride - w) * sizeof(Word));
      }
    }
  }
}

template <DType dtype>
void pack_panels_of_rows_of(const RowPointers& from, Word* to) {
  constexpr std::int64_t chunk = kLanes * kWordElements;
  const std::int64_t words = words_of(from.size);
  for (std::int64_t first = 0; first < from.count; first += kLanes, to += words * kLanes) {
    for (std::int64_t w = 0; w < words; w += kLanes) {
      Words square[kLanes];
      for (std::int64_t i = 0; i < kLanes; ++i) {
        const void* row = first + i < from.count ? from.rows[first + i] : nullptr;
        float room[kLanes];
        square[i] =
            words_of_row<dtype>(whole_chunk<dtype>(row, w * kWordElements, from.size, chunk, room));
      }
      transpose_words(square);
      const std::int64_t there = words - w < kLanes ? words - w : kLanes;
      for (std::int64_t j = 0; j < there; ++j) store_words(square[j], to + (w + j) * kLanes);
    }
  }
}

template <DType dtype>
bool pack_panels_of_size_of(const RowPointers& from, std::int64_t panel_stride, Word* to) {
  const Word zero = 0;
  // Stays 0 unless a number is not finite.
  Floats check = zeros();
  for (std::int64_t w = 0; w < words_of(from.count); ++w) {
    for (std::int64_t first = 0; first < from.size; first += kLanes) {
      const void* rows[kWordElements];
      float room[kWordElements][kLanes];
      for (std::int64_t e = 0; e < kWordElements; ++e) {
        const std::int64_t i = w * kWordElements + e;
        rows[e] = whole_chunk<dtype>(i < from.count ? from.rows[i] : nullptr, first, from.size,
                                     kLanes, room[e]);
      }
      const Words words = words_across_rows<dtype>(rows);
      check = accumulate(check, broadcast_word(&zero), words);
      store_words(words, to + first / kLanes * panel_stride + w * kLanes);
    }
  }
  return sum_of_lanes(check) == 0;
}

template <DType dtype>
void pack_transposed_of(const RowPointers& from, std::int64_t stride, Word* to) {
  // Squares of 16 words along the rows by 16 elements: packed as panels of size, turned.
  constexpr std::int64_t chunk = kLanes * kWordElements;
  for (std::int64_t first_row = 0; first_row < from.count; first_row += chunk) {
    const std::int64_t rows = from.count - first_row < chunk ? from.count - first_row : chunk;
    for (std::int64_t first = 0; first < from.size; first += kLanes) {
      Words square[kLanes];
      for (std::int64_t w = 0; w < kLanes; ++w) {
        const void* across[kWordElements];
        float room[kWordElements][kLanes];
        for (std::int64_t e = 0; e < kWordElements; ++e) {
          const std::int64_t i = w * kWordElements + e;
          across[e] = whole_chunk<dtype>(i < rows ? from.rows[first_row + i] : nullptr, first,
                                         from.size, kLanes, room[e]);
        }
        square[w] = words_across_rows<dtype>(across);
      }
      transpose_words(square);
      const std::int64_t elements = from.size - first < kLanes ? from.size - first : kLanes;
      const std::int64_t words = words_of(rows);
      for (std::int64_t i = 0; i < elements; ++i) {
        Word* row = to + (first + i) * stride + first_row / kWordElements;
        Word whole[kLanes];
        store_words(square[i], whole);
        std::memcpy(row, whole, static_cast<std::size_t>(words) * sizeof(Word));
      }
    }
  }
}

// The functions of TileKernels: kernels of two-element words take bf16 tensors alone.
void pack_rows(const RowPointers& from, std::int64_t stride, Word* to) {
  if constexpr (kWordElements == 1) {
    if (from.dtype == DType::kF32) return pack_rows_of<DType::kF32>(from, stride, to);
  }
  pack_rows_of<DType::kBF16>(from, stride, to);
}
void pack_transposed(const RowPointers& from, std::int64_t stride, Word* to) {
  if constexpr (kWordElements == 1) {
    if (from.dtype == DType::kF32) return pack_transposed_of<DType::kF32>(from, stride, to);
  }
  pack_transposed_of<DType::kBF16>(from, stride, to);
}
void pack_panels_of_rows(const RowPointers& from, Word* to) {
  if constexpr (kWordElements == 1) {
    if (from.dtype == DType::kF32) return pack_panels_of_rows_of<DType::kF32>(from, to);
  }
  pack_panels_of_rows_of<DType::kBF16>(from, to);
}
bool pack_panels_of_size(const RowPointers& from, std::int64_t panel_stride, Word* to) {
  if constexpr (kWordElements == 1) {
    if (from.dtype == DType::kF32) {
      return pack_panels_of_size_of<DType::kF32>(from, panel_stride, to);
    }
  }
  return pack_panels_of_size_of<DType::kBF16>(from, panel_stride, to);
}

template <DType dtype>
void store_row_of(const float* from, float factor, std::int64_t size, void* to) {
  const Floats factors = broadcast(factor);
  const auto store_chunk = [](Floats chunk, void* place) {
    if constexpr (dtype == DType::kF32) {
      store(chunk, static_cast<float*>(place));
    } else {
      store_bf16(chunk, static_cast<std::uint16_t*>(place));
    }
  };
  constexpr std::int64_t kBytes = dtype == DType::kF32 ? 4 : 2;
  auto* bytes = static_cast<std::byte*>(to);
  std::int64_t first = 0;
  for (; first + kLanes <= size; first += kLanes) {
    store_chunk(load(from + first) * factors, bytes + first * kBytes);
  }
  if (first == size) return;
  const std::int64_t left = size - first;
  float room[kLanes] = {};
  std::memcpy(room, from + first, static_cast<std::size_t>(left) * sizeof(float));
  alignas(float) std::byte last[kLanes * kBytes];
  store_chunk(load(room) * factors, last);
  std::memcpy(bytes + first * kBytes, last, static_cast<std::size_t>(left * kBytes));
}
void store_row(const float* from, float factor, std::int64_t size, DType dtype, void* to) {
  dtype == DType::kF32 ? store_row_of<DType::kF32>(from, factor, size, to)
                       : store_row_of<DType::kBF16>(from, factor, size, to);
}

template <DType dtype>
float dot_rows_of(const void* a, const void* b, std::int64_t size) {
  Floats sum = zeros();
  const auto floats_at = [&](const void* row, std::int64_t first) {
    float room[kLanes];
    const void* chunk = whole_chunk<dtype>(row, first, size, kLanes, room);
    if constexpr (dtype == DType::kF32)
      return load(static_cast<const float*>(chunk));
    else
      return load_bf16(static_cast<const std::uint16_t*>(chunk));
  };
  for (std::int64_t first = 0; first < size; first += kLanes) {
    sum = multiply_add(floats_at(a, first), floats_at(b, first), sum);
  }
  return sum_of_lanes(sum);
}
float dot_rows(const void* a, const void* b, std::int64_t size, DType dtype) {
  return dtype == DType::kF32 ? dot_rows_of<DType::kF32>(a, b, size)
                              : dot_rows_of<DType::kBF16>(a, b, size);
}

}  // namespace
}  // namespace loza::cpu
