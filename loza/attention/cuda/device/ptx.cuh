#pragma once

#include <cuda.h>

#include <cstdint>

// The Hopper instructions that the kernels use, one function each, named as what they do.
// Nothing here decides anything.
namespace loza::attention::cuda::ptx {

__device__ __forceinline__ std::uint32_t shared_address(const void* pointer) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- mbarriers ----

__device__ __forceinline__ void init_barrier(std::uint64_t* barrier, std::uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(arrivals));
}

// Makes initialised barriers visible to the copy engine and to the other blocks of a cluster.
__device__ __forceinline__ void fence_barrier_init() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

__device__ __forceinline__ void arrive(std::uint64_t* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier))
               : "memory");
}

// Arrives, and makes the phase wait for `bytes` more from the copy engine.
__device__ __forceinline__ void arrive_expecting(std::uint64_t* barrier, std::uint32_t bytes) {
  asm volatile(
      "mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
      "r"(bytes)
      : "memory");
}

__device__ __forceinline__ void wait(std::uint64_t* barrier, std::uint32_t parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again;\n"
      "}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

// ---- named barriers: `threads` of the block meet at `id` (1..15) ----
//
// The hardware counts warps, so a warp must arrive as one: lanes that left a loop earlier are
// gathered first. The same holds for the cluster's barrier.

__device__ __forceinline__ void sync(int id, int threads) {
  __syncwarp();
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

template <int kId, int kThreads>
__device__ __forceinline__ void sync() {
  __syncwarp();
  asm volatile("barrier.cta.sync.aligned %0, %1;" ::"n"(kId), "n"(kThreads) : "memory");
}

// The same, and says whether `vote` holds for any of them.
__device__ __forceinline__ bool sync_any(int id, int threads, bool vote) {
  std::uint32_t any;
  __syncwarp();
  asm volatile(
      "{\n"
      ".reg .pred mine, all;\n"
      "setp.ne.u32 mine, %3, 0;\n"
      "barrier.cta.red.or.aligned.pred all, %1, %2, mine;\n"
      "selp.u32 %0, 1, 0, all;\n"
      "}"
      : "=r"(any)
      : "r"(id), "r"(threads), "r"(static_cast<std::uint32_t>(vote))
      : "memory");
  return any != 0;
}

// Arrives without waiting for the others.
__device__ __forceinline__ void arrive_at(int id, int threads) {
  __syncwarp();
  asm volatile("barrier.cta.arrive.aligned %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

// ---- the copy engine ----

// Hint for data that is read once: leave the L2 to others.
inline constexpr std::uint64_t kEvictFirst = 0x12F0000000000000ull;
inline constexpr std::uint64_t kEvictNormal = 0x1000000000000000ull;

__device__ __forceinline__ void prefetch(const CUtensorMap* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Brings the 128 bytes around `address` into the L2.
__device__ __forceinline__ void prefetch_line(const void* address) {
  asm volatile("prefetch.global.L2 [%0];" ::"l"(address) : "memory");
}

// Copies one box at (c0, ..., c4), innermost coordinate first, and counts its bytes off `barrier`.
__device__ __forceinline__ void load_box(void* destination, const CUtensorMap* map,
                                         std::uint64_t* barrier, int c0, int c1, int c2, int c3,
                                         int c4, std::uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;" ::"r"(
          shared_address(destination)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(hint)
      : "memory");
}

// The same of a tensor of four dimensions.
__device__ __forceinline__ void load_box(void* destination, const CUtensorMap* map,
                                         std::uint64_t* barrier, int c0, int c1, int c2, int c3,
                                         std::uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes"
      ".L2::cache_hint [%0], [%1, {%3, %4, %5, %6}], [%2], %7;" ::"r"(shared_address(destination)),
      "l"(map), "r"(shared_address(barrier)), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(hint)
      : "memory");
}

// Brings a box into the L2.
__device__ __forceinline__ void prefetch_box(const CUtensorMap* map, int c0, int c1, int c2,
                                             int c3) {
  asm volatile("cp.async.bulk.prefetch.tensor.4d.L2.global [%0, {%1, %2, %3, %4}];" ::"l"(map),
               "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

// Orders this thread's ordinary writes to shared memory before later reads of it by the
// tensor cores and the copy engine. A barrier must follow for other threads' reads.
__device__ __forceinline__ void fence_async_proxy() {
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- clusters ----

__device__ __forceinline__ std::uint32_t cluster_rank() {
  std::uint32_t rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

__device__ __forceinline__ std::uint32_t cluster_size() {
  std::uint32_t size;
  asm("mov.u32 %0, %%cluster_nctarank;" : "=r"(size));
  return size;
}

// Which cluster of the grid this is.
__device__ __forceinline__ std::uint32_t cluster_index() {
  std::uint32_t index;
  asm("mov.u32 %0, %%clusterid.x;" : "=r"(index));
  return index;
}

// Orders nothing by itself: only reads that have finished may precede it.
__device__ __forceinline__ void cluster_arrive() {
  __syncwarp();
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() {
  __syncwarp();
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// The address of the same variable in the shared memory of block `rank` of the cluster.
__device__ __forceinline__ std::uint32_t peer_address(const void* pointer, std::uint32_t rank) {
  std::uint32_t peer;
  asm("mapa.shared::cluster.u32 %0, %1, %2;"
      : "=r"(peer)
      : "r"(shared_address(pointer)), "r"(rank));
  return peer;
}

// Stores into the shared memory of a block of the cluster and counts the bytes off its
// barrier. The data leave registers at once: the sender may go on, or end.
__device__ __forceinline__ void send(std::uint32_t peer, std::uint32_t peer_barrier,
                                     const float4& value) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1, %2, %3, %4}, "
      "[%5];" ::"r"(peer),
      "f"(value.x), "f"(value.y), "f"(value.z), "f"(value.w), "r"(peer_barrier)
      : "memory");
}

__device__ __forceinline__ void send(std::uint32_t peer, std::uint32_t peer_barrier,
                                     const float2& value) {
  asm volatile(
      "st.async.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1, %2}, [%3];" ::"r"(
          peer),
      "f"(value.x), "f"(value.y), "r"(peer_barrier)
      : "memory");
}

// Counts up, `last` being followed by 0, and returns the number before. Releases what this thread
// has seen written and acquires what earlier counters have.
__device__ __forceinline__ std::uint32_t count_up(std::uint32_t* counter, std::uint32_t last) {
  std::uint32_t before;
  asm volatile("atom.acq_rel.gpu.global.inc.u32 %0, [%1], %2;"
               : "=r"(before)
               : "l"(counter), "r"(last)
               : "memory");
  return before;
}

// ---- programmatic dependent launch ----

// Waits until the kernels before this one have finished and their writes are visible.
__device__ __forceinline__ void wait_for_previous_kernel() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
}

// Lets the next kernel's blocks start as soon as there is room; it waits as above.
__device__ __forceinline__ void allow_next_kernel() {
  asm volatile("griddepcontrol.launch_dependents;");
}

// ---- registers and arithmetic ----

// Computes `value` here, not where it is used.
__device__ __forceinline__ void compute_now(int& value) { asm volatile("" : "+r"(value)); }
__device__ __forceinline__ void compute_now(std::int64_t& value) { asm volatile("" : "+l"(value)); }

template <int kRegisters>
__device__ __forceinline__ void shrink_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

template <int kRegisters>
__device__ __forceinline__ void grow_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

__device__ __forceinline__ float exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float reciprocal(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Stores two 8x8 matrices of 16-bit elements, transposed. Lane l holds element
// (l/4, 2(l%4)) and its right neighbour of each; lanes 0..7 give the addresses of the first
// matrix's stored rows (16 bytes each), lanes 8..15 those of the second's.
__device__ __forceinline__ void store_matrices_transposed(std::uint32_t address,
                                                          std::uint32_t first,
                                                          std::uint32_t second) {
  asm volatile("stmatrix.sync.aligned.m8n8.x2.trans.shared::cta.b16 [%0], {%1, %2};" ::"r"(address),
               "r"(first), "r"(second)
               : "memory");
}

// Stores four 8x8 matrices as they are. Lane l holds elements (l/4, 2(l%4)) and its right
// neighbour of each; lanes 8i..8i+7 give the addresses of the rows of matrix i.
__device__ __forceinline__ void store_matrices(std::uint32_t address,
                                               const std::uint32_t (&matrices)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared::cta.b16 [%0], {%1, %2, %3, %4};" ::"r"(address),
      "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
      : "memory");
}

}  // namespace loza::attention::cuda::ptx
