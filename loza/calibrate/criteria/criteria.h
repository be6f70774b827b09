#pragma once

#include "loza/calibrate/calibrate.h"

// The criteria's `run` functions, one file each; calibrate.cpp lists them. They fill alpha and,
// where there are steps, losses; the caller fills the rest of SeedCalibration.
namespace loza::criterion {

// Learns the gates by gradient descent on what the mixed model loses.
SeedCalibration run_alpha(const Transformer& model, const DrawDocument& draw,
                          const CalibrateOptions& options, std::uint64_t seed, Group& group);

// Forward passes only. What opening one module alone gains in a streaming model
// (arXiv 2606.27791), in nats an answer token.
SeedCalibration run_nll(const Transformer& model, const DrawDocument& draw,
                        const CalibrateOptions& options, std::uint64_t seed, Group& group);
// What closing one module alone loses in a full model.
SeedCalibration run_nll_mirror(const Transformer& model, const DrawDocument& draw,
                               const CalibrateOptions& options, std::uint64_t seed, Group& group);

// Choices without looking, as baselines.
SeedCalibration run_interleaved(const Transformer& model, const DrawDocument& draw,
                                const CalibrateOptions& options, std::uint64_t seed, Group& group);
SeedCalibration run_interleaved_odd(const Transformer& model, const DrawDocument& draw,
                                    const CalibrateOptions& options, std::uint64_t seed,
                                    Group& group);
SeedCalibration run_random(const Transformer& model, const DrawDocument& draw,
                           const CalibrateOptions& options, std::uint64_t seed, Group& group);
SeedCalibration run_first(const Transformer& model, const DrawDocument& draw,
                          const CalibrateOptions& options, std::uint64_t seed, Group& group);
SeedCalibration run_last(const Transformer& model, const DrawDocument& draw,
                         const CalibrateOptions& options, std::uint64_t seed, Group& group);

}  // namespace loza::criterion
