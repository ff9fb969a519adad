#pragma once

#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "kernels/backend.h"
#include "kernels/cpu/aligned_buffer.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_pool.h"
#include "kernels/cpu/rope_store.h"
#include "kernels/cpu/row_shares.h"
#include "kernels/cpu/thread_pool.h"

namespace baton::kernels::cpu {

// Attention of a step: cuts it into work items (sequence, KV head, tile of rows), which are those of a
// thread's own rows (RowShares) or else dealt out; or, when those are too few for the threads, into single
// chunks whose results are merged in ascending order afterwards. All give the same bits. plan() once per
// step, run() once per layer; threads with rows of their own leave it one by one. Thread: the backend's
// caller; run() uses the pool.
class PagedAttention {
 public:
  PagedAttention(const Kernels& kernels, ThreadPool& pool, bool brain_dots)
      : kernels_(kernels), pool_(pool), brain_dots_(brain_dots) {}

  void set_attention(const AttentionSpec& spec) { spec_ = spec; }
  void plan(const StepBatch& batch, const KvPool& kv, const RowShares& shares);
  // What `thread` will read first of that layer's KV; nothing behind the last layer.
  LinesAhead lines_ahead(int thread, int layer) const;
  // q in qkv[rows][(heads + 2 kv_heads) * head_dim], rotated; out[rows][heads * head_dim]
  void run(int layer, const KvPool& kv, const float* qkv, float* out) { run({layer, &kv, qkv, out}); }
  // The same from qkv as the matrices left it, when fuses(): each item rotates its queries for itself, and
  // the one that sees a sequence's last position stores that position's key and value first. `stored` is
  // called on the leading thread as soon as all have.
  bool fuses() const { return fuses_; }
  void run(const RopeStore& rope, const RopeStore::Call& rope_call, float* out,
           absl::FunctionRef<void()> stored);

 private:
  struct Item {
    int sequence;
    int kv_head;
    int row;  // first, inside the sequence
    int rows;
    int first_chunk;
    int last_chunk;
    int partial;  // index of its first (pair) result, -1 = finishes by itself
  };
  // The items of one tile, to be merged in order.
  struct Group {
    int first_item;
    int items;
  };
  struct Call {
    int layer;
    const KvPool* kv;
    const float* qkv;
    float* out;
    const RopeStore* rope = nullptr;  // with its call: items rotate and store
    const RopeStore::Call* rope_call = nullptr;
  };
  void run(const Call& call);
  void merge(const Call& call);
  const float* prepare_row(const Item& item, const Call& call, float* scratch) const;

  int tile_rows() const;
  int share() const { return spec_.heads / spec_.kv_heads; }
  int first_seen(int position) const;
  Item tile_of(int sequence, int row, int64_t row_end) const;
  void add_own_items(Share rows);
  void add_own_pieces(const KvPool& kv);
  void add_shared_items();
  void add_items(bool split);
  void deal();
  Share seen_by(const Item& item) const;
  int64_t cost(const Item& item) const;
  void run_items(int thread, const Call& call);
  // The tiles of a chunk that the item sees.
  struct Tiles {
    const std::byte* keys[contract::kChunk / 16];
    const std::byte* values[contract::kChunk / 16];
  };
  void find_tiles(const Item& item, int chunk, const Call& call, Tiles& out) const;
  // `after`: the item that this thread runs next
  void run_item(int index, int after, const Call& call, float* scratch);
  void merge_group(const Group& group, const Call& call);
  void finish(const Item& item, const Call& call, const ChunkState* states, const float* sums);
  size_t scratch_floats() const;
  size_t rope_floats() const;

  const Kernels& kernels_;
  ThreadPool& pool_;
  const bool brain_dots_;
  AttentionSpec spec_;
  StepBatch batch_;
  KvGeometry geometry_;
  std::vector<Item> items_;
  bool fuses_ = false;                    // every sequence has one row, and rows are shared
  bool by_rows_ = false;                  // threads run apart
  std::vector<int> dealt_;                // items, thread by thread
  std::vector<size_t> own_dealt_;         // [threads + 1] where each thread's begin
  std::vector<int> longest_;              // of deal(): items
  std::vector<int> dealt_to_;             // thread of each item
  std::vector<int64_t> loads_;            // positions, of each thread
  std::vector<const std::byte*> pieces_;  // of layer 0, thread by thread, in the order of dealt_
  std::vector<size_t> own_pieces_;        // [threads + 1]
  std::vector<Group> groups_;             // empty when items finish by themselves
  std::vector<ChunkState> partial_states_;
  AlignedBuffer partial_sums_;  // [pair results][padded head_dim]
  AlignedBuffer scratch_;       // [threads][scratch_floats()]
};

}  // namespace baton::kernels::cpu
