#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "loza/evaluate/cases.h"
#include "loza/evaluate/run.h"

// Which question the demo asks again, how it is shown, and when its answer is right.
namespace loza::cli {

// A scored answer of a case.
struct Asked {
  std::size_t case_idx = 0;
  std::size_t turn_idx = 0;
};

// The first answer, in the longest documents with questions, that the dense model had right in
// the evaluation, so that there is something to keep; the first of all if there is none.
// REQUIRES: `dense` has the scores of these cases, and one of them has a scored turn.
Asked choose_question(const std::vector<EvalCase>& cases, const SubjectScores& dense);

// The text without the white space around it.
std::string trimmed(const std::string& text);

// The question alone, trimmed: one that follows another begins with the full stop that ends the
// answer before it.
std::string shown_question(const std::string& question);

// The text begins with the number, and the number ends there: "42." and "42", not "421".
bool begins_with_number(const std::string& text, const std::string& number);

}  // namespace loza::cli
