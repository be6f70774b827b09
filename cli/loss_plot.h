#pragma once

#include <string>
#include <vector>

#include "loza/train/loop.h"

namespace loza::cli {

// The losses of a run as one SVG file: a line for each kind of document over the steps.
std::string loss_plot(const std::vector<StepReport>& steps);

}  // namespace loza::cli
