#pragma once

#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "loza/base/json.h"
#include "loza/calibrate/calibrate.h"

namespace loza {

// Calibrated gates as a file to keep and to share. JSON; one member is enough:
//   {"alpha": [0.91, 0.02, ...]}            one finite number a module
// loza writes beside it how they were made: criterion, pattern, options, seeds, data_hash,
// weights_hash. Other members are kept and not interpreted.
struct GatesFile {
  std::vector<double> alpha;  // [modules]
  std::string criterion;      // empty when the file does not say
  Json members;               // the whole file
};

// num_modules: how many alphas the model needs; without it any number from 1 to 1,000,000.
// Throws Error(kBadInput).
GatesFile read_gates(const std::filesystem::path& path,
                     std::optional<std::int64_t> num_modules = {});
// The same of a text in memory. `place` begins error lines.
GatesFile parse_gates(std::string_view json, const std::string& place,
                      std::optional<std::int64_t> num_modules = {});

// Complete or absent. Throws Error(kFailed).
void write_gates(const std::filesystem::path& path, const Calibration& calibration);

}  // namespace loza
