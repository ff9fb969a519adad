#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/panels.h"
#include "kernels/cpu/thread_pool.h"
#include "kernels/cpu/weight_order.h"

namespace baton::kernels::cpu {

// A linear layer in panels: the parts one after the other, each in its own format. Work is dealt out by
// panel. Immutable. Thread: any.
class CpuLinear final : public Linear {
 public:
  CpuLinear(const LinearSpec& spec, ThreadPool& pool, WeightArena& arena, bool brain_dots);

  int64_t rows() const override { return rows_; }
  int64_t cols() const override { return cols_; }
  size_t bytes() const override;

  int64_t panels() const;
  // Time of a row's products beside those of other layers; an integer product is 1.
  double row_cost() const;
  // What its parts read of the activations.
  bool needs_codes() const { return needs_codes_; }    // quantised weights
  bool needs_brain() const { return needs_brain_; }    // bf16 weights, when they are multiplied by bf16 dots
  bool needs_values() const { return needs_values_; }  // other weights
  size_t parts() const { return parts_.size(); }
  const Panels& part(size_t index) const { return parts_[index]; }

  struct Output {
    float* out = nullptr;  // [x.rows][stride], column 0 = the layer's first output
    int64_t stride = 0;
    bool add = false;
    LinesAhead* kv = nullptr;      // asked for meanwhile, or none
    WeightOrder* order = nullptr;  // of the thread's weights, or none
  };
  // Panels [begin, end) of all parts counted through.
  void multiply(const Kernels& kernels, Share panels, const Activations& x, const Output& to) const;
  // Panels [begin, end) of one part; column 0 of `to` = the first output of panel `begin`.
  void multiply_part(const Kernels& kernels, size_t index, Share panels, const Activations& x,
                     const Output& to) const;

 private:
  int64_t rows_ = 0;
  int64_t cols_ = 0;
  bool needs_codes_ = false;
  bool needs_values_ = false;
  bool needs_brain_ = false;
  std::vector<Panels> parts_;
  std::vector<int64_t> first_row_;  // of each part
  std::vector<float> bias_;
};

}  // namespace baton::kernels::cpu
