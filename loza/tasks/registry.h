#pragma once

#include <cstdint>
#include <string_view>

#include "loza/base/random.h"
#include "loza/tasks/task.h"

namespace loza {

// The randomness of one document.
Random document_random(std::string_view task, std::uint64_t seed, std::int64_t index);

// One a task; task.cpp has the rows.
Document make_lines(const TaskOptions& options, std::int64_t index);
Document make_niah(const TaskOptions& options, std::int64_t index);
Document make_noise(const TaskOptions& options, std::int64_t index);
Document make_ppl(const TaskOptions& options, std::int64_t index);
Document make_ppl_code(const TaskOptions& options, std::int64_t index);

}  // namespace loza
