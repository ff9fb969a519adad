#pragma once

#include <algorithm>
#include <vector>

#include "base/ids.h"
#include "kernels/backend.h"

namespace baton::worker {

// The most candidates that a rank sends of a row, and the most changes of logits that go to the ranks with
// it: 8 bytes and 12, instead of the columns' 4 a token of the vocabulary.
constexpr int32_t most_candidates(int64_t vocab) {
  return static_cast<int32_t>(std::max<int64_t>(256, vocab / 16));
}
constexpr int64_t most_changes(int64_t vocab) { return vocab / 8; }

// The arrays behind a kernels::StepBatch: tokens, positions, sequences and logit rows of one step, or of one
// micro-batch of it; and whose KV of a step is handed over. Reused from step to step. Thread: one.
struct BatchRows {
  std::vector<TokenId> tokens;
  std::vector<int32_t> positions;
  std::vector<kernels::SequenceRows> sequences;  // block tables are borrowed
  std::vector<int32_t> logit_rows;
  // Of each logit row, what rank 0 of a group wants of it: that many of its likeliest tokens, which are
  // enough to draw from; kAllLogits; or kDrawn, the token, which the ranks draw together.
  std::vector<int32_t> keep;
  static constexpr int32_t kAllLogits = 0, kDrawn = -1;
  // How rows are drawn by whoever has the logits: one for each logit row, or nothing. With one rank that is
  // the backend (kernels::StepBatch), else the ranks of the last stage: rows that are kDrawn, and rows with
  // changes of which candidates are kept.
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
