#pragma once

#include <vector>

#include "base/ids.h"
#include "kernels/backend.h"

namespace baton::worker {

// The arrays behind a kernels::StepBatch: tokens, positions, sequences and logit rows of one step, or of one
// micro-batch of it; and whose KV of a step is handed over. Reused from step to step. Thread: one.
struct BatchRows {
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<kernels::SequenceRows> sequences;  // block tables are borrowed
  std::vector<int32_t> logit_rows;
  // Of each logit row: how many of its likeliest tokens are enough to draw from; 0 = all logits are wanted.
  std::vector<int32_t> keep;
  // What the backend draws itself (kernels::StepBatch): one for each logit row, or nothing.
  std::vector<kernels::DrawRow> draws;
  std::vector<kernels::LogitChange> changes;
  std::vector<int32_t> fed;  // kernels::DeviceBackend::feed(), by row, or nothing
  struct Send {
    uint32_t sequence = 0;  // index into sequences
    TransferId transfer;
    friend bool operator==(const Send&, const Send&) = default;
  };
  std::vector<Send> sends;  // sequences whose prompt's KV goes to another worker

  void reserve(size_t rows) {
    tokens.reserve(rows);
    positions.reserve(rows);
    sequences.reserve(rows);
    logit_rows.reserve(rows);
    keep.reserve(rows);
  }
  void clear() {
    tokens.clear();
    positions.clear();
    sequences.clear();
    logit_rows.clear();
    keep.clear();
    draws.clear();
    changes.clear();
    fed.clear();
    sends.clear();
  }
  kernels::StepBatch batch() const {
    return {.tokens = tokens,
            .positions = positions,
            .sequences = sequences,
            .logit_rows = logit_rows,
            .draws = draws,
            .changes = changes,
            .awaits_layers = !sends.empty()};
  }
};

}  // namespace baton::worker
