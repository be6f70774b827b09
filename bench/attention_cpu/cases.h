#pragma once

#include "bench/attention_cpu/machine_rates.h"
#include "bench/attention_cpu/report.h"

// The cases. Each function checks and times those of its own that the report wants, and adds a row
// for every one; prefill_growth and threads only time what the others check.
namespace loza::bench {

// Prefill: under full attention, under streaming, and how streaming's time grows with the length.
void prefill_full(Report& report, const MachineRates& rates);
void prefill_streaming(Report& report, const MachineRates& rates);
void prefill_growth(Report& report, const MachineRates& rates);

// Forward and backward, beside libtorch's autograd.
void train(Report& report, const MachineRates& rates);

// One new token over a paged cache.
void decode_streaming(Report& report, const MachineRates& rates);
void decode_full(Report& report, const MachineRates& rates);

// What a second thread gives.
void threads(Report& report, const MachineRates& rates);

}  // namespace loza::bench
