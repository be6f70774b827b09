#pragma once

namespace CLI {
class App;
}

// One function a subcommand: registers its options, its help with an example, and the
// callback that does the work. Each lives in the file of its name.
namespace loza::cli {

void add_bench(CLI::App& app);
void add_calibrate(CLI::App& app);
void add_convert(CLI::App& app);
void add_demo(CLI::App& app);
void add_detokenize(CLI::App& app);
void add_eval(CLI::App& app);
void add_generate(CLI::App& app);
void add_import(CLI::App& app);
void add_inspect(CLI::App& app);
void add_logits(CLI::App& app);
void add_make_tiny(CLI::App& app);
void add_tokenize(CLI::App& app);
void add_train(CLI::App& app);

}  // namespace loza::cli
