#include "kernels/cpu/cpu_linear.h"

#include <algorithm>

#include "kernels/cpu/thread_pool.h"
#include "kernels/quant_block.h"

namespace baton::kernels::cpu {

CpuLinear::CpuLinear(const LinearSpec& spec, ThreadPool& pool, WeightArena& arena, bool brain_dots)
    : cols_(spec.parts[0].cols), bias_(spec.bias) {
  for (const WeightView& part : spec.parts) {
    first_row_.push_back(rows_);
    rows_ += part.rows;
    const bool brain = brain_dots && part.type == DType::kBF16;
    (is_quantised(part.type) ? needs_codes_ : brain ? needs_brain_ : needs_values_) = true;
    parts_.emplace_back(part, spec.k_shards, pool, arena);
  }
}

size_t CpuLinear::bytes() const {
  size_t sum = 0;
  for (const Panels& part : parts_) sum += part.bytes();
  return sum;
}

int64_t CpuLinear::panels() const {
  int64_t sum = 0;
  for (const Panels& part : parts_) sum += part.panels();
  return sum;
}

double CpuLinear::row_cost() const {
  double sum = 0;
  for (const Panels& part : parts_) {
    const double product = is_quantised(part.type())                     ? 1
                           : needs_brain_ && part.type() == DType::kBF16 ? 2
                                                                         : 4;
    sum += product * static_cast<double>(part.rows() * part.cols());
  }
  return sum;
}

void CpuLinear::multiply(const Kernels& kernels, Share panels, const Activations& x, const Output& to) const {
  int64_t first = 0;  // panels before this part
  for (size_t i = 0; i < parts_.size(); ++i) {
    const int64_t begin = std::max(panels.begin - first, int64_t{0});
    const int64_t end = std::min(panels.end - first, parts_[i].panels());
    first += parts_[i].panels();
    if (begin >= end) continue;
    Output part = to;
    part.out += first_row_[i] + begin * kPanelRows;
    multiply_part(kernels, i, {begin, end}, x, part);
  }
}

void CpuLinear::multiply_part(const Kernels& kernels, size_t index, Share panels, const Activations& x,
                              const Output& to) const {
  LinearTask task;
  task.weight = parts_[index].view();
  task.panel_begin = panels.begin;
  task.panel_end = panels.end;
  task.x = x;
  task.bias = bias_.empty() ? nullptr : bias_.data() + first_row_[index];
  task.out = to.out;
  task.out_stride = to.stride;
  task.add = to.add;
  task.kv = to.kv;
  if (to.order != nullptr)
    task.weights = to.order->enter(task.weight.data + panels.begin * task.weight.panel_bytes,
                                   (panels.end - panels.begin) * task.weight.panel_bytes);
  if (needs_brain_ && task.weight.type == DType::kBF16) return kernels.linear_brain(task);
  if (x.tiles.data != nullptr && is_quantised(task.weight.type)) return kernels.linear_tiled(task);
  kernels.linear(task);
}

}  // namespace baton::kernels::cpu
