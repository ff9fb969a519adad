#pragma once

namespace baton::kernels::cuda {

// A device that does its work when somebody waits for it, and not before. A real one (real_device.cc) is as
// late as it is.
void make_device_late(bool late);
// Graphs launched in this process; -1 when nobody counts.
int graphs_launched();

}  // namespace baton::kernels::cuda
