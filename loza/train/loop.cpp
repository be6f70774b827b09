#include "loza/train/loop.h"

#include <ATen/ops/isfinite.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <ATen/ops/zeros_like.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <cmath>
#include <map>
#include <numeric>
#include <optional>
#include <string>
#include <utility>

#include "loza/base/check.h"
#include "loza/base/error.h"
#include "loza/base/hash.h"
#include "loza/base/progress.h"
#include "loza/train/snapshot.h"

namespace loza {
namespace {

constexpr const char* kParameter = "parameter.";
constexpr const char* kOptimizer = "optimizer.";

// The first parameter whose gradient is not finite, for the diagnosis.
std::string first_bad_gradient(const NamedTensors& parameters) {
  for (const auto& [name, tensor] : parameters) {
    if (!tensor.grad().defined()) continue;
    const auto num_bad =
        tensor.grad().numel() - at::isfinite(tensor.grad()).sum().item<std::int64_t>();
    if (num_bad > 0) return fmt::format("{} of {} elements of '{}'", num_bad, tensor.numel(), name);
  }
  return "none, but their norm overflows";
}

// Where the pass that begins at `begin` ends.
std::size_t end_of_pass(std::span<const TokenizedDocument> documents, std::size_t begin,
                        std::int64_t max_tokens) {
  std::int64_t num_tokens = documents[begin].length();
  std::size_t end = begin + 1;
  while (end < documents.size() && num_tokens + documents[end].length() <= max_tokens) {
    num_tokens += documents[end++].length();
  }
  return end;
}

std::int64_t read_count(const Json& state, const char* name, const std::string& place) {
  if (!state.is_object() || !state.contains(name) || !state[name].is_number_integer() ||
      state[name] < 0) {
    throw_bad_input(place, fmt::format("a count '{}'", name), "none");
  }
  return state[name].get<std::int64_t>();
}

// What a resumed run must share with the saved one.
Json fingerprint(const TrainOptions& options) {
  const Schedule& schedule = options.schedule;
  const OptimizerOptions& optimizer = options.optimizer;
  return {{"seed", options.seed},
          {"data", options.data_name},
          {"documents_per_step", options.documents_per_step},
          {"tokens_per_pass", options.tokens_per_pass},
          {"clip_norm", options.clip_norm},
          {"optimizer", {optimizer.beta1, optimizer.beta2, optimizer.eps, optimizer.weight_decay}},
          {"schedule",
           {schedule.peak, schedule.num_steps, schedule.warmup_steps,
            static_cast<int>(schedule.decay), schedule.decay_steps, schedule.final_ratio}}};
}

void load_parameters(const std::map<std::string, at::Tensor>& saved, const NamedTensors& parameters,
                     const std::string& place) {
  if (saved.size() != parameters.size()) {
    throw_bad_input(place, fmt::format("{} parameters", parameters.size()),
                    fmt::format("{}", saved.size()));
  }
  for (const auto& [name, tensor] : parameters) {
    const auto found = saved.find(name);
    if (found == saved.end() || found->second.sizes() != tensor.sizes() ||
        found->second.scalar_type() != tensor.scalar_type()) {
      throw_bad_input(place, fmt::format("the parameter '{}' of this run's shape and type", name),
                      found == saved.end() ? "none" : "another shape or type");
    }
  }
  const at::NoGradGuard no_grad;
  for (const auto& [name, tensor] : parameters) at::Tensor(tensor).copy_(saved.at(name));
}

// A number that other texts have not: the first 52 bits of its SHA-256, which a double holds.
double number_of(const std::string& text) {
  return static_cast<double>(std::stoull(sha256_hex(text).substr(0, 13), nullptr, 16));
}

double norm_of(const NamedTensors& tensors) {
  double sum = 0;
  for (const auto& [name, tensor] : tensors) {
    sum += tensor.detach().to(at::kDouble).square().sum().item<double>();
  }
  return std::sqrt(sum);
}

// `tolerance` is relative: processors of two kinds add in different orders.
void require_equal(Group& group, const char* what, double value, double tolerance,
                   const char* remedy) {
  const std::vector<double> values = group.gather(value);
  for (std::size_t rank = 1; rank < values.size(); ++rank) {
    if (std::abs(values[rank] - values[0]) <= tolerance * std::abs(values[0])) continue;
    throw Error(ExitCode::kFailed,
                {fmt::format("rank {}", rank), fmt::format("rank 0's {} ({})", what, values[0]),
                 fmt::format("{}", values[rank]), remedy});
  }
}

// Gradients over all ranks' documents. A parameter that the documents of a rank did not reach
// counts as 0 there, and stays without a gradient where no rank's did.
void sum_grads(const NamedTensors& parameters, Group& group) {
  if (group.size() == 1) return;
  const at::Tensor reached = at::zeros({static_cast<std::int64_t>(parameters.size())}, at::kDouble);
  double* const is_reached = reached.data_ptr<double>();
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    is_reached[i] = parameters[i].second.grad().defined() ? 1 : 0;
  }
  group.sum({reached});
  std::vector<at::Tensor> grads;
  for (std::size_t i = 0; i < parameters.size(); ++i) {
    if (is_reached[i] == 0) continue;
    at::Tensor& grad = parameters[i].second.mutable_grad();
    if (!grad.defined()) grad = at::zeros_like(parameters[i].second.detach());
    grads.push_back(grad);
  }
  group.sum(grads);
}

}  // namespace

Trainer::Trainer(NamedTensors parameters, TrainOptions options, DrawDocument draw, LossFn loss,
                 NamedTensors masters, Group& group)
    : options_(std::move(options)),
      draw_(std::move(draw)),
      loss_(std::move(loss)),
      optimizer_(std::move(parameters), options_.optimizer, std::move(masters)),
      group_(&group) {
  LOZA_CHECK(options_.documents_per_step >= 1, options_.documents_per_step);
  LOZA_CHECK(options_.max_bad_steps >= 1, options_.max_bad_steps);
}

StepReport Trainer::step() {
  LOZA_CHECK(!done(), step_);
  require_agreement();
  StepReport report;
  report.step = step_;
  report.lr = options_.schedule.at(step_);
  accumulate(report);
  report.skipped = !std::isfinite(report.loss) || !std::isfinite(report.grad_norm);
  if (report.skipped) {
    note_bad_step(report);
  } else {
    bad_in_a_row_ = 0;
    if (options_.clip_norm > 0 && report.grad_norm > options_.clip_norm) {
      optimizer_.scale_grads(options_.clip_norm / report.grad_norm);
    }
    optimizer_.step(report.lr);
  }
  ++step_;
  return report;
}

// What the ranks must have in common, found before it spoils a run.
void Trainer::require_agreement() {
  if (agreed_) return;
  require_equal(*group_, "step", static_cast<double>(step_), 0,
                "let every rank see the run's folder");
  require_equal(*group_, "run's options and data", number_of(fingerprint(options_).dump()), 0,
                "start every rank with the same options");
  require_equal(*group_, "norm of the parameters", norm_of(optimizer_.masters()), 1e-6,
                "give every rank the same model");
  agreed_ = true;
}

// Every rank draws all documents: they cost little beside a pass, and what is wrong with one is
// then an error of every rank.
Trainer::StepDocuments Trainer::draw_documents() const {
  StepDocuments documents;
  const std::int64_t count = options_.documents_per_step;
  for (std::int64_t i = 0; i < count; ++i) {
    TokenizedDocument document = draw_(options_.seed, step_ * count + i);
    documents.kinds.push_back(document.kind);
    documents.num_tokens += document.length();
    if (i % group_->size() == group_->rank()) documents.of_rank.push_back(std::move(document));
  }
  return documents;
}

std::vector<double> Trainer::run_documents(const std::vector<TokenizedDocument>& of_rank) {
  const std::int64_t num_documents = options_.documents_per_step;
  // Each rank fills in its own; adding zeros leaves them as they are.
  const at::Tensor all_losses = at::zeros({num_documents}, at::kDouble);
  std::int64_t document_idx = group_->rank();
  for (std::size_t begin = 0; begin < of_rank.size();) {
    const std::size_t end = end_of_pass(of_rank, begin, options_.tokens_per_pass);
    const auto pass = std::span(of_rank).subspan(begin, end - begin);
    const at::Tensor losses = loss_(pass);
    LOZA_CHECK(losses.numel() == static_cast<std::int64_t>(pass.size()), losses.numel());
    (losses.sum() / static_cast<double>(num_documents)).backward();
    optimizer_.collect_grads();
    const at::Tensor values = losses.detach().to(at::kCPU, at::kDouble).flatten().contiguous();
    for (std::size_t i = 0; i < pass.size(); ++i, document_idx += group_->size()) {
      all_losses.data_ptr<double>()[document_idx] = values.const_data_ptr<double>()[i];
    }
    group_->check();
    begin = end;
  }
  group_->sum({all_losses});
  const double* const values = all_losses.const_data_ptr<double>();
  return {values, values + num_documents};
}

void Trainer::accumulate(StepReport& report) {
  optimizer_.zero_grad();
  const StepDocuments documents = draw_documents();
  report.num_tokens = documents.num_tokens;
  const std::vector<double> losses = run_documents(documents.of_rank);
  sum_grads(optimizer_.masters(), *group_);
  std::map<std::string, std::vector<double>> by_kind;
  for (std::size_t i = 0; i < losses.size(); ++i) by_kind[documents.kinds[i]].push_back(losses[i]);
  for (const auto& [kind, of_kind] : by_kind) {
    const double sum = std::accumulate(of_kind.begin(), of_kind.end(), 0.0);
    report.loss += sum / static_cast<double>(losses.size());
    report.loss_by_kind[kind] = sum / static_cast<double>(of_kind.size());
  }
  report.grad_norm = optimizer_.grad_norm();
}

void Trainer::note_bad_step(const StepReport& report) {
  ++num_skipped_;
  ++bad_in_a_row_;
  const std::string seen = fmt::format(
      "loss {}, gradient norm {} (not finite: {}) at step {}, learning rate {:g}, {} "
      "tokens",
      report.loss, report.grad_norm, first_bad_gradient(optimizer_.masters()), report.step,
      report.lr, report.num_tokens);
  if (bad_in_a_row_ < options_.max_bad_steps) {
    spdlog::warn("training: step skipped: {}", seen);
    return;
  }
  throw Error(ExitCode::kFailed,
              {"training", "a finite loss and gradient",
               fmt::format("{} times in a row {}", bad_in_a_row_, seen),
               "lower the learning rate, use --dtype fp32, or look at the documents"});
}

void Trainer::run(const std::string& title,
                  const std::function<void(const StepReport&)>& after_step) {
  std::optional<Progress> progress;
  if (group_->is_first()) progress.emplace(title, num_steps() - step_);
  while (!done()) {
    const StepReport report = step();
    if (after_step) after_step(report);
    if (progress) progress->advance(1, fmt::format("loss {:.4g}", report.loss));
  }
}

void Trainer::save(const std::filesystem::path& run) const {
  if (!group_->is_first()) return;
  Snapshot snapshot;
  for (const auto& [name, tensor] : optimizer_.masters()) {
    snapshot.tensors.emplace_back(kParameter + name, tensor.detach().cpu().contiguous());
  }
  for (const auto& [name, tensor] : optimizer_.state()) {
    snapshot.tensors.emplace_back(kOptimizer + name, tensor.detach().cpu().contiguous());
  }
  snapshot.state = {{"step", step_},
                    {"num_skipped", num_skipped_},
                    {"bad_in_a_row", bad_in_a_row_},
                    {"run", fingerprint(options_)}};
  write_snapshot(snapshot_folder(run, step_), snapshot);
}

void Trainer::resume(const std::filesystem::path& folder) {
  const std::string place = folder.string();
  const Snapshot snapshot = read_snapshot(folder);
  const std::int64_t step = read_count(snapshot.state, "step", place);
  if (step > num_steps()) {
    throw_bad_input(place, fmt::format("at most {} steps", num_steps()), fmt::format("{}", step));
  }
  if (!snapshot.state.contains("run") || snapshot.state["run"] != fingerprint(options_)) {
    throw_bad_input(place, fmt::format("a run of {}", fingerprint(options_).dump()),
                    snapshot.state.value("run", Json()).dump(), "resume with the run's options");
  }
  std::map<std::string, at::Tensor> parameters;
  NamedTensors optimizer;
  for (const auto& [name, tensor] : snapshot.tensors) {
    if (name.starts_with(kParameter))
      parameters[name.substr(std::string(kParameter).size())] = tensor;
    if (name.starts_with(kOptimizer)) {
      optimizer.emplace_back(name.substr(std::string(kOptimizer).size()), tensor);
    }
  }
  load_parameters(parameters, optimizer_.masters(), place);
  optimizer_.round_to_parameters();
  optimizer_.load_state(optimizer, place);
  step_ = step;
  agreed_ = false;
  num_skipped_ = read_count(snapshot.state, "num_skipped", place);
  bad_in_a_row_ = read_count(snapshot.state, "bad_in_a_row", place);
}

Trainer::LossFn one_by_one(std::function<at::Tensor(const TokenizedDocument&)> loss) {
  return [loss = std::move(loss)](std::span<const TokenizedDocument> documents) {
    std::vector<at::Tensor> losses;
    for (const TokenizedDocument& document : documents) losses.push_back(loss(document));
    return at::stack(losses);
  };
}

}  // namespace loza
