#include "kernels/cpu/row_shares.h"

#include <algorithm>

namespace baton::kernels::cpu {
namespace {

// Beyond four threads caches are shared.
bool worth_it(const StepBatch& batch, const RowShares::Costs& costs, int threads) {
  const double streams = static_cast<double>(threads) * std::min(threads, 4);
  return batch.rows() * costs.linear > costs.product_rate * costs.pass_ns * costs.weight_bytes * streams;
}

}  // namespace

void RowShares::plan(const StepBatch& batch, const Costs& costs, int threads) {
  cuts_.clear();
  const int64_t rows = batch.rows();
  if (rows < threads || !worth_it(batch, costs, threads)) return;
  const auto each_row = [&](auto visit) {
    if (batch.sequences.empty())
      for (int64_t row = 0; row < rows; ++row) visit(row, costs.linear);
    for (const SequenceRows& sequence : batch.sequences)
      for (int i = 0; i < sequence.row_count; ++i) {
        int seen = sequence.first_position + i + 1;
        if (costs.window > 0) seen = std::min(seen, costs.window);
        visit(sequence.first_row + i, costs.linear + costs.attention * seen);
      }
  };
  double total = 0;
  each_row([&](int64_t, double cost) { total += cost; });
  cuts_.assign(threads + 1, rows);
  cuts_[0] = 0;
  double before = 0;
  int next = 1;
  each_row([&](int64_t row, double cost) {
    before += cost;
    for (; next < threads && before - cost / 2 >= total * next / threads; ++next) cuts_[next] = row;
  });
  whole_sequences_ = std::ranges::none_of(batch.sequences, [&](const SequenceRows& sequence) {
    const int64_t end = sequence.first_row + sequence.row_count;
    return std::ranges::any_of(cuts_, [&](int64_t cut) { return cut > sequence.first_row && cut < end; });
  });
}

}  // namespace baton::kernels::cpu
