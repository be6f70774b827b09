#pragma once

#include <cstdint>
#include <string_view>

#include "loza/base/random.h"
#include "loza/tasks/task.h"

namespace loza {

// The randomness of one document.
Random document_random(std::string_view task, std::uint64_t seed, std::int64_t index);

// RULER's noise, to be repeated over and over.
extern const char* const kNoise;

// One a task; task.cpp has the rows.
Document make_lines(const TaskOptions& options, std::int64_t index);
Document make_niah(const TaskOptions& options, std::int64_t index);
Document make_noise(const TaskOptions& options, std::int64_t index);
Document make_niah_single_1(const TaskOptions& options, std::int64_t index);
Document make_niah_single_2(const TaskOptions& options, std::int64_t index);
Document make_niah_single_3(const TaskOptions& options, std::int64_t index);
Document make_niah_multikey_1(const TaskOptions& options, std::int64_t index);
Document make_niah_multikey_2(const TaskOptions& options, std::int64_t index);
Document make_niah_multikey_3(const TaskOptions& options, std::int64_t index);
Document make_niah_multivalue(const TaskOptions& options, std::int64_t index);
Document make_niah_multiquery(const TaskOptions& options, std::int64_t index);
Document make_vt(const TaskOptions& options, std::int64_t index);
Document make_vt_2(const TaskOptions& options, std::int64_t index);
Document make_cwe(const TaskOptions& options, std::int64_t index);
Document make_fwe(const TaskOptions& options, std::int64_t index);
Document make_mrcr_2(const TaskOptions& options, std::int64_t index);
Document make_mrcr_4(const TaskOptions& options, std::int64_t index);
Document make_copy(const TaskOptions& options, std::int64_t index);
Document make_ppl(const TaskOptions& options, std::int64_t index);
Document make_ppl_code(const TaskOptions& options, std::int64_t index);

}  // namespace loza
