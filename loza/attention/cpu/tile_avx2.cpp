#ifdef __x86_64__

#include "loza/attention/cpu/tile/floats_avx2.h"

#include "loza/attention/cpu/tile/words_fp32.h"

#include "loza/attention/cpu/tile/backward_step.h"
#include "loza/attention/cpu/tile/decode_step.h"
#include "loza/attention/cpu/tile/forward_step.h"
#include "loza/attention/cpu/tile/pack.h"

namespace loza::cpu {

const TileKernels& avx2_tile_kernels() {
  static constexpr TileKernels kernels{
      kWordElements,       pack_rows,    pack_transposed, pack_panels_of_rows,
      pack_panels_of_size, forward_step, backward_step,   pack_decode_queries,
      decode_step,         store_row,    dot_rows};
  return kernels;
}

}  // namespace loza::cpu

#endif  // __x86_64__
