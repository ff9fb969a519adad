#include "kernels/cpu/paged_attention.h"

#include <algorithm>

namespace baton::kernels::cpu {
namespace {

constexpr int kChunkTiles = contract::kChunk / 16;
// Up to so many work items a thread they are dealt out; more are claimed, some at a time: each claim costs a
// line from another core, and evens out what the threads get done.
constexpr int kDealtItems = 4;
constexpr int kClaims = 8;  // of a thread

}  // namespace

int PagedAttention::tile_rows() const { return std::max(1, kAttendPairs / share()); }

int PagedAttention::first_seen(int position) const {
  return spec_.window > 0 ? std::max(0, position - spec_.window + 1) : 0;
}

void PagedAttention::plan(const StepBatch& batch, const KvPool& kv, const RowShares& shares) {
  batch_ = batch;
  geometry_ = kv.geometry();
  items_.clear();
  own_items_.clear();
  pieces_.clear();
  own_pieces_.assign(1, 0);
  groups_.clear();
  fuses_ = !shares.by_rows() &&
           std::ranges::all_of(batch.sequences, [](const SequenceRows& s) { return s.row_count == 1; });
  if (shares.by_rows()) {
    for (int thread = 0; thread < pool_.size(); ++thread) {
      own_items_.push_back(static_cast<int>(items_.size()));
      add_own_items(shares.of(thread));
      add_own_pieces(shares.of(thread), kv);
    }
    own_items_.push_back(static_cast<int>(items_.size()));
  } else {
    plan_shared();
  }
  size_t partials = 0;
  for (const Item& item : items_)
    if (item.partial >= 0) partials = std::max<size_t>(partials, item.partial + item.rows * share());
  if (partial_states_.size() < partials) partial_states_.resize(partials);
  partial_sums_.grow(partials * padded_dim(geometry_.head_dim) * sizeof(float));
  scratch_.grow(scratch_floats() * pool_.size() * sizeof(float));
}

// Few rows: anybody's work.
void PagedAttention::plan_shared() {
  add_items(false);
  const bool few = static_cast<int>(items_.size()) < 4 * pool_.size() && pool_.size() > 1;
  if (few && std::ranges::any_of(items_, [](const Item& i) { return i.last_chunk > i.first_chunk; }))
    add_items(true);
  // The longest first, so that the last item claimed is short.
  if (groups_.empty())
    std::ranges::sort(items_, std::greater{}, [](const Item& i) { return i.last_chunk - i.first_chunk; });
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
        items_.push_back(tile_of(static_cast<int>(s), static_cast<int>(row), end));
        items_.back().kv_head = head;
      }
  }
}

// As much as its second cache may hold until it is read.
void PagedAttention::add_own_pieces(Share rows, const KvPool& kv) {
  constexpr size_t kHeldBytes = 384 * 1024;
  const size_t most = pieces_.size() + kHeldBytes / geometry_.piece_bytes();
  for (const SequenceRows& sequence : batch_.sequences) {
    if (sequence.first_row < rows.begin || sequence.first_row >= rows.end) continue;
    const int first = first_seen(sequence.first_position) / geometry_.block_tokens;
    const int last = (sequence.first_position + sequence.row_count - 1) / geometry_.block_tokens;
    for (int block = first; block <= last && pieces_.size() < most; ++block)
      pieces_.push_back(kv.first_piece(sequence.blocks[block]));
  }
  own_pieces_.push_back(pieces_.size());
}

LinesAhead PagedAttention::lines_ahead(int thread, int layer) const {
  if (own_items_.empty()) return {};
  return {.next = pieces_.data() + own_pieces_[thread],
          .end = pieces_.data() + own_pieces_[thread + 1],
          .offset = static_cast<int64_t>(layer * geometry_.layer_bytes()),
          .piece_bytes = static_cast<int64_t>(geometry_.piece_bytes())};
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
  pool_.run([&](int thread) { run_shared(thread, call, scratch_.as<float>() + thread * scratch_floats()); });
  if (pool_.leads()) stored();
  merge(call);
}

void PagedAttention::run(const Call& call) {
  if (!own_items_.empty()) {
    pool_.run_apart([&](int thread) {
      float* scratch = scratch_.as<float>() + thread * scratch_floats();
      for (int i = own_items_[thread]; i < own_items_[thread + 1]; ++i)
        run_item(i, std::min(i + 1, own_items_[thread + 1] - 1), call, scratch);
    });
    return;
  }
  pool_.run([&](int thread) { run_shared(thread, call, scratch_.as<float>() + thread * scratch_floats()); });
  merge(call);
}

void PagedAttention::merge(const Call& call) {
  if (groups_.empty()) return;
  pool_.run([&](int thread) {
    const Share share = share_of(static_cast<int64_t>(groups_.size()), thread, pool_.size());
    for (int64_t g = share.begin; g < share.end; ++g) merge_group(groups_[g], call);
  });
}

void PagedAttention::run_shared(int thread, const Call& call, float* scratch) {
  const int count = static_cast<int>(items_.size()), threads = pool_.size();
  const auto run = [&](int i) { run_item(i, std::min(i + threads, count - 1), call, scratch); };
  if (count <= kDealtItems * threads) {
    for (int i = thread; i < count; i += threads) run(i);
    return;
  }
  const int step = std::max(1, count / (kClaims * threads));
  int i = next_.fetch_add(step, std::memory_order_relaxed);
  for (; i < count; i = next_.fetch_add(step, std::memory_order_relaxed))
    for (int item = i; item < std::min(i + step, count); ++item) run(item);
  // The last one to find nothing leaves the counter as it was found.
  if (i == ((count + step - 1) / step + threads - 1) * step) next_.store(0, std::memory_order_relaxed);
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
