#pragma once

#include <cstdint>

#include "loza/attention/cuda/device/element.cuh"
#include "loza/attention/cuda/device/layout.cuh"

// Warpgroup matrix products: D [64, N] fp32 += A [64, 16] B [16, N]; B in shared memory, A there
// or in registers.
//
// The fragment of D: warp w of the warpgroup owns rows 16w..16w+15; lane l holds, for each
// group j of 8 columns, d[4j], d[4j+1] = row l/4, columns 8j + 2(l%4) + {0, 1}, and d[4j+2],
// d[4j+3] = the same columns of row l/4 + 8. The fragment of A in registers is that of a D of 16
// columns, neighbours packed in pairs: so what is computed from one D is A of the next product.
namespace loza::attention::cuda {

// Before the first product, and after any write to its accumulator.
__device__ __forceinline__ void wgmma_begin() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

// Waits for all products but the last kPending committed groups, after which `d`, theirs, may be
// read.
template <int kPending = 0, int kSize>
__device__ __forceinline__ void wgmma_finish(float (&d)[kSize]) {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#pragma unroll
  for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

// The same where nothing is read yet: what those groups read may be overwritten.
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

template <int kTiles, int kSize>
__device__ __forceinline__ void wgmma_finish(float (&d)[kTiles][kSize]) {
  asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
#pragma unroll
    for (int i = 0; i < kSize; ++i) asm volatile("" : "+f"(d[t][i])::"memory");
  }
}

enum class Operand { kRows, kColumns };  // contraction along the columns / along the rows

#define LOZA_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define LOZA_D8(i) LOZA_D4(i), LOZA_D4(i + 4)
#define LOZA_D16(i) LOZA_D8(i), LOZA_D8(i + 8)
#define LOZA_D64(i) LOZA_D16(i), LOZA_D16(i + 16), LOZA_D16(i + 32), LOZA_D16(i + 48)
#define LOZA_WGMMA(shape, type, registers, a_index, b_index, accumulate_index, columns_a_index,    \
                   columns_b_index, ...)                                                           \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" accumulate_index             \
               ", 0;\nwgmma.mma_async.sync.aligned." shape "k16.f32." type "." type " {" registers \
               "}, %" a_index ", %" b_index ", accumulate, 1, 1, %" columns_a_index                \
               ", %" columns_b_index ";\n}"                                                        \
               : __VA_ARGS__                                                                       \
               : "l"(a.bits()), "l"(b.bits()), "r"(static_cast<int>(accumulate)),                  \
                 "n"(kFormA == Operand::kColumns ? 1 : 0),                                         \
                 "n"(kFormB == Operand::kColumns ? 1 : 0))
#define LOZA_WGMMA_TYPED(shape, ...)             \
  if constexpr (std::is_same_v<Element, bf16>) { \
    LOZA_WGMMA(shape, "bf16", __VA_ARGS__);      \
  } else {                                       \
    LOZA_WGMMA(shape, "f16", __VA_ARGS__);       \
  }

// A in registers, b a column operand.
#define LOZA_WGMMA_FRAGMENT(shape, type, registers, a_indices, b_index, accumulate_index, ...)     \
  asm volatile("{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %" accumulate_index             \
               ", 0;\nwgmma.mma_async.sync.aligned." shape "k16.f32." type "." type " {" registers \
               "}, {" a_indices "}, %" b_index ", accumulate, 1, 1, 1;\n}"                         \
               : __VA_ARGS__                                                                       \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b.bits()),                        \
                 "r"(static_cast<int>(accumulate)))
#define LOZA_WGMMA_FRAGMENT_TYPED(shape, ...)        \
  if constexpr (std::is_same_v<Element, bf16>) {     \
    LOZA_WGMMA_FRAGMENT(shape, "bf16", __VA_ARGS__); \
  } else {                                           \
    LOZA_WGMMA_FRAGMENT(shape, "f16", __VA_ARGS__);  \
  }

#define LOZA_R8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define LOZA_R16 LOZA_R8 ", %8, %9, %10, %11, %12, %13, %14, %15"
#define LOZA_R32 \
  LOZA_R16       \
  ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define LOZA_R64                                                                                 \
  LOZA_R32                                                                                       \
  ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, " \
  "%50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define LOZA_R128                                                                        \
  LOZA_R64                                                                               \
  ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77"               \
  ", %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91"               \
  ", %92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105"         \
  ", %106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, %119" \
  ", %120, %121, %122, %123, %124, %125, %126, %127"

// d (+)= a b for N = 2 * kSize columns; b is a row operand [N][16] or a column operand [16][N].
template <typename Element, Operand kFormA, Operand kFormB = Operand::kRows, int kSize>
__device__ __forceinline__ void wgmma(float (&d)[kSize], Descriptor a, Descriptor b,
                                      bool accumulate) {
  constexpr int kColumns = 2 * kSize;
  static_assert(kColumns == 8 || kColumns == 16 || kColumns == 24 || kColumns == 32 ||
                    kColumns == 64 || kColumns == 128 || kColumns == 256,
                "these are the widths that the kernels use; add a line for another");
  if constexpr (kColumns == 8) {
    LOZA_WGMMA_TYPED("m64n8", "%0, %1, %2, %3", "4", "5", "6", "7", "8", LOZA_D4(0))
  } else if constexpr (kColumns == 16) {
    LOZA_WGMMA_TYPED("m64n16", LOZA_R8, "8", "9", "10", "11", "12", LOZA_D8(0))
  } else if constexpr (kColumns == 24) {
    LOZA_WGMMA_TYPED("m64n24", LOZA_R8 ", %8, %9, %10, %11", "12", "13", "14", "15", "16",
                     LOZA_D8(0), LOZA_D4(8))
  } else if constexpr (kColumns == 32) {
    LOZA_WGMMA_TYPED("m64n32", LOZA_R16, "16", "17", "18", "19", "20", LOZA_D16(0))
  } else if constexpr (kColumns == 64) {
    LOZA_WGMMA_TYPED("m64n64", LOZA_R32, "32", "33", "34", "35", "36", LOZA_D16(0), LOZA_D16(16))
  } else if constexpr (kColumns == 128) {
    LOZA_WGMMA_TYPED("m64n128", LOZA_R64, "64", "65", "66", "67", "68", LOZA_D64(0))
  } else {
    LOZA_WGMMA_TYPED("m64n256", LOZA_R128, "128", "129", "130", "131", "132", LOZA_D64(0),
                     LOZA_D64(64))
  }
}

// The same with A [64, 16] in registers and b a column operand [16][N].
template <typename Element, int kSize>
__device__ __forceinline__ void wgmma_of_fragment(float (&d)[kSize], const std::uint32_t (&a)[4],
                                                  Descriptor b, bool accumulate) {
  constexpr int kColumns = 2 * kSize;
  static_assert(kColumns == 64 || kColumns == 128 || kColumns == 256,
                "these are the widths that the kernels use; add a line for another");
  if constexpr (kColumns == 64) {
    LOZA_WGMMA_FRAGMENT_TYPED("m64n64", LOZA_R32, "%32, %33, %34, %35", "36", "37", LOZA_D16(0),
                              LOZA_D16(16))
  } else if constexpr (kColumns == 128) {
    LOZA_WGMMA_FRAGMENT_TYPED("m64n128", LOZA_R64, "%64, %65, %66, %67", "68", "69", LOZA_D64(0))
  } else {
    LOZA_WGMMA_FRAGMENT_TYPED("m64n256", LOZA_R128, "%128, %129, %130, %131", "132", "133",
                              LOZA_D64(0), LOZA_D64(64))
  }
}

#undef LOZA_R128
#undef LOZA_R64
#undef LOZA_R32
#undef LOZA_R16
#undef LOZA_R8
#undef LOZA_WGMMA_FRAGMENT_TYPED
#undef LOZA_WGMMA_FRAGMENT
#undef LOZA_WGMMA_TYPED
#undef LOZA_WGMMA
#undef LOZA_D64
#undef LOZA_D16
#undef LOZA_D8
#undef LOZA_D4

}  // namespace loza::attention::cuda
