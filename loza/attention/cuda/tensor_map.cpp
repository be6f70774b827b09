#include "loza/attention/cuda/tensor_map.h"

#include <cuda_runtime_api.h>

#include "loza/attention/cuda/visible_pages.h"

namespace loza::attention::cuda {
namespace {

constexpr int kRank = 5;
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

}  // namespace

bool encode_tensor_map(const PagedOperand& operand, CUtensorMap* map) {
  static const auto encode = find_encoder();
  if (encode == nullptr) return false;
  const std::int64_t head_stride =
      operand.num_heads > 1 ? operand.head_stride : operand.page_stride;
  const cuuint64_t dims[kRank] = {kSubTileCols, kPageLen, operand.size / kSubTileCols,
                                  static_cast<cuuint64_t>(operand.num_heads), kManyPages};
  const cuuint64_t strides[kRank - 1] = {bytes(operand.row_stride), bytes(kSubTileCols),
                                         bytes(head_stride), bytes(operand.page_stride)};
  const cuuint32_t box[kRank] = {kSubTileCols, kPageLen, static_cast<cuuint32_t>(operand.box_tiles),
                                 1, 1};
  const cuuint32_t every[kRank] = {1, 1, 1, 1, 1};
  // Not 256 bytes: rows of 1,152 bytes start at odd multiples of 128, and the neighbours that
  // a larger promotion fetches are lost before their own box asks for them (8 % of the time of
  // a long decode on an H200).
  constexpr auto kPromotion = CU_TENSOR_MAP_L2_PROMOTION_L2_128B;
  const auto type = operand.dtype == DType::kBF16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16
                                                  : CU_TENSOR_MAP_DATA_TYPE_FLOAT16;
  return encode(map, type, kRank, const_cast<void*>(operand.data), dims, strides, box, every,
                CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, kPromotion,
                CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

}  // namespace loza::attention::cuda
