#include "kernels/cpu/product_rate.h"

#include <algorithm>
#include <chrono>
#include <limits>

#include "kernels/cpu/aligned_buffer.h"

namespace baton::kernels::cpu {

double product_rate(const Kernels& kernels) {
  constexpr int kTries = 20;
  constexpr auto kEnough = std::chrono::milliseconds(1);
  constexpr int64_t kCols = 512, kPanels = 4;
  const bool tiled = kernels.linear_tiled != nullptr;
  const int64_t rows = tiled ? 2 * kTileRows : 12;
  constexpr int64_t kPanelBytes = kCols / kSlabCols * panel_format(DType::kQ4_0).slab_bytes();
  const AlignedBuffer weights(kPanels * kPanelBytes), codes(rows * kCols),
      groups(rows * (kCols / contract::kGroup) * sizeof(ActivationGroup)),
      out(rows * kPanels * kPanelRows * sizeof(float));
  LinearTask task;
  task.weight = {DType::kQ4_0, 1, kPanels * kPanelRows, kCols, weights.data(), kPanelBytes};
  task.panel_end = kPanels;
  task.x = {.rows = rows, .cols = kCols, .codes = codes.as<int8_t>(), .groups = groups.as<ActivationGroup>()};
  const AlignedBuffer tiles(row_tiles_bytes(rows, kCols)), opened(kPanelRows * kCols);
  if (tiled) {
    task.x.tiles = row_tiles(tiles.data(), rows, kCols);
    task.x.opened = opened.data();
  }
  task.out = out.as<float>();
  task.out_stride = kPanels * kPanelRows;
  double shortest_ns = std::numeric_limits<double>::infinity();
  const auto start = std::chrono::steady_clock::now();
  auto now = start;
  for (int i = 0; i < kTries && now - start < kEnough; ++i) {
    const auto begun = now;
    tiled ? kernels.linear_tiled(task) : kernels.linear(task);
    now = std::chrono::steady_clock::now();
    const std::chrono::duration<double, std::nano> took = now - begun;
    shortest_ns = std::min(shortest_ns, std::max(took.count(), 1.0));
  }
  return static_cast<double>(rows * kCols * kPanels * kPanelRows) / shortest_ns;
}

}  // namespace baton::kernels::cpu
