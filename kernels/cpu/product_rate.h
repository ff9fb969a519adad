#pragma once

#include "kernels/cpu/kernels.h"

namespace baton::kernels::cpu {

// Integer products a nanosecond of one thread on a small matrix that lies in its caches, measured in 50 us (3
// ms by plain C++): the best of some tries, so that a pause of the thread does not count. It says how work is
// best cut over threads (row_shares.h) and changes no bit. Example: Zen 5 at 3.9 GHz 370, Zen 4 at 3.7 GHz,
// whose 512-bit instructions take two cycles, 178. Thread: any. Errors: none.
double product_rate(const Kernels& kernels);

}  // namespace baton::kernels::cpu
