#include "kernels/cpu/product_rate.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/cpu/aligned_buffer.h"

namespace baton::kernels::cpu {

double product_rate(const Kernels& kernels) {
  constexpr int kTries = 20;
  constexpr auto kEnough = std::chrono::milliseconds(1);
  constexpr int64_t kRows = 12, kCols = 512, kPanels = 4;
  constexpr int64_t kPanelBytes = kCols / kSlabCols * panel_format(DType::kQ4_0).slab_bytes();
  const AlignedBuffer weights(kPanels * kPanelBytes), codes(kRows * kCols),
      groups(kRows * (kCols / contract::kGroup) * sizeof(ActivationGroup)),
      out(kRows * kPanels * kPanelRows * sizeof(float));
  LinearTask task;
  task.weight = {DType::kQ4_0, 1, kPanels * kPanelRows, kCols, weights.data(), kPanelBytes};
  task.panel_end = kPanels;
  task.x = {
      .rows = kRows, .cols = kCols, .codes = codes.as<int8_t>(), .groups = groups.as<ActivationGroup>()};
  task.out = out.as<float>();
  task.out_stride = kPanels * kPanelRows;
  double shortest_ns = std::numeric_limits<double>::infinity();
  const auto start = std::chrono::steady_clock::now();
  auto now = start;
  for (int i = 0; i < kTries && now - start < kEnough; ++i) {
    const auto begun = now;
    kernels.linear(task);
    now = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::nano> took = now - begun;
    shortest_ns = std::min(shortest_ns, std::max(took.count(), 1.0));
  }
  return static_cast<double>(kRows * kCols * kPanels * kPanelRows) / shortest_ns;
}

}  // namespace baton::kernels::cpu
