#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "base/status.h"
#include "worker/parallel/batch_rows.h"

namespace baton::worker {

// What no plan may exceed; the same on all ranks of a group.
struct PlanLimits {
  int32_t max_rows = 0;
  int64_t max_positions = 0;
  int32_t block_tokens = 16;
  int64_t blocks = 0;  // of the pool
  int64_t vocab = 0;

  size_t slots() const { return size_t{2} * max_rows; }
};

enum class PlanKind : uint16_t { kStep = 1, kBeat = 2, kStop = 3 };

// Little-endian, as it lies. One message: head, a record a sequence, draws [draws], tokens [rows], new blocks
// [added], transfers [sends], changes of logits [changes].
struct PlanHead {
  static constexpr uint32_t kMagic = 0x326c5042;  // "BPl2"
  uint32_t magic = kMagic;
  PlanKind kind = PlanKind::kBeat;
  uint16_t micro_batches = 1;
  uint64_t step = 0;
  uint32_t rows = 0;
  uint32_t sequences = 0;
  uint32_t added = 0;
  uint32_t sends = 0;
  uint32_t draws = 0;
  uint32_t changes = 0;
  uint32_t bytes = sizeof(PlanHead);  // of the whole message
  uint32_t unused = 0;
};
static_assert(sizeof(PlanHead) == 48);

// Every sequence has a slot on all ranks, which keeps its block table from step to step: `kept` entries of it
// are still right, `added` follow. A sequence that was not in a step for long may lose its slot to another
// one and then starts from 0; so nobody has to say when a sequence ends.
struct PlanRecord {
  uint32_t slot = 0;
  uint32_t kept = 0;
  uint32_t added = 0;
  int32_t first_position = 0;
  int32_t row_count = 0;
  int32_t logit_rows = 0;  // so many of the last rows
  int32_t keep = 0;        // of a single logit row (BatchRows::keep)
};
static_assert(sizeof(PlanRecord) == 28);

// How the ranks draw the single logit row of a sequence (kernels::DrawRow), or change its logits before they
// keep candidates. Sequences ascend; each has the next `changes`.
struct PlanDraw {
  double uniform = 0;
  float temperature = 0;
  float top_p = 1;
  float min_p = 0;
  float repetition = 1, frequency = 0, presence = 0;
  uint32_t sequence = 0;
  uint32_t changes = 0;
};
static_assert(sizeof(PlanDraw) == 40);
struct PlanChange {  // kernels::LogitChange
  int32_t id = 0;
  float bias = 0;
  uint32_t count_and_flags = 0;  // count * 8 + flags
};
static_assert(sizeof(PlanChange) == 12);

// Whether the ranks of a group may be told to draw the row: all numbers are such that no logit becomes what
// is not a number, and the changes are much less than the columns. What is absurd is the sampler's to refuse,
// on rank 0.
bool may_be_told(const kernels::DrawRow& row, std::span<const kernels::LogitChange> changes, int64_t vocab);

// The KV of this sequence's rows belongs to that transfer.
struct PlanSend {
  uint32_t sequence = 0;
  uint32_t transfer_low = 0;
  uint32_t transfer_high = 0;
};
static_assert(sizeof(PlanSend) == 12);

// Rank 0's side. Example: a decode step of 32 sequences is 48 + 32 * (28 + 4) bytes, 1072, 4 more for each
// sequence that starts a block and 40 for each whose token the ranks draw. Owns the message and a copy of
// every table. Thread: one.
class PlanWriter {
 public:
  explicit PlanWriter(const PlanLimits& limits);

  // The message of a step: sequence i of `rows` is ids[i], and its logit rows are its last ones. Valid until
  // the next call.
  std::span<std::byte> step(StepId step, std::span<const SequenceId> ids, const BatchRows& rows,
                            int micro_batches);
  std::span<std::byte> bare(PlanKind kind);

 private:
  struct Slot {
    SequenceId sequence;
    uint64_t used = 0;  // the last step that had it, counted from 1
    std::vector<BlockId> table;
  };
  uint32_t slot_of(SequenceId id);
  PlanRecord record_of(SequenceId id, const kernels::SequenceRows& rows);
  void add_draw(uint32_t sequence, const kernels::DrawRow& draw,
                std::span<const kernels::LogitChange> changes);

  std::vector<Slot> slots_;
  absl::flat_hash_map<SequenceId, uint32_t> index_;
  uint64_t steps_ = 0;
  size_t cursor_ = 0;
  std::vector<PlanRecord> records_;
  std::vector<BlockId> added_;
  std::vector<PlanSend> sends_;
  std::vector<PlanDraw> draws_;
  std::vector<PlanChange> changes_;
  std::vector<std::byte> message_;
};

// A follower's side. Nothing of a message is believed: a misfit is kInternal, and this rank's copy of the
// tables is then worthless. Thread: one.
class PlanReader {
 public:
  explicit PlanReader(const PlanLimits& limits);

  // The head, if it can be one: a size within the limits.
  absl::StatusOr<PlanHead> head(std::span<const std::byte> first) const;
  // The whole message of a step. `out` refers to tables of the reader until the next call.
  absl::Status step(std::span<const std::byte> message, BatchRows& out);

 private:
  struct Slot {
    uint64_t used = 0;
    std::vector<BlockId> table;
  };
  absl::Status read_record(const PlanRecord& record, std::span<const BlockId> added, BatchRows& out);
  absl::Status read_sends(const PlanHead& head, const std::byte* sends, BatchRows& out) const;
  absl::Status read_draws(const PlanHead& head, const std::byte* draws, const std::byte* changes,
                          BatchRows& out) const;

  const PlanLimits limits_;
  std::vector<Slot> slots_;
  uint64_t steps_ = 0;
};

}  // namespace baton::worker
