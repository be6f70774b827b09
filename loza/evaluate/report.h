#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "loza/base/json.h"
#include "loza/evaluate/intervals.h"
#include "loza/evaluate/run.h"

namespace loza {

// How one subject did on one task at one length.
struct Cell {
  std::string task;
  std::int64_t length = 0;  // 0: a user's own rows
  std::string subject;
  std::int64_t num_documents = 0;
  std::int64_t num_answers = 0;         // 0: plain texts
  std::int64_t num_tokens = 0;          // scored
  std::optional<Interval> exact_match;  // share of the answers; none for plain texts
  Interval nll;                         // nats a scored token
  double seconds = 0;                   // a document
  std::int64_t peak_gpu_bytes = 0;      // of any document; 0 on the CPU
  // The subject minus the first subject, unit by unit on the same documents; none for the
  // first subject itself, nor for nll where two tokenizers cut the answers differently.
  std::optional<Interval> exact_match_difference, nll_difference;
};

struct EvalReport {
  struct Subject {
    std::string name, model;
    std::string layer_type;  // '1' = streaming (model/plan.h)
    std::string origin;      // of the plan
    std::int64_t num_streaming = 0;
  };
  std::vector<Subject> subjects;  // the first one is what the others are compared with
  std::vector<Cell> cells;        // by task and length, in the cases' order, then subject
};

// REQUIRES: every subject has a score for each case.
EvalReport make_report(const std::vector<EvalCase>& cases,
                       const std::vector<SubjectScores>& subjects);

// nullptr when there is no such cell.
const Cell* find_cell(const EvalReport& report, const std::string& task, std::int64_t length,
                      const std::string& subject);

// Whether a subject did as well as the first one: its hits are not below the lower end of the
// first subject's 95 % interval; for plain texts, its mean nll not above the upper end.
bool within_interval(const Cell& cell, const Cell& baseline);

// A table a task for people: subjects down, lengths across; hits in percent with their 95 %
// interval, then nats per answer token. A star marks what is worse than the first subject
// by more than the paired 95 % interval.
std::string report_tables(const EvalReport& report);

// The same for programs: {"subjects": [...], "cells": [...]}; an interval is
// {"value", "low", "high"}.
Json report_json(const EvalReport& report);

Json interval_json(const Interval& interval);

}  // namespace loza
