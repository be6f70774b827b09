#pragma once

#include <string>

#include "loza/evaluate/demo_report.h"

namespace loza {

// The demo's report as one HTML page that needs nothing else: style and charts are inside, no
// script, no address of any network. Light or dark as the reader's system is. Text that came
// from the model, the user or a file is escaped.
std::string report_html(const DemoReport& report);

}  // namespace loza
