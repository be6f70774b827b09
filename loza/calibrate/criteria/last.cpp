// last: the last modules become streaming.
#include <algorithm>

#include "loza/calibrate/criteria/criteria.h"

namespace loza::criterion {

SeedCalibration run_last(const Transformer& model, const DrawDocument&, const CalibrateOptions&,
                         std::uint64_t, Group&) {
  const std::int64_t num_modules = model.config().num_modules();
  const double last = static_cast<double>(std::max<std::int64_t>(num_modules - 1, 1));
  SeedCalibration result;
  for (std::int64_t i = 0; i < num_modules; ++i)
    result.alpha.push_back(static_cast<double>(num_modules - 1 - i) / last);
  return result;
}

}  // namespace loza::criterion
