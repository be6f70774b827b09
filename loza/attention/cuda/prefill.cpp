#include "loza/attention/cuda/prefill.h"

#include <algorithm>
#include <cmath>

#include "loza/attention/cuda/instances/prefill.h"
#include "loza/attention/cuda/refusal.h"
#include "loza/attention/cuda/tensor_map.h"
#include "loza/attention/sequence.h"

namespace loza::attention::cuda {
namespace {

constexpr std::int64_t kTailSize = 64;

PrefillKernel choose_prefill_kernel(const ForwardParams& params) {
  const bool is_bf16 = params.dtype == DType::kBF16;
  switch (params.qk_size) {
    case 192:
      return is_bf16 ? prefill_bf16_192_128() : prefill_fp16_192_128();
    case 128:
      return is_bf16 ? prefill_bf16_128_128() : prefill_fp16_128_128();
    default:
      return is_bf16 ? prefill_bf16_64_64() : prefill_fp16_64_64();
  }
}

// ---- checks, each with what it got and what to do ----

Status check_prefill_counts(const ForwardParams& params) {
  if (params.num_sequences < 0 || params.num_heads < 1 || params.num_key_heads < 1 ||
      params.num_heads % params.num_key_heads != 0) {
    return failure(kBad,
                   "cuda prefill: num_key_heads must divide num_heads, got %lld sequences, %lld "
                   "heads, %lld key heads",
                   number(params.num_sequences), number(params.num_heads),
                   number(params.num_key_heads));
  }
  if (params.dtype != DType::kBF16 && params.dtype != DType::kF16) {
    return failure(kUnsupported, "cuda prefill: dtype must be bf16 or fp16, got %s",
                   dtype_name(params.dtype));
  }
  const std::int64_t qk = params.qk_size, v = params.v_size;
  if (!(qk == 192 && v == 128) && !(qk == v && (qk == 64 || qk == 128))) {
    return failure(kUnsupported,
                   "cuda prefill: D/V must be 192/128, 128/128 or 64/64, got %lld/%lld; use the "
                   "torch path",
                   number(qk), number(v));
  }
  if (!(params.scale > 0) || !std::isfinite(params.scale)) {
    return failure(kUnsupported, "cuda prefill: scale must be positive, got %g; use the torch path",
                   params.scale);
  }
  return {};
}

Status check_prefill_pattern(const ForwardParams& params) {
  const BlockPattern& pattern = params.pattern;
  if (pattern.block_size < 1 || pattern.sink_blocks < 0 || pattern.recent_blocks < 1) {
    return failure(kBad, "cuda prefill: not a pattern: block_size %lld, sink %lld, recent %lld",
                   number(pattern.block_size), number(pattern.sink_blocks),
                   number(pattern.recent_blocks));
  }
  if (pattern.block_size % kTileLen != 0) {
    return failure(kUnsupported,
                   "cuda prefill: block_size must be a multiple of %d, got %lld; use the torch "
                   "path",
                   kTileLen, number(pattern.block_size));
  }
  return {};
}

Status check_prefill_memory(const ForwardParams& params, const SharedKeyTail& tail) {
  const struct {
    const char* name;
    const void* data;
    std::int64_t token_stride, head_stride;
    bool may_be_null;
  } operands[] = {
      {"q", params.q.data, params.q.token_stride, params.q.head_stride, false},
      {"sink_q", params.sink_q.data, params.sink_q.token_stride, params.sink_q.head_stride, true},
      {"k", params.k.data, params.k.token_stride, params.k.head_stride, false},
      {"the keys' tail", tail.data, tail.token_stride, 0, true},
      {"v", params.v.data, params.v.token_stride, params.v.head_stride, false},
      {"out", params.out.data, params.out.token_stride, params.out.head_stride, false}};
  for (const auto& [name, data, token_stride, head_stride, may_be_null] : operands) {
    if (data == nullptr) {
      if (may_be_null) continue;
      return failure(kBad, "cuda prefill: %s is null", name);
    }
    if (!is_aligned(data)) {
      return failure(kUnsupported, "cuda prefill: %s must lie at a multiple of 16 bytes", name);
    }
    if (token_stride < 0 || head_stride < 0 || token_stride % 8 != 0 || head_stride % 8 != 0) {
      return failure(kUnsupported,
                     "cuda prefill: strides of %s must be multiples of 8 elements (16 bytes), got "
                     "%lld, %lld",
                     name, number(token_stride), number(head_stride));
    }
  }
  return {};
}

// ---- the launch ----

std::int64_t num_queries(const ForwardParams& params) {
  return params.q_offsets[params.num_sequences];
}
std::int64_t num_keys(const ForwardParams& params) {
  return params.k_offsets[params.num_sequences];
}

bool encode(const TensorView& view, DType dtype, std::int64_t size, std::int64_t num_tokens,
            std::int64_t num_heads, int box_tokens, CUtensorMap* map) {
  return encode_tensor_map(PackedOperand{dtype, view.data, size, num_tokens, num_heads,
                                         view.token_stride, view.head_stride, box_tokens},
                           map);
}

bool encode_maps(const ForwardParams& params, const SharedKeyTail& tail, PrefillArgs& args) {
  const std::int64_t heads = params.num_heads, key_heads = params.num_key_heads;
  const std::int64_t queries = num_queries(params), keys = num_keys(params);
  const std::int64_t key_size = params.qk_size - (args.has_key_tail ? kTailSize : 0);
  if (!encode(params.q, params.dtype, params.qk_size, queries, heads, kConsumerRows, &args.q_map))
    return false;
  if (args.has_sink_q && !encode(params.sink_q, params.dtype, params.qk_size, queries, heads,
                                 kConsumerRows, &args.sink_q_map)) {
    return false;
  }
  if (keys == 0) return true;  // nothing will be read
  const TensorView tail_view = {const_cast<void*>(tail.data), tail.token_stride, 0};
  if (args.has_key_tail &&
      !encode(tail_view, params.dtype, kTailSize, keys, 1, kTileLen, &args.key_tail_map)) {
    return false;
  }
  return encode(params.k, params.dtype, key_size, keys, key_heads, kTileLen, &args.k_map) &&
         encode(params.v, params.dtype, params.v_size, keys, key_heads, kTileLen, &args.v_map);
}

// Heads that share keys side by side. Of those that do not, as few together as possible under the
// full pattern: then neighbours in time are neighbours in position, and find each other's keys in
// the L2. But a turn's tiles, which are of all lengths, must be enough for two rounds, or some
// blocks get the longest of every turn. Under a streaming pattern a call of few rounds takes as
// many as have their windows in the L2: then its last round, which not all blocks have, is made of
// the shortest tiles of all of them.
int choose_heads_in_turn(const ForwardParams& params, int num_tiles, int num_blocks) {
  const std::int64_t group = params.num_heads / params.num_key_heads;
  if (!params.pattern.is_full()) {
    constexpr std::int64_t kMostKeyHeads = 32, kFewRounds = 32;
    if (num_tiles * params.num_heads >= kFewRounds * num_blocks) return static_cast<int>(group);
    std::int64_t key_heads = std::min(params.num_key_heads, kMostKeyHeads);
    while (params.num_key_heads % key_heads != 0) --key_heads;
    return static_cast<int>(key_heads * group);
  }
  for (std::int64_t key_heads = 1; key_heads <= params.num_key_heads; ++key_heads) {
    if (params.num_key_heads % key_heads == 0 && key_heads * group * num_tiles >= 2 * num_blocks) {
      return static_cast<int>(key_heads * group);
    }
  }
  return static_cast<int>(params.num_heads);
}

bool fill_prefill_args(const ForwardParams& params, const SharedKeyTail& tail, PrefillArgs& args) {
  constexpr double kLog2E = 1.4426950408889634;
  args.has_sink_q = params.sink_q.data != nullptr;
  args.has_key_tail = tail.data != nullptr;
  args.out = params.out.data;
  args.out_token_stride = params.out.token_stride;
  args.out_head_stride = params.out.head_stride;
  args.lse = params.lse;
  args.num_heads = static_cast<int>(params.num_heads);
  args.group_size = static_cast<int>(params.num_heads / params.num_key_heads);
  args.pattern = page_pattern(params.pattern);
  args.scale_log2 = static_cast<float>(params.scale * kLog2E);
  return encode_maps(params, tail, args);
}

// As many sequences from `first` on as a launch takes; returns the next one.
std::int64_t fill_sequences(const ForwardParams& params, std::int64_t first, PrefillArgs& args) {
  args.num_tiles = 0;
  args.num_sequences = 0;
  std::int64_t b = first;
  for (; b < params.num_sequences && args.num_sequences < kMostPrefillSequences; ++b) {
    const SequenceRows rows = sequence_rows(params, b);
    if (rows.q_begin == rows.q_end) continue;
    PrefillSequence& sequence = args.sequences[args.num_sequences++];
    sequence.tile_begin = args.num_tiles;
    sequence.q_begin = static_cast<int>(rows.q_begin);
    sequence.first_pos = static_cast<int>(rows.first_query_pos());
    sequence.end_pos = static_cast<int>(rows.end_pos());
    sequence.k_begin = static_cast<int>(rows.k_begin);
    sequence.kept_prefix = static_cast<int>(rows.kept_prefix);
    sequence.skipped = static_cast<int>(rows.skipped);
    args.num_tiles += tile_of(sequence.end_pos - 1) + 1 - tile_of(sequence.first_pos);
  }
  return b;
}

int num_multiprocessors() {
  int device = 0, count = 0;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&count, cudaDevAttrMultiProcessorCount, device);
  return std::max(1, count);
}

cudaError_t launch_prefill(const PrefillKernel& kernel, PrefillArgs& args, int num_blocks,
                           cudaStream_t stream) {
  void* arguments[] = {&args};
  return cudaLaunchKernel(kernel.function, dim3(static_cast<unsigned>(num_blocks)),
                          dim3(static_cast<unsigned>(kernel.num_threads)), arguments,
                          static_cast<std::size_t>(kernel.shared_bytes), stream);
}

}  // namespace

Status check_sizes(const ForwardParams& params) {
  const Status status = check_prefill_counts(params);
  return status.ok() ? check_prefill_pattern(params) : status;
}

Status check(const ForwardParams& params, const SharedKeyTail& tail) {
  const Status status = check_sizes(params);
  if (!status.ok()) return status;
  if (tail.data != nullptr && params.qk_size != 192) {
    return failure(kUnsupported,
                   "cuda prefill: keys with a shared tail must have 192 elements, got %lld; "
                   "concatenate them",
                   number(params.qk_size));
  }
  return check_prefill_memory(params, tail);
}

Status prefill(const ForwardParams& params, const SharedKeyTail& tail, cudaStream_t stream) {
  const Status status = check(params, tail);
  if (!status.ok()) return status;
  if (params.num_sequences == 0 || num_queries(params) == 0) return {};
  constexpr std::int64_t kMostRows = std::int64_t{1} << 30;
  if (num_queries(params) > kMostRows || num_keys(params) > kMostRows) {
    return failure(kUnsupported, "cuda prefill: at most 2^30 tokens a call, got %lld and %lld",
                   number(num_queries(params)), number(num_keys(params)));
  }
  PrefillArgs args = {};
  if (!fill_prefill_args(params, tail, args)) {
    return failure(StatusCode::kCudaError,
                   "cuda prefill: the driver made no tensor map of the operands; is there a "
                   "driver?");
  }
  const PrefillKernel kernel = choose_prefill_kernel(params);
  cudaError_t error = cudaFuncSetAttribute(
      kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes);
  const int most_blocks = num_multiprocessors();
  for (std::int64_t b = 0; error == cudaSuccess && b < params.num_sequences;) {
    b = fill_sequences(params, b, args);
    const std::int64_t work = static_cast<std::int64_t>(args.num_tiles) * args.num_heads;
    if (work == 0) continue;
    args.heads_in_turn = choose_heads_in_turn(params, args.num_tiles, most_blocks);
    if (work > kMostRows) {
      return failure(kUnsupported, "cuda prefill: %lld tiles are too many; split the call",
                     number(work));
    }
    error = launch_prefill(kernel, args,
                           static_cast<int>(std::min<std::int64_t>(work, most_blocks)), stream);
  }
  if (error != cudaSuccess) {
    return failure(StatusCode::kCudaError, "cuda prefill: %s: %s", cudaGetErrorName(error),
                   cudaGetErrorString(error));
  }
  return {};
}

}  // namespace loza::attention::cuda
