#include "kernels/cpu/paged_attention.h"

#include <algorithm>
#include <numeric>

namespace baton::kernels::cpu {
namespace {

constexpr int kChunkTiles = contract::kChunk / 16;
constexpr int kAskedRows = 3;  // fewer rows read a plain stream of weights, which KV would only hold up

}  // namespace

int PagedAttention::tile_rows() const { return std::max(1, kAttendPairs / share()); }

int PagedAttention::first_seen(int position) const {
  return spec_.window > 0 ? std::max(0, position - spec_.window + 1) : 0;
}

void PagedAttention::plan(const StepBatch& batch, const KvPool& kv, const RowShares& shares) {
  batch_ = batch;
  geometry_ = kv.geometry();
  by_rows_ = shares.by_rows();
  items_.clear();
  groups_.clear();
  dealt_.clear();
  own_dealt_.assign(1, 0);
  pieces_.clear();
  own_pieces_.assign(1, 0);
  fuses_ = !by_rows_ &&
           std::ranges::all_of(batch.sequences, [](const SequenceRows& s) { return s.row_count == 1; });
  if (!by_rows_) add_shared_items();
  for (int thread = 0; thread < pool_.size() && by_rows_; ++thread) add_own_items(shares.of(thread));
  add_own_pieces(kv);
  size_t partials = 0;
  for (const Item& item : items_)
    if (item.partial >= 0) partials = std::max<size_t>(partials, item.partial + item.rows * share());
  if (partial_states_.size() < partials) partial_states_.resize(partials);
  partial_sums_.grow(partials * padded_dim(geometry_.head_dim) * sizeof(float));
  scratch_.grow(scratch_floats() * pool_.size() * sizeof(float));
}

// Few rows.
void PagedAttention::add_shared_items() {
  add_items(false);
  const bool few = static_cast<int>(items_.size()) < 4 * pool_.size() && pool_.size() > 1;
  if (few && std::ranges::any_of(items_, [](const Item& i) { return i.last_chunk > i.first_chunk; }))
    add_items(true);
  deal();
}

// Positions that some row of the item sees.
Share PagedAttention::seen_by(const Item& item) const {
  const int position = batch_.sequences[item.sequence].first_position + item.row;
  return {std::max(first_seen(position), item.first_chunk * contract::kChunk),
          std::min(position + item.rows, (item.last_chunk + 1) * contract::kChunk)};
}

int64_t PagedAttention::cost(const Item& item) const {
  constexpr int64_t kItself = 32;  // positions that cost as much as an item without any
  const Share seen = seen_by(item);
  return kItself + seen.end - seen.begin;
}

// The longest first, each to the thread that has least so far.
void PagedAttention::deal() {
  const int count = static_cast<int>(items_.size());
  longest_.resize(count);
  std::iota(longest_.begin(), longest_.end(), 0);
  std::ranges::sort(longest_, [this](int a, int b) {
    const int64_t first = cost(items_[a]), second = cost(items_[b]);
    return first != second ? first > second : a < b;
  });
  loads_.assign(pool_.size(), 0);
  dealt_to_.resize(count);
  for (const int item : longest_) {
    const auto least = std::ranges::min_element(loads_);
    *least += cost(items_[item]);
    dealt_to_[item] = static_cast<int>(least - loads_.begin());
  }
  for (int thread = 0; thread < pool_.size(); ++thread) {
    for (int item = 0; item < count; ++item)
      if (dealt_to_[item] == thread) dealt_.push_back(item);
    own_dealt_.push_back(dealt_.size());
  }
}

// The tile of rows from `row` of a sequence, which ends before `row_end` at the latest; of KV head 0.
PagedAttention::Item PagedAttention::tile_of(int sequence, int row, int64_t row_end) const {
  const int position = batch_.sequences[sequence].first_position + row;
  Item item = {.sequence = sequence, .row = row, .partial = -1};
  item.rows = static_cast<int>(std::min<int64_t>(tile_rows(), row_end - row));
  item.first_chunk = first_seen(position) / contract::kChunk;
  item.last_chunk = (position + item.rows - 1) / contract::kChunk;
  return item;
}

// Head by head, so that a head's keys stay in the cache while the tiles of rows pass.
void PagedAttention::add_own_items(Share rows) {
  for (size_t s = 0; s < batch_.sequences.size(); ++s) {
    const SequenceRows& sequence = batch_.sequences[s];
    const int64_t begin = std::max<int64_t>(0, rows.begin - sequence.first_row);
    const int64_t end = std::min<int64_t>(sequence.row_count, rows.end - sequence.first_row);
    for (int head = 0; head < spec_.kv_heads && begin < end; ++head)
      for (int64_t row = begin; row < end; row += tile_rows()) {
        dealt_.push_back(static_cast<int>(items_.size()));
        items_.push_back(tile_of(static_cast<int>(s), static_cast<int>(row), end));
        items_.back().kv_head = head;
      }
  }
  own_dealt_.push_back(dealt_.size());
}

// As much as the caches may hold until it is read: the second one; with the third when all matrices ask.
void PagedAttention::add_own_pieces(const KvPool& kv) {
  const size_t held_bytes = (by_rows_ ? 1024 : 384) * size_t{1024};
  const size_t head_bytes = geometry_.piece_bytes() / geometry_.kv_heads;
  for (int thread = 0; thread < pool_.size(); ++thread) {
    const size_t most = pieces_.size() + held_bytes / head_bytes;
    const Item* before = nullptr;
    for (size_t i = own_dealt_[thread]; i < own_dealt_[thread + 1]; ++i) {
      const Item& item = items_[dealt_[i]];
      const bool again = before != nullptr && by_rows_ && before->sequence == item.sequence &&
                         before->kv_head == item.kv_head;  // the next tile of rows
      before = &item;
      const std::span<const BlockId> blocks = batch_.sequences[item.sequence].blocks;
      const Share seen = seen_by(item);
      for (int64_t block = seen.begin / geometry_.block_tokens;
           !again && block * geometry_.block_tokens < seen.end && pieces_.size() < most; ++block)
        pieces_.push_back(kv.first_piece(blocks[block]) + item.kv_head * head_bytes);
    }
    own_pieces_.push_back(pieces_.size());
  }
}

LinesAhead PagedAttention::lines_ahead(int thread, int layer) const {
  constexpr int kLines = 4;  // more would delay the weights: measured at 32 rows and at 8
  if (batch_.rows() < kAskedRows || layer >= geometry_.layers) return {};
  return {.next = pieces_.data() + own_pieces_[thread],
          .end = pieces_.data() + own_pieces_[thread + 1],
          .offset = static_cast<int64_t>(layer * geometry_.layer_bytes()),
          .piece_bytes = static_cast<int64_t>(geometry_.piece_bytes() / geometry_.kv_heads),
          .lines = kLines};
}

void PagedAttention::add_items(bool split) {
  items_.clear();
  int partial = 0;
  for (size_t s = 0; s < batch_.sequences.size(); ++s) {
    const int row_count = batch_.sequences[s].row_count;
    for (int row = 0; row < row_count; row += tile_rows()) {
      const Item tile = tile_of(static_cast<int>(s), row, row_count);
      for (int head = 0; head < spec_.kv_heads; ++head) {
        Item item = tile;
        item.kv_head = head;
        if (!split) {
          items_.push_back(item);
          continue;
        }
        groups_.push_back({static_cast<int>(items_.size()), tile.last_chunk - tile.first_chunk + 1});
        for (int chunk = tile.first_chunk; chunk <= tile.last_chunk; ++chunk) {
          item.first_chunk = item.last_chunk = chunk;
          item.partial = partial;
          partial += item.rows * share();
          items_.push_back(item);
        }
      }
    }
  }
}

size_t PagedAttention::scratch_floats() const {
  const int pairs = tile_rows() * share();
  return attend_scratch_floats(pairs, spec_.head_dim) + size_t{1} * pairs * padded_dim(spec_.head_dim) +
         rope_floats();
}

// Rotated queries and a key, on lines of their own.
size_t PagedAttention::rope_floats() const {
  return (size_t{1} * (share() + 1) * spec_.head_dim + 15) / 16 * 16;
}

// A sequence's only row: its queries, rotated.
const float* PagedAttention::prepare_row(const Item& item, const Call& call, float* scratch) const {
  const SequenceRows& sequence = batch_.sequences[item.sequence];
  if (item.last_chunk == sequence.first_position / contract::kChunk)
    call.rope->store_head(*call.rope_call, sequence, 0, item.kv_head, scratch);
  call.rope->rotate_queries(*call.rope_call, sequence.first_row, item.kv_head, scratch);
  return scratch;
}

void PagedAttention::run(const RopeStore& rope, const RopeStore::Call& rope_call, float* out,
                         absl::FunctionRef<void()> stored) {
  const Call call = {rope_call.layer, rope_call.kv, rope_call.qkv, out, &rope, &rope_call};
  pool_.run([&](int thread) { run_items(thread, call); });
  if (pool_.leads()) stored();
  merge(call);
}

void PagedAttention::run(const Call& call) {
  const auto work = [&](int thread) { run_items(thread, call); };
  if (by_rows_) return pool_.run_apart(work);
  pool_.run(work);
  merge(call);
}

void PagedAttention::run_items(int thread, const Call& call) {
  float* scratch = scratch_.as<float>() + thread * scratch_floats();
  const size_t end = own_dealt_[thread + 1];
  for (size_t i = own_dealt_[thread]; i < end; ++i)
    run_item(dealt_[i], dealt_[std::min(i + 1, end - 1)], call, scratch);
}

void PagedAttention::merge(const Call& call) {
  if (groups_.empty()) return;
  pool_.run([&](int thread) {
    const Share share = share_of(static_cast<int64_t>(groups_.size()), thread, pool_.size());
    for (int64_t g = share.begin; g < share.end; ++g) merge_group(groups_[g], call);
  });
}

void PagedAttention::find_tiles(const Item& item, int chunk, const Call& call, Tiles& out) const {
  const SequenceRows& sequence = batch_.sequences[item.sequence];
  const int first = first_seen(sequence.first_position + item.row);
  const int last = sequence.first_position + item.row + item.rows - 1;
  std::fill_n(out.keys, kChunkTiles, nullptr);
  const int end = std::min(last / 16, chunk * kChunkTiles + kChunkTiles - 1);
  for (int t = std::max(first / 16, chunk * kChunkTiles); t <= end; ++t) {
    const KvPool::Tile tile = call.kv->tile(call.layer, sequence.blocks, item.kv_head, t);
    out.keys[t % kChunkTiles] = tile.keys;
    out.values[t % kChunkTiles] = tile.values;
  }
}

void PagedAttention::run_item(int index, int after, const Call& call, float* scratch) {
  const Item& item = items_[index];
  const SequenceRows& sequence = batch_.sequences[item.sequence];
  const int pairs = item.rows * share(), padded = padded_dim(spec_.head_dim);
  const int width = (spec_.heads + 2 * spec_.kv_heads) * spec_.head_dim;
  int32_t first[kAttendPairs], last[kAttendPairs];
  for (int r = 0; r < item.rows; ++r) {
    last[r] = sequence.first_position + item.row + r;
    first[r] = first_seen(last[r]);
  }
  ChunkState own[kMaxAttendPairs];
  const bool partial = item.partial >= 0;
  ChunkState* states = partial ? partial_states_.data() + item.partial : own;
  float* sums = partial ? partial_sums_.as<float>() + int64_t{item.partial} * padded : scratch;
  std::fill_n(states, pairs, ChunkState{});
  AttendTask task = {.rows = item.rows, .share = share(), .head_dim = spec_.head_dim, .scale = spec_.scale};
  task.q = call.rope != nullptr ? prepare_row(item, call, scratch + scratch_floats() - rope_floats())
                                : call.qkv + (sequence.first_row + item.row) * int64_t{width} +
                                      item.kv_head * share() * spec_.head_dim;
  task.q_stride = width;
  task.brain_dots = brain_dots_ && call.kv->geometry().type == KvType::kBF16;
  task.first = first;
  task.last = last;
  task.states = states;
  task.out = sums;
  task.out_stride = padded;
  task.scratch = scratch + int64_t{pairs} * padded;
  if (call.rope != nullptr)
    call.rope->expect_queries(*call.rope_call, batch_.sequences[items_[after].sequence].first_row,
                              items_[after].kv_head);
  Tiles tiles[2];  // of this chunk and of what is probably next: the next chunk or item
  find_tiles(item, item.first_chunk, call, tiles[0]);
  for (task.chunk = item.first_chunk; task.chunk <= item.last_chunk; ++task.chunk) {
    const Tiles& now = tiles[(task.chunk - item.first_chunk) % 2];
    Tiles& next = tiles[(task.chunk - item.first_chunk + 1) % 2];
    const bool same = task.chunk < item.last_chunk;
    find_tiles(same ? item : items_[after], same ? task.chunk + 1 : items_[after].first_chunk, call, next);
    task.kv = {call.kv->geometry().type, now.keys, now.values, next.keys};
    task.brain_dots ? kernels_.attend_brain(task) : kernels_.attend(task);
  }
  if (!partial) finish(item, call, states, sums);
}

void PagedAttention::merge_group(const Group& group, const Call& call) {
  const int padded = padded_dim(spec_.head_dim);
  const Item& first = items_[group.first_item];
  for (int i = 1; i < group.items; ++i) {
    const Item& next = items_[group.first_item + i];
    for (int pair = 0; pair < first.rows * share(); ++pair) {
      const ChunkState& state = partial_states_[next.partial + pair];
      if (!state.started) continue;
      kernels_.merge_attend(partial_states_[first.partial + pair],
                            partial_sums_.as<float>() + int64_t{first.partial + pair} * padded, state,
                            partial_sums_.as<float>() + int64_t{next.partial + pair} * padded,
                            spec_.head_dim);
    }
  }
  finish(first, call, partial_states_.data() + first.partial,
         partial_sums_.as<float>() + int64_t{first.partial} * padded);
}

void PagedAttention::finish(const Item& item, const Call& call, const ChunkState* states, const float* sums) {
  const int64_t row = batch_.sequences[item.sequence].first_row + item.row;
  for (int pair = 0; pair < item.rows * share(); ++pair) {
    const int64_t head = item.kv_head * share() + pair % share();
    float* out = call.out + ((row + pair / share()) * spec_.heads + head) * spec_.head_dim;
    kernels_.finish_attend(states[pair], sums + int64_t{pair} * padded_dim(spec_.head_dim), spec_.head_dim,
                           out);
  }
}

}  // namespace baton::kernels::cpu
