#include "bench/attention_cpu/machine_rates.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <vector>

#include "loza/attention/cpu/instruction_set.h"
#include "loza/base/parallel_for.h"

#ifdef __x86_64__
#include <immintrin.h>
#endif

namespace loza::bench {
namespace {

double best_seconds_of(const std::function<void()>& body) {
  double best = 1e30;
  for (int i = 0; i < 5; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    body();
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best;
}

// Loops of multiply-adds on registers that do not wait for each other; they return the operations
// that they did.
constexpr int kChains = 16;
constexpr int kLoops = 4'000'000;

#ifdef __x86_64__
__attribute__((target("avx512f,avx512bf16"))) double loop_avx512_bf16(float* sink) {
  __m512 sums[kChains];
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) sums[j] = _mm512_set1_ps(static_cast<float>(j));
  const __m512bh one = (__m512bh)_mm512_set1_epi32(0x3f803f80);
  for (int i = 0; i < kLoops; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) {
      sums[j] = _mm512_dpbf16_ps(sums[j], one, one);
    }
  }
  for (const __m512 sum : sums) *sink += sum[0];
  return 64.0 * kChains * kLoops;
}
__attribute__((target("avx512f"))) double loop_avx512(float* sink) {
  __m512 sums[kChains];
#pragma GCC unroll 16
  for (int j = 0; j < kChains; ++j) sums[j] = _mm512_set1_ps(static_cast<float>(j));
  const __m512 one = _mm512_set1_ps(1);
  for (int i = 0; i < kLoops; ++i) {
#pragma GCC unroll 16
    for (int j = 0; j < kChains; ++j) {
      sums[j] = _mm512_fmadd_ps(one, one, sums[j]);
    }
  }
  for (const __m512 sum : sums) *sink += sum[0];
  return 32.0 * kChains * kLoops;
}
__attribute__((target("avx2,fma"))) double loop_avx2(float* sink) {
  constexpr int kFewer = 12;
  __m256 sums[kFewer];
#pragma GCC unroll 12
  for (int j = 0; j < kFewer; ++j) sums[j] = _mm256_set1_ps(static_cast<float>(j));
  const __m256 one = _mm256_set1_ps(1);
  for (int i = 0; i < kLoops; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < kFewer; ++j) {
      sums[j] = _mm256_fmadd_ps(one, one, sums[j]);
    }
  }
  for (const __m256 sum : sums) *sink += sum[0];
  return 16.0 * kFewer * kLoops;
}
#endif

typedef float Quad __attribute__((vector_size(16)));

double loop_portable(float* sink) {
  constexpr int kFewer = 8;
  Quad sums[kFewer];
#pragma GCC unroll 8
  for (int j = 0; j < kFewer; ++j) sums[j] = Quad{1, 1, 1, static_cast<float>(j)};
  const Quad one{1, 1, 1, 1};
  for (int i = 0; i < kLoops; ++i) {
#pragma GCC unroll 8
    for (int j = 0; j < kFewer; ++j) sums[j] = one * one + sums[j];
  }
  for (const Quad sum : sums) *sink += sum[0];
  return 8.0 * kFewer * kLoops;
}

using Loop = double (*)(float*);

Loop loop_of(cpu::InstructionSet set, bool is_bf16) {
  switch (set) {
#ifdef __x86_64__
    case cpu::InstructionSet::kAvx512Bf16:
      return is_bf16 ? loop_avx512_bf16 : loop_avx512;
    case cpu::InstructionSet::kAvx512:
      return loop_avx512;
    case cpu::InstructionSet::kAvx2:
      return loop_avx2;
#endif
    default:
      return loop_portable;
  }
}

double fma_flops(bool is_bf16) {
  const Loop loop = loop_of(cpu::instruction_set(), is_bf16);
  const int threads = num_threads();
  std::vector<double> flops(static_cast<std::size_t>(threads));
  const double seconds = best_seconds_of([&] {
    parallel_for(threads, [&](std::int64_t i) {
      volatile float kept = 0;
      float sink = 0;
      flops[static_cast<std::size_t>(i)] = loop(&sink);
      kept = sink;
      (void)kept;
    });
  });
  double sum = 0;
  for (const double of_thread : flops) sum += of_thread;
  return sum / seconds;
}

// Q K^T and P V without the softmax, all pairs, a head at a time, as rows of 512 and of 4,096
// queries: the better of the two.
double matmul_flops(at::ScalarType dtype) {
  constexpr std::int64_t kLen = 4096, kQkSize = 192, kVSize = 128;
  const at::Tensor q = at::randn({kLen, kQkSize}).to(dtype),
                   k = at::randn({kLen, kQkSize}).to(dtype), p = at::rand({kLen, kLen}).to(dtype),
                   v = at::randn({kLen, kVSize}).to(dtype);
  double best = 0;
  for (const std::int64_t rows : {std::int64_t{512}, kLen}) {
    at::Tensor scores = at::empty({rows, kLen}, dtype), out = at::empty({rows, kVSize}, dtype);
    const auto both = [&] {
      for (std::int64_t row = 0; row < kLen; row += rows) {
        at::mm_out(scores, q.narrow(0, row, rows), k.t());
        at::mm_out(out, p.narrow(0, row, rows), v);
      }
    };
    both();
    const double flops = 2.0 * kLen * kLen * (kQkSize + kVSize);
    best = std::max(best, flops / best_seconds_of(both));
  }
  return best;
}

double read_bytes() {
  constexpr std::int64_t kSize = std::int64_t{512} << 20, kPiece = std::int64_t{1} << 20;
  constexpr std::int64_t kQuads = static_cast<std::int64_t>(sizeof(Quad));
  const std::vector<Quad> memory(kSize / kQuads, Quad{1, 1, 1, 1});
  std::vector<float> sums(kSize / kPiece);
  const double seconds = best_seconds_of([&] {
    parallel_for(kSize / kPiece, [&](std::int64_t i) {
      const Quad* piece = memory.data() + i * kPiece / kQuads;
      Quad sum[4] = {};
      for (std::int64_t j = 0; j < kPiece / kQuads; j += 4) {
        for (int lane = 0; lane < 4; ++lane) sum[lane] += piece[j + lane];
      }
      sums[static_cast<std::size_t>(i)] = sum[0][0] + sum[1][1] + sum[2][2] + sum[3][3];
    });
  });
  return static_cast<double>(kSize) / seconds;
}

}  // namespace

MachineRates measure_rates() {
  MachineRates rates;
  rates.bf16 = {fma_flops(true), matmul_flops(at::kBFloat16)};
  rates.fp32 = {fma_flops(false), matmul_flops(at::kFloat)};
  rates.read_bytes = read_bytes();
  return rates;
}

}  // namespace loza::bench
