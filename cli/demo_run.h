#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/model_options.h"
#include "loza/evaluate/demo_report.h"

namespace loza::cli {

// So many documents, each of so many tokens.
struct DocumentsOf {
  std::int64_t length = 0, num_documents = 0;
};

// How much of everything the demo does.
struct DemoScale {
  std::int64_t num_seeds = 2, num_steps = 16;  // of alpha
  std::int64_t num_nll_documents = 2;          // 0: nll is left out
  std::int64_t num_random_plans = 3;
  std::vector<std::string> answer_tasks = {"niah", "noise"};
  std::vector<DocumentsOf> answers;  // of each task
  std::vector<DocumentsOf> texts;
  std::int64_t num_questions = 24;  // of a document
  std::vector<std::int64_t> speed_lengths;
  std::int64_t num_recovery_steps = 0;  // of training after conversion; of small models alone
  double max_seconds = 0;               // 0: no limit. What is left out then is said

  static DemoScale fast();
  static DemoScale usual();
  static DemoScale full();
};

struct DemoOptions {
  std::filesystem::path gguf, model;  // one of them
  std::filesystem::path out = "demo";
  std::filesystem::path prose = ".cache/text/prose.txt", code = ".cache/text/code.txt";
  ModelOptions placement;  // weights' dtype and device
  double sparsity = 0.5;
  DemoScale scale = DemoScale::usual();
};

// The whole path on one model: import, calibrate, compare, convert, recover (small models), answer,
// time. Everything that it writes is under options.out: model-dense (of a GGUF file), model-zigzag,
// model-recovered, gates.json.
// The same options give the same report, but for times and what a time limit left out.
DemoReport run_demo(const DemoOptions& options);

}  // namespace loza::cli
