#pragma once

#include <span>
#include <vector>

#include "base/status.h"
#include "kernels/backend.h"
#include "worker/model/token_weights.h"
#include "worker/parallel/batch_rows.h"
#include "worker/parallel/model_part.h"
#include "worker/parallel/rank_links.h"

namespace baton::worker {

// Draws a step's tokens where the logits are: the ranks of the last stage have the columns of their share of
// the vocabulary each, and say to each other what Sampler::sample() would need of the others' shares, so that
// every token is the one that it would draw from the whole row, bit by bit (docs/adr/0010). All rows of a
// step go together; every rank calls draw() for every step, with the same rows. What is said of a row:
//   1. gathered: its largest logit, and whether all are finite (8 bytes);
//   2. with top-p, from place to place: the mass and its 512 bins (4 KiB); from the last place to all: which
//      bin is crossed (16 bytes); gathered: the members of that bin (4 bytes, and 16 for each);
//   3. from place to place: the sum of the weights that are left (16 bytes), and from the last place to all.
// Then one place finds the token: where the sum passes u * total. Example weights 1, 0.5 | 0.5 of two places,
// u = 0.9: sums 0 and 1.5, total 2, target 1.8: the second place. Changes of logits are made first, also
// those of rows of which candidates are kept.
//
// Memory: 12 bytes for each logit that may be drawn, and 16 for each member of a crossed bin, of all places
// (some thousands a row of real models; the vocabulary where all logits are alike); grows to the largest
// step. Thread: engine, and inside the backend's host threads. Borrows all. Errors: the links', and kInternal
// when another rank says what cannot be.
class ShardedDraw {
 public:
  ShardedDraw(kernels::Backend& backend, RankLinks& links, int64_t vocab);

  // `own`: this rank's columns of all logit rows. Those of rows with changes are changed in place, maxima
  // too.
  absl::Status draw(const BatchRows& rows, const kernels::LogitRows& own);
  // Logit row i of that step: kDrawn on the one rank that has the token, kNone on others; an error on all.
  const kernels::DrawnToken& drawn(size_t row) const { return drawn_.at(row); }

 private:
  struct Peak {
    float max = 0;
    int32_t finite = 1;  // before the changes
  };
  struct Total {
    double sum = 0;
    int32_t last = -1;  // the last place that has a token
    int32_t unused = 0;
  };
  struct Row {
    size_t logit = 0;
    const kernels::DrawRow* how = nullptr;
    float max = 0;  // of all places
    std::vector<TokenId> ids;
    TokenWeights weights;
    double before = 0, after = 0;  // the sum that came to this place, and that left it
    std::vector<TokenWeights::Member> members;
  };
  struct Scratch {  // of a host thread
    std::vector<float> logits;
    std::vector<int32_t> ids;
    std::vector<TokenWeights::Member> members;
  };
  void take_rows(const BatchRows& rows);
  void change(const BatchRows& rows, size_t logit);
  Peak peak(size_t logit) const;
  absl::Status meet_peaks();
  void weigh(Row& row, Scratch& scratch);
  absl::Status cut_top_p();
  absl::Status find_crossings();
  absl::Status gather_members();
  void cut(size_t i, Scratch& scratch);
  absl::Status draw_tokens();
  void find_token(size_t i);
  // `values` go from place to place; add() adds what this rank has.
  template <class Value, class Add>
  absl::Status carry(std::vector<Value>& values, const Add& add);
  void add_totals(size_t first, size_t count);
  // work(i, scratch) for every i < count, on the backend's host threads.
  template <class Work>
  void each(size_t count, const Work& work);

  kernels::Backend& backend_;
  RankLinks& links_;
  const int64_t vocab_;
  const int places_, place_;
  const Range columns_;
  kernels::LogitRows own_;
  std::vector<Row> rows_;  // the first count_: to be drawn, and not in error
  size_t count_ = 0;
  std::vector<size_t> cutting_;  // of rows_: with top-p
  std::vector<kernels::DrawnToken> drawn_;
  std::vector<Scratch> scratch_;
  // Messages: [rows], or [places][rows].
  std::vector<Peak> peaks_, all_peaks_;
  std::vector<TokenWeights::Masses> masses_;
  std::vector<TokenWeights::Crossing> crossings_;
  std::vector<uint32_t> counts_, all_counts_;
  std::vector<TokenWeights::Member> members_, all_members_;  // [places][as many as any place has]
  std::vector<Total> totals_;
};

}  // namespace baton::worker
