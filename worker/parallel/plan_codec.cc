#include "worker/parallel/plan_codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "base/cat.h"
#include "base/check.h"

namespace baton::worker {

using kernels::DrawRow;
using kernels::LogitChange;

namespace {

static_assert(sizeof(BlockId) == 4 && sizeof(TokenId) == 4);

absl::Status wrong(std::string_view what) { return absl::InternalError(cat("plan of rank 0: ", what)); }

size_t message_bytes(const PlanHead& head) {
  return sizeof(PlanHead) + head.sequences * sizeof(PlanRecord) + head.draws * sizeof(PlanDraw) +
         head.rows * sizeof(TokenId) + head.added * sizeof(BlockId) + head.sends * sizeof(PlanSend) +
         head.changes * sizeof(PlanChange);
}

// Copies and moves on.
template <class T>
void put(std::byte*& to, std::span<const T> values) {
  if (!values.empty()) std::memcpy(to, values.data(), values.size_bytes());
  to += values.size_bytes();
}
template <class T>
T get(const std::byte* from, size_t index) {
  T value;
  std::memcpy(&value, from + index * sizeof(T), sizeof(T));
  return value;
}

constexpr float kMostTemperature = 1e6f;
constexpr float kMostPenalty = 1e9f;
constexpr uint32_t kFlags = LogitChange::kBiased | LogitChange::kMasked | LogitChange::kSeen;

bool within(float value, float most) { return value >= -most && value <= most; }

DrawRow draw_row(const PlanDraw& draw, size_t first_change) {
  return {.uniform = draw.uniform,
          .temperature = draw.temperature,
          .top_p = draw.top_p,
          .min_p = draw.min_p,
          .repetition = draw.repetition,
          .frequency = draw.frequency,
          .presence = draw.presence,
          .first_change = static_cast<int32_t>(first_change),
          .changes = static_cast<int32_t>(draw.changes),
          .wanted = 1};
}

}  // namespace

bool may_be_told(const DrawRow& row, std::span<const LogitChange> changes, int64_t vocab) {
  if (static_cast<int64_t>(changes.size()) > most_changes(vocab)) return false;
  if (!(row.uniform >= 0 && row.uniform < 1 && row.temperature >= 0 && row.temperature <= kMostTemperature))
    return false;
  if (!std::isfinite(row.top_p) || !std::isfinite(row.min_p)) return false;
  // Then infinities come from biases alone, and are never subtracted from each other.
  if (!(row.repetition > 0 && std::isfinite(row.repetition)) || !within(row.frequency, kMostPenalty) ||
      !within(row.presence, kMostPenalty))
    return false;
  return std::ranges::all_of(changes, [vocab](const LogitChange& c) {
    return c.id >= 0 && c.id < vocab && !std::isnan(c.bias) && c.count >= 0 && c.count < 1 << 28;
  });
}

PlanWriter::PlanWriter(const PlanLimits& limits) : slots_(limits.slots()) {
  records_.reserve(limits.max_rows);
  message_.resize(4096);
}

uint32_t PlanWriter::slot_of(SequenceId id) {
  const auto [it, inserted] = index_.try_emplace(id, 0);
  if (!inserted) return it->second;
  // There are twice as many slots as rows, so one was not used in this step.
  while (slots_[cursor_].used == steps_) cursor_ = (cursor_ + 1) % slots_.size();
  Slot& slot = slots_[cursor_];
  if (slot.used > 0) index_.erase(slot.sequence);
  slot.sequence = id;
  slot.table.clear();
  index_[id] = static_cast<uint32_t>(cursor_);
  return static_cast<uint32_t>(std::exchange(cursor_, (cursor_ + 1) % slots_.size()));
}

PlanRecord PlanWriter::record_of(SequenceId id, const kernels::SequenceRows& rows) {
  const uint32_t index = slot_of(id);
  Slot& slot = slots_[index];
  BATON_CHECK(slot.used != steps_, "a sequence twice in a step");
  slot.used = steps_;
  const auto same = std::ranges::mismatch(slot.table, rows.blocks);
  const auto kept = same.in1 - slot.table.begin();
  const std::span<const BlockId> fresh = rows.blocks.subspan(static_cast<size_t>(kept));
  added_.insert(added_.end(), fresh.begin(), fresh.end());
  slot.table.resize(static_cast<size_t>(kept));
  slot.table.insert(slot.table.end(), fresh.begin(), fresh.end());
  return {index,
          static_cast<uint32_t>(kept),
          static_cast<uint32_t>(fresh.size()),
          rows.first_position,
          rows.row_count,
          0,
          0};
}

std::span<std::byte> PlanWriter::step(StepId step, std::span<const SequenceId> ids, const BatchRows& rows,
                                      int micro_batches) {
  BATON_CHECK(ids.size() == rows.sequences.size() && ids.size() <= slots_.size() / 2);
  BATON_CHECK(rows.keep.size() == rows.logit_rows.size());
  BATON_CHECK(rows.draws.empty() || rows.draws.size() == rows.logit_rows.size());
  ++steps_;
  records_.clear();
  added_.clear();
  draws_.clear();
  changes_.clear();
  size_t logit = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const kernels::SequenceRows& sequence = rows.sequences[i];
    PlanRecord& record = records_.emplace_back(record_of(ids[i], sequence));
    const int32_t end = sequence.first_row + sequence.row_count;
    for (; logit < rows.logit_rows.size() && rows.logit_rows[logit] < end; ++logit, ++record.logit_rows)
      record.keep = rows.keep[logit];
    BATON_CHECK(record.keep == BatchRows::kAllLogits || record.logit_rows == 1);
    if (record.keep == BatchRows::kAllLogits || rows.draws.empty()) continue;
    const DrawRow& draw = rows.draws[logit - 1];
    if (draw.wanted != 0)
      add_draw(static_cast<uint32_t>(i), draw,
               std::span(rows.changes).subspan(draw.first_change, draw.changes));
  }
  sends_.clear();
  for (const BatchRows::Send& s : rows.sends)
    sends_.push_back({s.sequence, static_cast<uint32_t>(s.transfer.value()),
                      static_cast<uint32_t>(s.transfer.value() >> 32)});
  PlanHead head{.kind = PlanKind::kStep,
                .micro_batches = static_cast<uint16_t>(micro_batches),
                .step = step.value(),
                .rows = static_cast<uint32_t>(rows.tokens.size()),
                .sequences = static_cast<uint32_t>(records_.size()),
                .added = static_cast<uint32_t>(added_.size()),
                .sends = static_cast<uint32_t>(sends_.size()),
                .draws = static_cast<uint32_t>(draws_.size()),
                .changes = static_cast<uint32_t>(changes_.size())};
  head.bytes = static_cast<uint32_t>(message_bytes(head));
  if (message_.size() < head.bytes) message_.resize(head.bytes);
  std::byte* to = message_.data();
  put(to, std::span<const PlanHead>(&head, 1));
  put<PlanRecord>(to, records_);
  put<PlanDraw>(to, draws_);
  put<TokenId>(to, rows.tokens);
  put<BlockId>(to, added_);
  put<PlanSend>(to, sends_);
  put<PlanChange>(to, changes_);
  return std::span(message_).first(head.bytes);
}

void PlanWriter::add_draw(uint32_t sequence, const DrawRow& draw, std::span<const LogitChange> changes) {
  draws_.push_back({.uniform = draw.uniform,
                    .temperature = draw.temperature,
                    .top_p = draw.top_p,
                    .min_p = draw.min_p,
                    .repetition = draw.repetition,
                    .frequency = draw.frequency,
                    .presence = draw.presence,
                    .sequence = sequence,
                    .changes = static_cast<uint32_t>(changes.size())});
  for (const LogitChange& c : changes)
    changes_.push_back({c.id, c.bias, static_cast<uint32_t>(c.count) << 3 | static_cast<uint32_t>(c.flags)});
}

std::span<std::byte> PlanWriter::bare(PlanKind kind) {
  const PlanHead head{.kind = kind};
  std::memcpy(message_.data(), &head, sizeof head);
  return std::span(message_).first(sizeof head);
}

PlanReader::PlanReader(const PlanLimits& limits) : limits_(limits), slots_(limits.slots()) {}

absl::StatusOr<PlanHead> PlanReader::head(std::span<const std::byte> first) const {
  PlanHead head;
  if (first.size() < sizeof head) return wrong("cut off");
  std::memcpy(&head, first.data(), sizeof head);
  if (head.magic != PlanHead::kMagic) return wrong("not a plan");
  if (head.kind != PlanKind::kStep && head.kind != PlanKind::kBeat && head.kind != PlanKind::kStop)
    return wrong(cat("kind ", static_cast<int>(head.kind)));
  const auto rows = static_cast<int64_t>(head.rows);
  const int64_t tables = rows * (limits_.max_positions / limits_.block_tokens + 1);
  if (rows > limits_.max_rows || head.sequences > head.rows || head.added > tables ||
      head.sends > head.sequences || head.draws > head.sequences ||
      head.changes > head.draws * most_changes(limits_.vocab))
    return wrong(cat(head.rows, " rows, ", head.sequences, " sequences, ", head.added, " blocks"));
  if (head.kind == PlanKind::kStep && (rows == 0 || head.micro_batches == 0)) return wrong("an empty step");
  if (head.bytes != message_bytes(head)) return wrong(cat(head.bytes, " bytes"));
  return head;
}

absl::Status PlanReader::step(std::span<const std::byte> message, BatchRows& out) {
  ASSIGN_OR_RETURN(const PlanHead head, this->head(message));
  if (message.size() != head.bytes || head.kind != PlanKind::kStep) return wrong("no step");
  ++steps_;
  out.clear();
  const std::byte* records = message.data() + sizeof head;
  const std::byte* draws = records + head.sequences * sizeof(PlanRecord);
  const std::byte* tokens = draws + head.draws * sizeof(PlanDraw);
  const std::byte* blocks = tokens + head.rows * sizeof(TokenId);
  for (uint32_t r = 0; r < head.rows; ++r) {
    const auto token = get<TokenId>(tokens, r);
    if (token < 0 || token >= limits_.vocab) return wrong(cat("token ", token));
    out.tokens.push_back(token);
  }
  const std::byte* sends = blocks + head.added * sizeof(BlockId);
  RETURN_IF_ERROR(read_sends(head, sends, out));
  std::vector<BlockId> added(head.added);
  if (head.added > 0) std::memcpy(added.data(), blocks, head.added * sizeof(BlockId));
  std::span<const BlockId> rest = added;
  for (uint32_t s = 0; s < head.sequences; ++s) {
    const auto record = get<PlanRecord>(records, s);
    if (record.added > rest.size()) return wrong("more new blocks than it has");
    RETURN_IF_ERROR(read_record(record, rest.first(record.added), out));
    rest = rest.subspan(record.added);
  }
  if (!rest.empty() || out.positions.size() != head.rows) return wrong("rows or blocks of no sequence");
  return read_draws(head, draws, sends + head.sends * sizeof(PlanSend), out);
}

absl::Status PlanReader::read_sends(const PlanHead& head, const std::byte* sends, BatchRows& out) const {
  for (uint32_t i = 0; i < head.sends; ++i) {
    const auto send = get<PlanSend>(sends, i);
    if (send.sequence >= head.sequences) return wrong(cat("transfer of sequence ", send.sequence));
    out.sends.push_back({send.sequence, TransferId(uint64_t{send.transfer_high} << 32 | send.transfer_low)});
  }
  return absl::OkStatus();
}

absl::Status PlanReader::read_draws(const PlanHead& head, const std::byte* draws, const std::byte* changes,
                                    BatchRows& out) const {
  for (uint32_t i = 0; i < head.changes; ++i) {
    const auto change = get<PlanChange>(changes, i);
    out.changes.push_back({.id = change.id,
                           .bias = change.bias,
                           .count = static_cast<int32_t>(change.count_and_flags >> 3),
                           .flags = static_cast<int32_t>(change.count_and_flags & kFlags)});
  }
  if (head.draws > 0) out.draws.resize(out.logit_rows.size());
  size_t first_change = 0, logit = 0;
  for (uint32_t i = 0; i < head.draws; ++i) {
    const auto draw = get<PlanDraw>(draws, i);
    if (draw.sequence >= head.sequences || draw.changes > out.changes.size() - first_change)
      return wrong(cat("draw of sequence ", draw.sequence, " with ", draw.changes, " changes"));
    const kernels::SequenceRows& sequence = out.sequences[draw.sequence];
    while (logit < out.logit_rows.size() && out.logit_rows[logit] < sequence.first_row) ++logit;
    const bool has = logit < out.logit_rows.size() &&
                     out.logit_rows[logit] < sequence.first_row + sequence.row_count &&
                     out.keep[logit] != BatchRows::kAllLogits && out.draws[logit].wanted == 0;
    const DrawRow row = draw_row(draw, first_change);
    if (!has || !may_be_told(row, std::span(out.changes).subspan(first_change, draw.changes), limits_.vocab))
      return wrong(cat("draw of sequence ", draw.sequence));
    out.draws[logit] = row;
    first_change += draw.changes;
  }
  for (size_t r = 0; r < out.keep.size(); ++r)
    if (out.keep[r] == BatchRows::kDrawn && (out.draws.empty() || !(out.draws[r].temperature > 0)))
      return wrong("a row that nobody draws");
  return first_change == out.changes.size() ? absl::OkStatus() : wrong("changes of no row");
}

absl::Status PlanReader::read_record(const PlanRecord& record, std::span<const BlockId> added,
                                     BatchRows& out) {
  if (record.slot >= slots_.size()) return wrong(cat("slot ", record.slot));
  Slot& slot = slots_[record.slot];
  if (slot.used == steps_ || record.kept > slot.table.size())
    return wrong(cat("table of slot ", record.slot));
  for (const BlockId block : added)
    if (block.value() >= limits_.blocks) return wrong(cat("block ", block.value()));
  slot.used = steps_;
  slot.table.resize(record.kept);
  slot.table.insert(slot.table.end(), added.begin(), added.end());
  const int64_t end = int64_t{record.first_position} + record.row_count;
  const int64_t room =
      std::min(limits_.max_positions, static_cast<int64_t>(slot.table.size()) * limits_.block_tokens);
  const auto rows_left = static_cast<int64_t>(out.tokens.size() - out.positions.size());
  if (record.first_position < 0 || record.row_count < 1 || record.row_count > rows_left || end > room)
    return wrong(cat("rows ", record.first_position, " + ", record.row_count));
  if (record.logit_rows < 0 || record.logit_rows > record.row_count)
    return wrong(cat(record.logit_rows, " logit rows"));
  if (record.keep < BatchRows::kDrawn || record.keep > most_candidates(limits_.vocab) ||
      (record.keep != BatchRows::kAllLogits && record.logit_rows != 1))
    return wrong(cat("keep ", record.keep));
  const auto first_row = static_cast<int32_t>(out.positions.size());
  for (int32_t i = 0; i < record.row_count; ++i) out.positions.push_back(record.first_position + i);
  out.sequences.push_back({first_row, record.row_count, record.first_position, slot.table});
  for (int32_t i = record.row_count - record.logit_rows; i < record.row_count; ++i)
    out.logit_rows.push_back(first_row + i);
  out.keep.resize(out.logit_rows.size(), record.keep);
  return absl::OkStatus();
}

}  // namespace baton::worker
