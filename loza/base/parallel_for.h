#pragma once

#include <cstdint>
#include <functional>

namespace loza {

// Threads that parallel_for may use: OMP_NUM_THREADS from the environment,
// else the processors this process may run on. Shared with libtorch's pool.
int num_threads();
void set_num_threads(int count);

// Calls body(i) for i in [0, n), each once, on several threads, in no fixed order; waits for
// all. Inside another parallel_for it runs serially. An exception in body is rethrown here
// (the first one). What body(i) computes must not depend on the thread it runs on: that is
// what makes results equal for any thread count.
void parallel_for(std::int64_t n, const std::function<void(std::int64_t)>& body);

// The calling thread's index in [0, num_threads()), for scratch memory.
int thread_index();

}  // namespace loza
