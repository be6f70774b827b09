#include "loza/attention/cuda/decode.h"

#include <algorithm>
#include <map>
#include <mutex>
#include <tuple>

#include "loza/attention/cuda/instances/decode.h"
#include "loza/attention/cuda/refusal.h"
#include "loza/attention/cuda/sm90/decode_args.h"
#include "loza/attention/cuda/tensor_map.h"

namespace loza::attention::cuda {
namespace {

bool value_in_key(const DecodeParams& params) {
  return params.qk_size == 576 && params.v_size == 512;
}

bool known_sizes(const DecodeParams& params) {
  return value_in_key(params) ||
         (params.qk_size == params.v_size && (params.qk_size == 64 || params.qk_size == 128));
}

// ---- how query rows are cut ----

struct RowTiling {
  int num_tiles, rows_per_tile;
};

RowTiling tile_rows(const DecodeParams& params) {
  const int rows = static_cast<int>(params.q_len * params.num_heads / params.num_key_heads);
  const int most = value_in_key(params) ? kMostDecodeRows : kMostSwapRows;
  const int num_tiles = (rows + most - 1) / most;
  return {num_tiles, (rows + num_tiles - 1) / num_tiles};
}

DecodeKernel choose_decode_kernel(const DecodeParams& params) {
  const int rows = tile_rows(params).rows_per_tile;
  const bool is_bf16 = params.kv.dtype == DType::kBF16;
  switch (params.qk_size) {
    case 576:
      return is_bf16 ? decode_bf16_576_512(rows) : decode_fp16_576_512(rows);
    case 128:
      return is_bf16 ? decode_bf16_128_128(rows) : decode_fp16_128_128(rows);
    default:
      return is_bf16 ? decode_bf16_64_64(rows) : decode_fp16_64_64(rows);
  }
}

bool merges(const DecodeKernel& kernel, int cluster_size) {
  return cluster_size >= 1 && cluster_size <= kMostBlocks &&
         (kernel.merged_clusters >> cluster_size & 1) != 0;
}

// Independent pieces of work: (sequence, key head, row tile).
std::int64_t num_items(const DecodeParams& params) {
  return params.num_sequences * params.num_key_heads * tile_rows(params).num_tiles;
}

// ---- workspace: counters, then stats, then outputs of the clusters' partial results ----

constexpr std::int64_t kAlign = 256;

std::int64_t aligned(std::int64_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

struct WorkspaceLayout {
  std::int64_t stats_offset = 0, out_offset = 0, bytes = 0;
};

WorkspaceLayout layout_workspace(const DecodeParams& params, const DecodePlan& plan) {
  if (plan.num_clusters == 1) return {};
  const std::int64_t items = num_items(params);
  const std::int64_t rows = items * plan.num_clusters * choose_decode_kernel(params).num_rows;
  WorkspaceLayout layout;
  layout.stats_offset = aligned(items * plan.cluster_size * 4);
  layout.out_offset = layout.stats_offset + aligned(rows * plan.cluster_size * 8);
  layout.bytes = layout.out_offset + rows * params.v_size * 4;
  return layout;
}

// ---- plans ----

// Clusters of a size that run at once, 0 if none does or there is no device.
int query_active_clusters(const DecodeKernel& kernel, int cluster_size) {
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(cluster_size), 1, 1};
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(cluster_size);
  config.blockDim = dim3(kernel.num_threads);
  config.dynamicSmemBytes = kernel.shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  int clusters = 0;
  if (cudaOccupancyMaxActiveClusters(&clusters, kernel.function, &config) != cudaSuccess) {
    cudaGetLastError();
    return 0;
  }
  return clusters;
}

// The same, asked once: the answer takes the driver longer than a decode.
int max_active_clusters(const DecodeKernel& kernel, int cluster_size) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int>, int> known;
  int device = 0;
  cudaGetDevice(&device);
  const std::tuple key(device, kernel.function, cluster_size);
  const std::lock_guard lock(mutex);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  return known[key] = query_active_clusters(kernel, cluster_size);
}

cudaError_t allow_shared_memory_and_clusters(const DecodeKernel& kernel) {
  const cudaError_t error = cudaFuncSetAttribute(
      kernel.function, cudaFuncAttributeMaxDynamicSharedMemorySize, kernel.shared_bytes);
  if (error != cudaSuccess) return error;
  return cudaFuncSetAttribute(kernel.function, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
}

// Microseconds, roughly, of what a plan costs: a wave of blocks whatever it does, a page of a block
// with the memory to itself, and the merges. Chosen so that on an H200 the best of many measured
// plans, or one within a few percent of it, comes out (bench/decode_cuda --sweep).
struct PlanCosts {
  double wave_us, block_bytes_per_us, merges_us;
};

PlanCosts swap_costs(const DecodePlan& plan) {
  PlanCosts costs = {2.2, 37e3, 0};
  if (plan.cluster_size > 1) costs.merges_us += 0.6 + 0.03 * plan.cluster_size;
  if (plan.num_clusters > 1) costs.merges_us += 8.0 + 0.1 * plan.num_clusters;
  return costs;
}

// Of the kernel for many rows, whose blocks have 64 KB and more for each other.
PlanCosts rows_costs(const DecodePlan& plan) {
  PlanCosts costs = {5.0, 46e3, 0};
  const double blocks = plan.cluster_size, clusters = plan.num_clusters;
  if (blocks > 1) costs.merges_us += (0.3 + 0.07 * blocks) * blocks;
  if (clusters > 1) costs.merges_us += 1.5 + (0.8 + 0.8 / blocks) * clusters;
  return costs;
}

// A block alone is faster than its fair share of the memory's rate, but few blocks do not draw the
// whole rate.
double estimate_us(const PlanCosts& costs, std::int64_t items, std::int64_t max_pages,
                   double page_bytes, int max_clusters, const DecodePlan& plan) {
  constexpr double kMemoryBytesPerUs = 4.5e6;
  const std::int64_t units = plan.cluster_size * plan.num_clusters;
  const std::int64_t clusters = items * plan.num_clusters;
  const std::int64_t waves = (clusters + max_clusters - 1) / max_clusters;
  const double active =
      static_cast<double>(std::min<std::int64_t>(clusters, max_clusters)) * plan.cluster_size;
  const double page_us =
      std::max(page_bytes / costs.block_bytes_per_us, active * page_bytes / kMemoryBytesPerUs);
  const auto pages = static_cast<double>((max_pages + units - 1) / units);
  return static_cast<double>(waves) * (costs.wave_us + pages * page_us) + costs.merges_us;
}

std::int64_t max_visible_pages(const DecodeParams& params, std::int64_t max_length) {
  const BlockPattern& pattern = params.pattern;
  const std::int64_t all = (max_length + kPageLen - 1) / kPageLen;
  const std::int64_t blocks = pattern.sink_blocks + num_ring_blocks(pattern, params.q_len);
  return std::max<std::int64_t>(1, std::min(all, blocks * pattern.block_size / kPageLen));
}

// ---- the launch ----

PagedOperand key_operand(const DecodeParams& params, int box_tiles) {
  const PagedKvView& kv = params.kv;
  return {kv.dtype,      kv.pages,         params.qk_size, params.num_key_heads,
          kv.row_stride, kv.k_head_stride, kv.page_stride, box_tiles};
}

PagedOperand value_operand(const DecodeParams& params) {
  const PagedKvView& kv = params.kv;
  constexpr std::int64_t kElementBytes = 2;
  return {kv.dtype,       static_cast<const char*>(kv.pages) + kv.v_offset * kElementBytes,
          params.v_size,  params.num_key_heads,
          kv.row_stride,  kv.v_head_stride,
          kv.page_stride, static_cast<int>(params.v_size / 64)};
}

bool fill_decode_args(const DecodeParams& params, const DecodePlan& plan,
                      const DecodeKernel& kernel, void* workspace, DecodeArgs* args) {
  constexpr double kLog2E = 1.4426950408889634;
  if (!encode_tensor_map(key_operand(params, kernel.key_box_tiles), &args->k_map)) return false;
  if (!value_in_key(params) && !encode_tensor_map(value_operand(params), &args->v_map)) {
    return false;
  }
  const PagedKvView& kv = params.kv;
  const RowTiling tiling = tile_rows(params);
  const WorkspaceLayout layout = layout_workspace(params, plan);
  char* const bytes = static_cast<char*>(workspace);
  args->q = params.q.data;
  args->q_token_stride = params.q.token_stride;
  args->q_head_stride = params.q.head_stride;
  args->sink_q = params.sink_q.data;
  args->sink_q_token_stride = params.sink_q.token_stride;
  args->sink_q_head_stride = params.sink_q.head_stride;
  args->out = params.out.data;
  args->out_token_stride = params.out.token_stride;
  args->out_head_stride = params.out.head_stride;
  args->lse = params.lse;
  args->page_table = kv.page_table;
  args->table_stride = kv.table_stride;
  args->lengths = kv.lengths;
  args->sink_pages = static_cast<int>(kv.sink_pages);
  args->ring_pages = static_cast<int>(kv.ring_pages);
  args->q_len = static_cast<int>(params.q_len);
  args->num_heads = static_cast<int>(params.num_heads);
  args->num_key_heads = static_cast<int>(params.num_key_heads);
  args->group_size = static_cast<int>(params.num_heads / params.num_key_heads);
  args->num_row_tiles = tiling.num_tiles;
  args->rows_per_tile = tiling.rows_per_tile;
  args->num_clusters = plan.num_clusters;
  args->pattern = page_pattern(params.pattern);
  args->by_block = Divisor(args->pattern.block_len);
  args->by_units = Divisor(plan.cluster_size * plan.num_clusters);
  args->by_cluster = Divisor(plan.cluster_size);
  args->by_ring = Divisor(std::max(args->ring_pages, 1));
  args->by_stride = Divisor(slice_stride(static_cast<int>(params.v_size), plan.cluster_size));
  args->scale_log2 = static_cast<float>(params.scale * kLog2E);
  args->counters = reinterpret_cast<std::uint32_t*>(bytes);
  args->partial_stats = reinterpret_cast<float2*>(bytes + layout.stats_offset);
  args->partial_out = reinterpret_cast<float*>(bytes + layout.out_offset);
  return true;
}

cudaError_t launch_decode(const DecodeKernel& kernel, DecodeArgs& args, std::int64_t num_blocks,
                          int cluster_size, cudaStream_t stream) {
  cudaLaunchAttribute attributes[2] = {};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(cluster_size), 1, 1};
  // Start while the previous kernel drains; the kernel itself waits for its results.
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(num_blocks));
  config.blockDim = dim3(kernel.num_threads);
  config.dynamicSmemBytes = kernel.shared_bytes;
  config.stream = stream;
  config.attrs = attributes;
  config.numAttrs = 2;
  void* arguments[] = {&args};
  return cudaLaunchKernelExC(&config, kernel.function, arguments);
}

// ---- checks, each with what it got and what to do ----

Status check_decode_counts(const DecodeParams& params) {
  if (params.num_sequences < 0 || params.num_heads < 1 || params.num_key_heads < 1 ||
      params.num_heads % params.num_key_heads != 0) {
    return failure(kBad,
                   "cuda decode: num_key_heads must divide num_heads, got %lld sequences, %lld "
                   "heads, %lld key heads",
                   number(params.num_sequences), number(params.num_heads),
                   number(params.num_key_heads));
  }
  if (params.q_len < 1 || params.q_len > 8) {
    return failure(kUnsupported,
                   "cuda decode: q_len must be 1..8, got %lld; use the prefill kernels",
                   number(params.q_len));
  }
  const BlockPattern& pattern = params.pattern;
  if (pattern.block_size < 1 || pattern.sink_blocks < 0 || pattern.recent_blocks < 1) {
    return failure(kBad, "cuda decode: not a pattern: block_size %lld, sink %lld, recent %lld",
                   number(pattern.block_size), number(pattern.sink_blocks),
                   number(pattern.recent_blocks));
  }
  if (pattern.block_size % kPageLen != 0) {
    return failure(kUnsupported,
                   "cuda decode: block_size must be a multiple of %d, got %lld; use the torch path",
                   kPageLen, number(pattern.block_size));
  }
  return {};
}

Status check_features(const DecodeParams& params) {
  const PagedKvView& kv = params.kv;
  if (kv.dtype != DType::kBF16 && kv.dtype != DType::kF16) {
    return failure(kUnsupported, "cuda decode: dtype must be bf16 or fp16, got %s",
                   dtype_name(kv.dtype));
  }
  if (!known_sizes(params)) {
    return failure(kUnsupported,
                   "cuda decode: D/V must be 576/512, 128/128 or 64/64, got %lld/%lld; use the "
                   "torch path",
                   number(params.qk_size), number(params.v_size));
  }
  if (value_in_key(params) && (kv.v_offset != 0 || params.num_key_heads != 1)) {
    return failure(kUnsupported,
                   "cuda decode: 576/512 takes one key head whose first 512 elements are the "
                   "value, got %lld key heads, v_offset %lld",
                   number(params.num_key_heads), number(kv.v_offset));
  }
  if (kv.page_len != kPageLen) {
    return failure(kUnsupported, "cuda decode: page_len must be %d, got %lld", kPageLen,
                   number(kv.page_len));
  }
  return {};
}

Status check_decode_memory(const DecodeParams& params) {
  const PagedKvView& kv = params.kv;
  const struct {
    const char* name;
    const void* pointer;
    bool may_be_unaligned, may_be_null;
  } pointers[] = {{"q", params.q.data, false, false},
                  {"sink_q", params.sink_q.data, false, true},
                  {"out", params.out.data, false, false},
                  {"kv.pages", kv.pages, false, false},
                  {"kv.page_table", kv.page_table, true, false},
                  {"kv.lengths", kv.lengths, true, false}};
  for (const auto& [name, pointer, may_be_unaligned, may_be_null] : pointers) {
    if (pointer == nullptr && !may_be_null) return failure(kBad, "cuda decode: %s is null", name);
    if (!may_be_unaligned && !is_aligned(pointer)) {
      return failure(kUnsupported, "cuda decode: %s must lie at a multiple of 16 bytes", name);
    }
  }
  const struct {
    const char* name;
    std::int64_t stride;
  } strides[] = {{"q.token_stride", params.q.token_stride},
                 {"q.head_stride", params.q.head_stride},
                 {"sink_q.token_stride", params.sink_q.token_stride},
                 {"sink_q.head_stride", params.sink_q.head_stride},
                 {"out.token_stride", params.out.token_stride},
                 {"out.head_stride", params.out.head_stride},
                 {"kv.row_stride", kv.row_stride},
                 {"kv.page_stride", kv.page_stride},
                 {"kv.k_head_stride", kv.k_head_stride},
                 {"kv.v_head_stride", kv.v_head_stride},
                 {"kv.v_offset", kv.v_offset}};
  for (const auto& [name, stride] : strides) {
    if (stride < 0 || stride % 8 != 0) {
      return failure(kUnsupported,
                     "cuda decode: %s must be a multiple of 8 elements (16 bytes), got %lld", name,
                     number(stride));
    }
  }
  return {};
}

Status check_plan(const DecodePlan& plan, const DecodeKernel& kernel) {
  if (plan.num_clusters < 1 || plan.num_clusters > kMostClusters ||
      !merges(kernel, plan.cluster_size)) {
    return failure(kBad,
                   "cuda decode: a plan has 1..%d clusters of 1..%d blocks, with more than %d "
                   "query rows of 1..5 or 8; got %d of %d; use plan_decode",
                   kMostClusters, kMostBlocks, kMostSwapRows, plan.num_clusters, plan.cluster_size);
  }
  return {};
}

}  // namespace

Status check_sizes(const DecodeParams& params) {
  const Status status = check_decode_counts(params);
  return status.ok() ? check_features(params) : status;
}

Status check(const DecodeParams& params) {
  const Status status = check_sizes(params);
  return status.ok() ? check_decode_memory(params) : status;
}

bool merges_cluster(const DecodeParams& params, int cluster_size) {
  return merges(choose_decode_kernel(params), cluster_size);
}

DecodePlan plan_decode(const DecodeParams& params, std::int64_t max_length) {
  const DecodeKernel kernel = choose_decode_kernel(params);
  if (allow_shared_memory_and_clusters(kernel) != cudaSuccess) {
    cudaGetLastError();
    return {};
  }
  const std::int64_t items = std::max<std::int64_t>(1, num_items(params));
  const std::int64_t max_pages = max_visible_pages(params, max_length);
  const double page_bytes = static_cast<double>(
      kPageLen * 2 * (params.qk_size + (value_in_key(params) ? 0 : params.v_size)));
  DecodePlan best;
  double best_us = 1e300;
  for (int cluster_size = 1; cluster_size <= kMostBlocks && cluster_size <= max_pages;
       ++cluster_size) {
    if ((kernel.planned_clusters >> cluster_size & 1) == 0) continue;
    const int max_clusters = max_active_clusters(kernel, cluster_size);
    if (max_clusters == 0) continue;
    const std::int64_t most = std::min<std::int64_t>(
        std::max<std::int64_t>(1, max_clusters / items),
        std::min<std::int64_t>(kMostClusters, (max_pages + cluster_size - 1) / cluster_size));
    for (int num_clusters = 1; num_clusters <= most; ++num_clusters) {
      const DecodePlan plan = {cluster_size, num_clusters};
      const PlanCosts costs = kernel.num_rows > kMostSwapRows ? rows_costs(plan) : swap_costs(plan);
      const double us = estimate_us(costs, items, max_pages, page_bytes, max_clusters, plan);
      if (us < best_us) {
        best = plan;
        best_us = us;
      }
    }
  }
  return best;
}

std::size_t decode_workspace_bytes(const DecodeParams& params, const DecodePlan& plan) {
  return static_cast<std::size_t>(layout_workspace(params, plan).bytes);
}

Status decode(const DecodeParams& params, const DecodePlan& plan, void* workspace,
              std::size_t workspace_bytes, cudaStream_t stream, Inputs inputs) {
  Status status = check(params);
  if (status.ok()) status = check_plan(plan, choose_decode_kernel(params));
  if (!status.ok()) return status;
  if (params.num_sequences == 0) return {};
  const std::size_t needed = decode_workspace_bytes(params, plan);
  if (workspace_bytes < needed || (needed > 0 && workspace == nullptr)) {
    return failure(StatusCode::kWorkspaceTooSmall,
                   "cuda decode: the plan needs %zu bytes of workspace, got %zu", needed,
                   workspace_bytes);
  }
  if (needed > 0 && reinterpret_cast<std::uintptr_t>(workspace) % kAlign != 0) {
    return failure(kBad, "cuda decode: the workspace must lie at a multiple of 256 bytes");
  }
  const std::int64_t num_blocks = num_items(params) * plan.cluster_size * plan.num_clusters;
  if (num_blocks > 0x7FFFFFFF) {
    return failure(kUnsupported, "cuda decode: %lld thread blocks are too many; split the batch",
                   number(num_blocks));
  }
  const DecodeKernel kernel = choose_decode_kernel(params);
  DecodeArgs args = {};
  if (!fill_decode_args(params, plan, kernel, workspace, &args)) {
    return failure(StatusCode::kCudaError,
                   "cuda decode: the driver made no tensor map of the pages; is there a driver?");
  }
  args.stable_prefix = inputs == Inputs::kStablePrefix;
  cudaError_t error = allow_shared_memory_and_clusters(kernel);
  if (error == cudaSuccess)
    error = launch_decode(kernel, args, num_blocks, plan.cluster_size, stream);
  if (error != cudaSuccess) {
    return failure(StatusCode::kCudaError, "cuda decode: %s: %s", cudaGetErrorName(error),
                   cudaGetErrorString(error));
  }
  return {};
}

}  // namespace loza::attention::cuda
