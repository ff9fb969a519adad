#include "tests/kernels/cuda/emulation/emulated_runtime.h"
#include "tests/kernels/cuda/late_device.h"

namespace baton::kernels::cuda {

void make_device_late(bool late) {
  emulated::limits() = {};
  emulated::limits().lazy = late;
  emulated::limits().event_queries = late ? 2 : 0;
}
int graphs_launched() { return emulated::counts().graphs_launched; }

}  // namespace baton::kernels::cuda
