#pragma once

#include <memory>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_linear.h"
#include "kernels/cpu/paged_attention.h"
#include "kernels/cpu/rope_store.h"
#include "kernels/cpu/row_shares.h"
#include "kernels/cpu/thread_pool.h"

namespace baton::kernels::cpu {

// The fast backend: integer dots on repacked weights, one thread pool, the bits of contract.h on every
// instruction set. In a step of many rows each thread takes its own through all operations (row_shares.h) and
// meets the others once a layer. Otherwise an operation is one or two parallel phases: first the rows (norm,
// quantisation: once per tensor), then the panels. Up to kPrivateRows rows every thread prepares the rows for
// itself, which is cheaper than waiting for one another. Scratch grows in begin_step() only. Owns the pool;
// linears keep no reference to it. Thread: one caller. Errors: as Backend.
class CpuBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> create(const BackendOptions& options);
  CpuBackend(const Kernels& kernels, const BackendOptions& options);

  std::string description() const override;
  std::string numerics_id(KvType kv) const override;
  std::string kv_layout_name() const override { return "kv-head-k16t-v-pairs"; }

  absl::StatusOr<std::unique_ptr<Linear>> make_linear(const LinearSpec& spec) override;
  size_t packed_bytes(const LinearSpec& spec) const override;
  absl::StatusOr<std::unique_ptr<Embedding>> make_embedding(const WeightView& table) override;
  absl::Status set_attention(const AttentionSpec& attention, const RopeSpec& rope) override;
  absl::Status attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) override;
  float* allocate(size_t floats) override;

  void begin_step(const StepBatch& batch) override;
  void run_together(absl::FunctionRef<void()> body) override { pool_.together(body); }
  bool leads() const override { return pool_.leads(); }
  void embed(const Embedding& table, float* out) override;
  void norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) override;
  void rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) override;
  void attention(int layer, const float* qkv, float* out) override;
  void rope_attention(const RopeAttention& call, float* qkv, float* out,
                      absl::FunctionRef<void()> stored) override;
  void linear_add(const Linear& linear, const float* x, float* residual) override;
  void gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) override;
  void linear_part(const Linear& linear, const float* x, float* out) override;
  void add_rows(const RowSum& sum) override;
  void alone(absl::FunctionRef<void()> work) override;
  void keep_logit_rows(std::span<const RowTensor> tensors) override;
  void feed_forward(const NormWeights& norm, const Linear& first, const Linear& down, float* residual,
                    float* scratch) override;
  void head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) override;
  absl::Status finish_step() override { return absl::OkStatus(); }
  int host_threads() const override { return pool_.size(); }
  void run_on_host(int count, absl::FunctionRef<void(int i, int thread)> work) override;

 private:
  // The rows an operation starts from: x[index[r]] or x[r], normed when `norm` is given.
  struct RowSource {
    const float* x = nullptr;
    int64_t rows = 0;
    const NormWeights* norm = nullptr;
    const int32_t* index = nullptr;
  };
  // Prepared rows, one after the other: [rows][cols], codes with their groups, brain
  // [rows][brain_stride(cols)].
  struct PreparedRows {
    float* values;
    int8_t* codes;
    ActivationGroup* groups;
    uint16_t* brain;
    RowTiles tiles = {};    // or none
    int64_t first_row = 0;  // of `tiles`, the first of these
  };
  struct RowBuffer {
    AlignedBuffer values;
    AlignedBuffer codes;
    AlignedBuffer groups;
    AlignedBuffer brain;
    AlignedBuffer tiles;  // CpuBackend::grow_tiles
    void grow(int64_t rows, int64_t cols);
    void grow_codes(int64_t rows, int64_t cols);
    // The place of `row` when rows have `cols` columns.
    PreparedRows from(int64_t row, int64_t cols) const;
  };

  // A thread's part of an operation: all panels for rows of its own, or its share of the panels for all rows.
  struct Part {
    int thread = 0;
    Share rows = {};
    int panels_index = 0;
    int panels_of = 1;
  };
  // `rows` of the source as the linear reads them; `prepared` holds the first of them.
  Activations activations(const PreparedRows& prepared, const RowSource& source, const CpuLinear& linear,
                          Share rows, int thread) const;
  void plan_shares();
  Share rows_of(int thread) const;
  void grow_tiles(int64_t rows);
  // The place in the buffer for a thread's rows (or for everybody's: thread 0) in tiles; none when they are
  // too few, or there are no matrix instructions.
  RowTiles tiles_of_rows(const RowBuffer& buffer, int thread, Share rows, int64_t cols) const;
  // Norms and quantises rows [share.begin, share.end). `order`: order_of() the thread.
  void prepare(const RowSource& source, const CpuLinear& linear, Share share, PreparedRows to,
               WeightOrder* order) const;
  // Prepares the rows, then calls work(part, activations of the part's rows) on every thread.
  template <class Work>
  void with_rows(const RowSource& source, const CpuLinear& linear, const Work& work);
  void multiply(const RowSource& source, const CpuLinear& linear, const CpuLinear::Output& to);
  // Where activated rows go: floats, or quantised for the layer that reads them.
  struct ActivatedRows {
    float* values = nullptr;            // [rows][width], or
    int8_t* codes = nullptr;            // [rows][width]
    ActivationGroup* groups = nullptr;  // [rows][width / 32]
    RowTiles tiles = {};                // or none
    ActivatedRows from(int64_t row, int64_t width) const;
  };
  void run_gate_up(const NormWeights& norm, const CpuLinear& linear, const float* x,
                   const ActivatedRows& out);
  void gate_up_panels(const CpuLinear& linear, Share share, const Activations& x, int thread,
                      const ActivatedRows& out);
  void head_blocks(const CpuLinear& linear, Share blocks, const Activations& x, const LogitRows& out,
                   WeightOrder* order) const;
  void store_rows(const RopeStore::Call& call, Share share) const;
  RopeStore::Call rope_call(const RopeAttention& call, float* qkv) const;
  // The thread's, when it is worth while to ask for weights across matrices, or none.
  WeightOrder* order_of(int thread) { return orders_weights_ ? &ahead_[thread].weights : nullptr; }
  // What matrices far from attention ask for besides: the KV that comes next, of a thread with rows of its
  // own, which has much of it and time in every matrix; or none.
  LinesAhead* early_kv(int thread) { return shares_.by_rows() ? &ahead_[thread].kv : nullptr; }
  void expect_kv(int layer);

  const Kernels& kernels_;
  const bool brain_dots_;
  const double product_rate_;  // of one thread
  ThreadPool pool_;
  WeightArena weights_;
  AttentionSpec attention_;
  RopeStore rope_;
  KvPool kv_;
  PagedAttention paged_attention_;
  StepBatch batch_;
  RowShares shares_;
  std::vector<int32_t> kept_rows_;
  std::vector<AlignedBuffer> memory_;  // allocate()
  int64_t max_cols_ = 0;               // of the linears made so far
  double linear_cost_ = 0;             // of a row through them (CpuLinear::row_cost)
  double linear_bytes_ = 0;
  RowBuffer shared_rows_;
  RowBuffer hidden_rows_;                // of feed_forward, codes only
  std::vector<RowBuffer> private_rows_;  // [threads]
  // What a thread reads next; it may be layers ahead of another one. On lines of its own.
  struct alignas(64) ReadsNext {
    LinesAhead kv;  // of the next attention
    WeightOrder weights;
  };
  std::vector<ReadsNext> ahead_;       // [threads]
  std::vector<AlignedBuffer> opened_;  // [threads] Activations::opened
  bool orders_weights_ = false;
  bool keeps_to_itself_ = false;   // no thread reads KV that another one stores in this step
  AlignedBuffer gate_up_scratch_;  // [threads][gate_up_floats()]
};

}  // namespace baton::kernels::cpu
