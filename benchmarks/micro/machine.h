#pragma once

#include "kernels/roofline/ceilings.h"

namespace baton::benchmarks {

// The machine's ceilings with so many threads: one is timed in CPU time, several in wall time, as the
// benchmarks are. Measured once per process and number of threads, at the first call (about half a second).
const kernels::roofline::Peaks& ceilings(int threads = 1);

}  // namespace baton::benchmarks
