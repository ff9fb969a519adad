#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/kv_transfer/kv_part.h"
#include "worker/parallel/model_part.h"

namespace baton::worker {

// What a rank's pool holds, and what the pools of all ranks of a worker do: rank by rank. How a model is
// split is said in worker/parallel/model_part.h alone. With more ranks than KV heads, neighbours hold the
// same head.
KvPart kv_part(const ModelPart& part);
absl::StatusOr<std::vector<KvPart>> kv_parts(const SplitModel& model, const ParallelShape& shape);

// What both have; empty when they share nothing.
KvPart intersection(const KvPart& a, const KvPart& b);

// One stream of a hand-over: `part` goes from rank `sender` of the prefill worker to rank `receiver` of the
// decode worker. A prompt's hand-over is complete when all of them landed; each is a transfer of its own
// between two ranks, with its own grant, deadline and end.
struct KvSlice {
  int sender = 0;
  int receiver = 0;
  KvPart part;
  friend bool operator==(const KvSlice&, const KvSlice&) = default;
};

// Who sends what to whom, when the prefill worker's ranks hold `senders` and the decode worker's want
// `receivers`. Every (layer, head) that a receiver holds comes to it exactly once. Two senders' parts are
// equal or share nothing; of equal ones (more ranks than KV heads) receivers take turns, so that no sender
// does the work of all. So two ranks have at most one slice in common. Ordered by receiver, then sender.
// kInvalidArgument when nobody holds what a receiver wants. Pure arithmetic: both workers compute the same
// list from the two shapes.
//
// Worked examples. A model of 4 layers and 4 KV heads; a part is written layers x heads; T = tensor, P =
// pipeline.
//
//   (1,1) -> (2,1)   sender 0: 0-3 x 0-3            receivers 0: 0-3 x 0-1, 1: 0-3 x 2-3
//       0 -> 0: 0-3 x 0-1      0 -> 1: 0-3 x 2-3               two streams, each half of every block's piece
//   (2,1) -> (1,1)   the same arrows turned round: receiver 0 gets heads 0-1 from 0 and heads 2-3 from 1
//   (2,1) -> (4,1)   0 -> 0: 0-3 x 0   0 -> 1: 0-3 x 1   1 -> 2: 0-3 x 2   1 -> 3: 0-3 x 3
//   (1,2) -> (2,1)   senders 0: 0-1 x 0-3, 1: 2-3 x 0-3        stages to shards: 2 x 2 streams
//       0 -> 0: 0-1 x 0-1   1 -> 0: 2-3 x 0-1   0 -> 1: 0-1 x 2-3   1 -> 1: 2-3 x 2-3
//   (1,2) -> (1,2), cut 3 + 1 -> 2 + 2    0 -> 0: 0-1 x 0-3   0 -> 1: 2 x 0-3   1 -> 1: 3 x 0-3
//   (8,1) -> (2,1)   8 ranks, 4 heads: ranks 2i and 2i+1 both hold head i. Receiver 0 wants heads 0-1,
//   receiver 1
//       heads 2-3. Receiver r takes replica r modulo 2 of each head:
//       0 -> 0: head 0   2 -> 0: head 1   5 -> 1: head 2   7 -> 1: head 3
//   (2,1) -> (8,1)   receivers 2i and 2i+1 both get head i: 8 streams of one head each
//
// In bytes: a block's piece is the heads of its rank one after the other, each K and V of all its tokens, so
// the heads of a slice are one run of every piece (slice_run).
absl::StatusOr<std::vector<KvSlice>> reslice(std::span<const KvPart> senders,
                                             std::span<const KvPart> receivers);

// Where a slice's heads lie inside a piece of a rank that holds `own`, in bytes from the piece's begin.
// Example: own heads 4-7 of 1024 B each, slice heads 5-6: {1024, 2048}.
struct PieceRun {
  uint64_t offset = 0;
  uint64_t bytes = 0;
  friend bool operator==(const PieceRun&, const PieceRun&) = default;
};
PieceRun slice_run(const KvPart& own, const KvPart& slice, uint64_t head_bytes);

// "layers 0-3, heads 2-3"
std::string to_string(const KvPart& part);

}  // namespace baton::worker
