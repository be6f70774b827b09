#include "loza/attention/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include <algorithm>

#include "loza/attention/cuda/visible_pages.h"

namespace loza::attention::cuda {
namespace {

constexpr cuuint64_t kSubTileCols = 64;
constexpr cuuint64_t kElementBytes = 2;
// The view does not know how many pages there are; entries of unseen pages are never read.
constexpr cuuint64_t kManyPages = 0x7FFFFFFF;

// The driver's encoder, found at run time so that nothing links against the driver.
decltype(&cuTensorMapEncodeTiled) find_encoder() {
  void* function = nullptr;
  cudaDriverEntryPointQueryResult result;
  constexpr unsigned kSinceCuda = 12000;
  if (cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &function, kSinceCuda,
                                       cudaEnableDefault, &result) != cudaSuccess ||
      result != cudaDriverEntryPointSuccess) {
    return nullptr;
  }
  return reinterpret_cast<decltype(&cuTensorMapEncodeTiled)>(function);
}

cuuint64_t bytes(std::int64_t elements) {
  return static_cast<cuuint64_t>(elements) * kElementBytes;
}

// A tensor as the copy engine sees it, innermost dimension first.
template <int kRank>
struct Geometry {
  cuuint64_t dims[kRank];
  cuuint64_t strides[kRank - 1];  // bytes, from dimension 1 on
  cuuint32_t box[kRank];
};

template <int kRank>
bool encode(const Geometry<kRank>& geometry, DType dtype, const void* data, CUtensorMap* map) {
  static const auto encoder = find_encoder();
  if (encoder == nullptr) return false;
  cuuint32_t every[kRank];
  std::fill_n(every, kRank, 1u);
  // Not 256 bytes: rows of 1,152 bytes start at odd multiples of 128, and the neighbours that
  // a larger promotion fetches are lost before their own box asks for them (8 % of the time of
  // a long decode on an H200).
  constexpr auto kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  const auto type =
      dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return encoder(map, type, kRank, const_cast<void*>(data), geometry.dims, geometry.strides,
                 geometry.box, every, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B,
                 kPromotion, CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace

bool encode_tensor_map(const PagedOperand& operand, CUtensorMap* map) {
  const std::int64_t head_stride =
      operand.num_heads > 1 ? operand.head_stride : operand.page_stride;
  const Geometry<5> geometry = {
      {kSubTileCols, kPageLen, operand.size / kSubTileCols,
       static_cast<cuuint64_t>(operand.num_heads), kManyPages},
      {bytes(operand.row_stride), bytes(kSubTileCols), bytes(head_stride),
       bytes(operand.page_stride)},
      {kSubTileCols, kPageLen, static_cast<cuuint32_t>(operand.box_tiles), 1, 1}};
  return encode(geometry, operand.dtype, operand.data, map);
}

bool encode_tensor_map(const PackedOperand& operand, CUtensorMap* map) {
  const auto sub_tiles = static_cast<cuuint64_t>(operand.size / kSubTileCols);
  const std::int64_t head_stride =
      operand.num_heads > 1 ? operand.head_stride : operand.token_stride;
  const Geometry<4> geometry = {
      {kSubTileCols, static_cast<cuuint64_t>(operand.num_tokens), sub_tiles,
       static_cast<cuuint64_t>(operand.num_heads)},
      {bytes(operand.token_stride), bytes(kSubTileCols), bytes(head_stride)},
      {kSubTileCols, static_cast<cuuint32_t>(operand.box_tokens),
       static_cast<cuuint32_t>(sub_tiles), 1}};
  return encode(geometry, operand.dtype, operand.data, map);
}

}  // namespace loza::attention::cuda
