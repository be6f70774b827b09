#include "cli/named_plans.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdint>
#include <vector>

#include "cli/pattern_options.h"
#include "loza/base/error.h"
#include "loza/calibrate/calibrate.h"
#include "loza/calibrate/gates_file.h"
#include "loza/calibrate/select.h"

namespace loza::cli {
namespace {

// "random:7" -> "random", 7.
struct SeededName {
  std::string name;
  std::uint64_t seed = 0;
};

SeededName split_seed(const std::string& text) {
  const std::size_t colon = text.find(':');
  if (colon == std::string::npos) return {text, 0};
  SeededName result{text.substr(0, colon), 0};
  const char* const end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data() + colon + 1, end, result.seed);
  if (error != std::errc() || rest != end) {
    throw_usage("--plans", "a number after the colon, as in random:1", fmt::format("'{}'", text));
  }
  return result;
}

std::string plan_names() {
  std::string names = "config, dense, streaming";
  for (const CriterionInfo& criterion : criteria()) {
    if (!criterion.needs_documents) names += fmt::format(", {}", criterion.name);
  }
  return names;
}

}  // namespace

void add_plan_options(CLI::App& command, std::vector<std::filesystem::path>& gates,
                      PlanOptions& options) {
  command.add_option("--gates", gates, "Gates files: a plan for each, named as the file")
      ->delimiter(',');
  command
      .add_option("--sparsity", options.sparsity,
                  "Share of the modules that stream, for --gates and --plans")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  add_pattern_options(command, options.pattern);
}

NamedPlan plan_by_name(const std::string& name, const Transformer& model,
                       const Checkpoint& checkpoint, const PlanOptions& options) {
  const std::int64_t num_modules = model.config().num_modules();
  if (name == "dense") return {name, AttentionPlan::dense(num_modules)};
  if (name == "config") {
    const std::string place = (checkpoint.folder() / "config.json").string();
    return {name, read_plan(checkpoint.config(), num_modules, place)};
  }
  if (name == "streaming") {
    const std::vector<bool> all(static_cast<std::size_t>(num_modules), true);
    return {name, AttentionPlan::from_choice(all, options.pattern, name)};
  }
  const SeededName seeded = split_seed(name);
  const CriterionInfo* criterion = find_criterion(seeded.name);
  if (criterion == nullptr || criterion->needs_documents) {
    throw_usage("--plans", fmt::format("some of {}", plan_names()), fmt::format("'{}'", name),
                "calibrate first and give the gates by --gates");
  }
  const std::vector<double> alpha =
      criterion->run(model, {}, {}, seeded.seed, Group::alone()).alpha;
  return {name, select_plan(alpha, options.sparsity, options.pattern, name)};
}

NamedPlan plan_from_gates(const std::filesystem::path& gates, const Transformer& model,
                          const PlanOptions& options) {
  const GatesFile file = read_gates(gates, model.config().num_modules());
  return {gates.stem().string(),
          select_plan(file.alpha, options.sparsity, options.pattern, gates.filename().string())};
}

}  // namespace loza::cli
