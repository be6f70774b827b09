#include "loza/calibrate/gates_file.h"

#include <fmt/format.h>

#include <cmath>

#include "loza/base/error.h"
#include "loza/base/file.h"

namespace loza {
namespace {

constexpr std::uint64_t kMaxFileBytes = std::uint64_t{64} << 20;
constexpr std::size_t kMaxModules = 1'000'000;

void check_count(std::size_t count, const std::string& place,
                 std::optional<std::int64_t> num_modules) {
  const auto wanted = static_cast<std::size_t>(num_modules.value_or(0));
  if (num_modules ? count == wanted : count >= 1 && count <= kMaxModules) return;
  throw_bad_input(place,
                  num_modules ? fmt::format("{} numbers, one an attention module", wanted)
                              : fmt::format("1 to {} numbers", kMaxModules),
                  fmt::format("{}", count), "use gates made for this model");
}

std::vector<double> read_alpha(const Json& value, const std::string& place,
                               std::optional<std::int64_t> num_modules) {
  if (!value.is_array()) throw_bad_input(place, "an array of numbers", describe_json(value));
  check_count(value.size(), place, num_modules);
  std::vector<double> alpha;
  for (const Json& item : value) {
    if (!item.is_number() || !std::isfinite(item.get<double>())) {
      throw_bad_input(fmt::format("{}[{}]", place, alpha.size()), "a finite number",
                      describe_json(item));
    }
    alpha.push_back(item.get<double>());
  }
  return alpha;
}

}  // namespace

GatesFile parse_gates(std::string_view json, const std::string& place,
                      std::optional<std::int64_t> num_modules) {
  GatesFile gates;
  gates.members = parse_json(json, place);
  if (!gates.members.is_object() || !gates.members.contains("alpha")) {
    throw_bad_input(place, R"(an object with "alpha")", describe_json(gates.members),
                    "loza calibrate MODEL --out FILE writes one");
  }
  gates.alpha = read_alpha(gates.members["alpha"], place + ": alpha", num_modules);
  if (gates.members.contains("criterion")) {
    const Json& criterion = gates.members["criterion"];
    if (!criterion.is_string()) {
      throw_bad_input(place + ": criterion", "a string", describe_json(criterion));
    }
    gates.criterion = criterion.get<std::string>();
  }
  return gates;
}

GatesFile read_gates(const std::filesystem::path& path, std::optional<std::int64_t> num_modules) {
  return parse_gates(read_file(path, kMaxFileBytes), path.string(), num_modules);
}

void write_gates(const std::filesystem::path& path, const Calibration& calibration) {
  write_file_atomic(path, gates_json(calibration).dump(1) + "\n");
}

}  // namespace loza
