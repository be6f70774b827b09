// random: any choice is as likely as any other.
#include "loza/base/random.h"

#include "loza/calibrate/criteria/criteria.h"

namespace loza::criterion {

SeedCalibration run_random(const Transformer& model, const DrawDocument&, const CalibrateOptions&,
                           std::uint64_t seed, Group&) {
  Random random(Random(seed).next());
  SeedCalibration result;
  for (std::int64_t i = 0; i < model.config().num_modules(); ++i) {
    result.alpha.push_back(random.uniform());
  }
  return result;
}

}  // namespace loza::criterion
