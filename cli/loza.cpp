// loza: one binary, one subcommand a job. Results go to stdout, progress and logs to stderr;
// the exit code is ExitCode's (loza/base/error.h).
#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <new>

#include "cli/commands.h"
#include "cli/group_options.h"
#include "loza/base/error.h"
#include "loza/base/log.h"

namespace {

int exit_code(loza::ExitCode code) { return static_cast<int>(code); }

int run(int argc, char** argv) {
  CLI::App app{"loza: turn a full-attention language model into a ZigZag one, check it, serve it"};
  app.require_subcommand(1);
  app.set_version_flag("--version", LOZA_VERSION);
  app.footer("Start with: loza demo --help");
  loza::cli::add_import(app);
  loza::cli::add_inspect(app);
  loza::cli::add_calibrate(app);
  loza::cli::add_convert(app);
  loza::cli::add_train(app);
  loza::cli::add_eval(app);
  loza::cli::add_generate(app);
  loza::cli::add_bench(app);
  loza::cli::add_demo(app);
  loza::cli::add_logits(app);
  loza::cli::add_tokenize(app);
  loza::cli::add_detokenize(app);
  loza::cli::add_make_tiny(app);
  try {
    app.parse(argc, argv);
    return exit_code(loza::ExitCode::kOk);
  } catch (const CLI::ParseError& error) {
    const bool asked_for_help = error.get_exit_code() == 0;
    if (loza::cli::speaks_for_all()) app.exit(error);
    return exit_code(asked_for_help ? loza::ExitCode::kOk : loza::ExitCode::kUsage);
  }
}

}  // namespace

int main(int argc, char** argv) {
  loza::init_logging();
  try {
    return run(argc, argv);
  } catch (const loza::Error& error) {
    spdlog::error("{}", error.what());
    return exit_code(error.code());
  } catch (const std::bad_alloc&) {
    spdlog::error("memory: expected room for this job, got none; take a smaller model or length");
    return exit_code(loza::ExitCode::kDoesNotFit);
  } catch (const std::exception& error) {
    spdlog::error("{}", error.what());
    return exit_code(loza::ExitCode::kFailed);
  }
}
