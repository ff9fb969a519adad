#include "tests/kernels/cuda/late_device.h"

namespace baton::kernels::cuda {

void make_device_late(bool /*late*/) {}
int graphs_launched() { return -1; }

}  // namespace baton::kernels::cuda
