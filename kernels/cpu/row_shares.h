#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/thread_pool.h"

namespace baton::kernels::cpu {

// Who computes what in a step. With many rows each thread takes some of them through all layers: it reads all
// weights, which so many rows pay for, and waits for the others once a layer, before it attends to keys that
// they stored, or never when its sequences are its own; activations never leave its caches. With few rows the
// weights are what costs, so threads share the panels of each matrix instead and meet after every operation.
// No bit depends on it.
//
// Shares are contiguous and cost the same: a row's products with the weights, and its attention, which grows
// with its position. Example: a prompt of 512 tokens of SmolLM2 on two threads is cut at row 275 or so.
// Thread: the backend's caller plans; any reads. Owns the cuts, which grow to the number of threads.
class RowShares {
 public:
  struct Costs {
    double linear = 0;        // of a row's products with the weights of one layer; an integer product is 1
    double weight_bytes = 0;  // of one layer
    double attention = 0;     // of a row's attention to one position, in one layer
    int window = 0;           // positions that a row sees at most; 0 = all
    double product_rate = 0;  // integer products a nanosecond of one thread
    // For a byte of weights that a thread passes over for itself. Measured with 4-bit weights and two
    // threads: rows win from 12 on (Zen 5, 370 products a nanosecond) or from 7 (Zen 4, 178).
    double pass_ns = 0.0143;
  };
  void plan(const StepBatch& batch, const Costs& costs, int threads);

  // Each thread has rows of its own; else all rows are everybody's.
  bool by_rows() const { return !cuts_.empty(); }
  Share of(int thread) const { return {cuts_[thread], cuts_[thread + 1]}; }
  // No sequence's rows belong to two threads.
  bool whole_sequences() const { return whole_sequences_; }

 private:
  std::vector<int64_t> cuts_;  // [threads + 1], or empty
  bool whole_sequences_ = false;
};

}  // namespace baton::kernels::cpu
