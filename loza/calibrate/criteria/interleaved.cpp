// interleaved: full and streaming modules alternate; at other sparsities than a half they are
// spread as evenly. `interleaved` leaves modules 1, 3, 5, ... full, `interleaved-odd` the others.
#include "loza/calibrate/criteria/criteria.h"

namespace loza::criterion {
namespace {

// Van der Corput's sequence: the bits of i mirrored at the binary point. Its largest values, as
// many as one likes, lie evenly spread over i.
double mirrored_bits(std::int64_t i) {
  double value = 0;
  for (double place = 0.5; i > 0; i /= 2, place /= 2) value += place * static_cast<double>(i % 2);
  return value;
}

SeedCalibration interleave(std::int64_t num_modules, std::int64_t phase) {
  SeedCalibration result;
  for (std::int64_t i = 0; i < num_modules; ++i) result.alpha.push_back(mirrored_bits(i + phase));
  return result;
}

}  // namespace

SeedCalibration run_interleaved(const Transformer& model, const DrawDocument&,
                                const CalibrateOptions&, std::uint64_t, Group&) {
  return interleave(model.config().num_modules(), 0);
}

SeedCalibration run_interleaved_odd(const Transformer& model, const DrawDocument&,
                                    const CalibrateOptions&, std::uint64_t, Group&) {
  return interleave(model.config().num_modules(), 1);
}

}  // namespace loza::criterion
