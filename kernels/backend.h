#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "base/status.h"
#include "kernels/draw_rows.h"
#include "kernels/logit_blocks.h"

namespace baton::kernels {

// A weight matrix as it lies in the model file: [rows][cols], cols contiguous, in the encoding of `type`.
// y[r] = sum over c of w[r][c] * x[c]. Borrowed from the mapped file. Some columns of a matrix are a view too
// (weight_slice.h): its rows are further apart than they are long.
struct WeightView {
  DType type = DType::kF32;
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  size_t row_stride = 0;  // bytes from a row to the next one; 0 = rows follow each other
  // F8_E4M3: weight = number * scale of its 128 x 128 weights; float [rows / 128][cols / 128] of the whole
  // matrix, rounded up, of which this view begins with row `first_row`.
  const float* block_scales = nullptr;
  int64_t first_row = 0;
};

struct LinearSpec {
  std::vector<WeightView> parts;  // stacked along rows (q, k, v or gate, up); equal cols
  std::vector<float> bias;        // [rows of all parts], or empty
  // The sum over cols is cut into this many equal segments, each a chain of its own, combined by one fixed
  // binary tree (sum_tree in cpu/contract.h). 1 for column-parallel layers. Part of the numeric contract:
  // docs/adr/0005.
  int k_shards = 1;
};

// Weights in the layout the backend computes with. Immutable, owned by the model.
class Linear {
 public:
  virtual ~Linear() = default;
  virtual int64_t rows() const = 0;
  virtual int64_t cols() const = 0;
  virtual size_t bytes() const = 0;  // memory one pass over the weights reads
};

class Embedding {
 public:
  virtual ~Embedding() = default;
};

struct RopeSpec {
  std::vector<double> inv_freq;  // [dims/2]; angle = position * inv_freq[i], computed in double
  double magnitude = 1.0;        // multiplies cos and sin (YaRN's attention factor)
  bool interleaved =
      false;  // pairs (2i, 2i+1), else (i, i + dims/2); dims beyond 2*inv_freq.size() pass through
  int64_t max_positions = 0;
};

struct AttentionSpec {
  int heads = 0;
  int kv_heads = 0;  // divides heads
  int head_dim = 0;
  float scale = 0;  // multiplies q.k, normally head_dim^-0.5
  int window = 0;   // a token sees the last `window` positions, itself included; 0 = all
};

enum class KvType : uint8_t { kF32, kBF16, kF16, kInt8 };
// Bytes of one token's key (or value) of one head. int8: a code per dimension, filled up to whole words, and
// the float32 scale of them all.
inline constexpr int kv_vector_bytes(KvType type, int head_dim) {
  if (type == KvType::kInt8) return (head_dim + 3) / 4 * 4 + 4;
  return head_dim * (type == KvType::kF32 ? 4 : 2);
}

// One pool: [layer][block][piece], where piece = K and V of block_tokens tokens of all KV heads of one layer.
// A run of adjacent blocks of one layer is contiguous: the unit of transfer. The order inside a piece is the
// backend's (layout_name) and part of the KV layout hash. Example SmolLM2, bf16, 16 tokens: piece = 2 * 3
// heads * 16 * 64 * 2 B = 12,288 B; a block over 30 layers 360 KiB.
struct KvGeometry {
  int layers = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int block_tokens = 16;
  KvType type = KvType::kBF16;
  int64_t blocks = 0;

  size_t piece_bytes() const { return size_t{2} * kv_heads * block_tokens * kv_vector_bytes(type, head_dim); }
  size_t layer_bytes() const { return piece_bytes() * blocks; }
  size_t pool_bytes() const { return layer_bytes() * layers; }
  size_t piece_offset(int layer, BlockId block) const {
    return layer * layer_bytes() + block.value() * piece_bytes();
  }
};

// Rows of one sequence in a step: consecutive rows, ascending positions.
struct SequenceRows {
  int32_t first_row = 0;
  int32_t row_count = 0;
  int32_t first_position = 0;
  std::span<const BlockId> blocks;  // entry i holds positions [i*block_tokens, (i+1)*block_tokens)
};

// What one step computes. All spans live until the step ends.
struct StepBatch {
  std::span<const TokenId> tokens;     // [rows]
  std::span<const int32_t> positions;  // [rows]
  std::span<const SequenceRows> sequences;
  std::span<const int32_t> logit_rows;  // rows whose logits are wanted, ascending
  // For a backend that draws(): one for each logit row, or none at all (then every row's logits are wanted).
  std::span<const DrawRow> draws = {};
  std::span<const LogitChange> changes = {};
  // Whether somebody reads a layer's KV as soon as rope_attention() says `stored`. If nobody does, it may be
  // said early, and the backend's threads need not wait for one another.
  bool awaits_layers = true;
  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }
};

// An activation tensor [rows][width] in memory from allocate().
struct RowTensor {
  float* values = nullptr;
  int64_t width = 0;
};

struct NormWeights {
  std::span<const float> weight;
  float eps = 1e-5f;
};

struct RopeAttention {
  int layer = 0;
  const NormWeights* q_norm = nullptr;  // per head; nullptr = none
  const NormWeights* k_norm = nullptr;
};

// Rows that several ranks made together, as a residual takes them: residual[r][i] += y[r][i] + bias[i].
struct RowSum {
  int64_t rows = 0;
  int64_t width = 0;
  const float* y = nullptr;
  std::span<const float> bias;  // [width], or empty
  float* residual = nullptr;
};

// What an all-gather leaves, [parts][rows][width], to be put side by side: out[rows][parts * width].
struct RowParts {
  int64_t parts = 0;
  int64_t rows = 0;
  int64_t width = 0;
  const float* gathered = nullptr;
  float* out = nullptr;
};

// The arithmetic of one rank: every operation on activations that a model needs, fused as far as the bits
// allow. Each result depends on its own row, its sequence's KV and the weights only, never on how many rows
// the step has (design I1): rows may be cut into steps in any way with the same bits. Activations are
// float32, row-major [rows][dim], memory from allocate(). Thread: the engine thread calls; the backend may
// use threads of its own inside a call. Errors: construction returns Status; operations cannot fail, except
// that a device error is kept and returned by finish_step().
class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string description() const = 0;  // "cpu avx512-vnni, 2 threads"
  // Two workers with equal ids compute equal bits from equal weights: backend, contract version, type of the
  // KV pool.
  virtual std::string numerics_id(KvType kv) const = 0;
  virtual std::string kv_layout_name() const = 0;
  // Weights, KV and activations lie in the machine's own memory; else in the device's, which the backend
  // plans itself, and the pool of attach_kv() is where the KV of other workers comes and goes.
  virtual bool in_host_memory() const { return true; }

  virtual absl::StatusOr<std::unique_ptr<Linear>> make_linear(const LinearSpec& spec) = 0;
  // Memory that make_linear() will take.
  virtual size_t packed_bytes(const LinearSpec& spec) const = 0;
  // The view (and its file mapping) must outlive the embedding.
  virtual absl::StatusOr<std::unique_ptr<Embedding>> make_embedding(const WeightView& table) = 0;
  virtual absl::Status set_attention(const AttentionSpec& attention, const RopeSpec& rope) = 0;
  // The pool must outlive the backend; its content is undefined until written.
  virtual absl::Status attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) = 0;
  // 64-byte aligned floats that live as long as the backend; the content is zero.
  virtual float* allocate(size_t floats) = 0;

  virtual void begin_step(const StepBatch& batch) = 0;
  // The operations of a step, called in `body`, without waking and collecting the backend's threads for each
  // of them: body may run on several threads at once, which must make the same calls. What is not an
  // operation belongs to the one for which leads() is true.
  virtual void run_together(absl::FunctionRef<void()> body) { body(); }
  virtual bool leads() const { return true; }
  // out[rows][cols of the table]
  virtual void embed(const Embedding& table, float* out) = 0;
  // out[rows][linear.rows] = linear(rms_norm(x[rows][linear.cols]))
  virtual void norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) = 0;
  // qkv[rows][(heads + 2*kv_heads) * head_dim]: norms q and k per head when weights are given (Qwen3),
  // rotates both, writes k and v of `layer` into the pool, leaves the rotated q in place.
  virtual void rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) = 0;
  // out[rows][heads*head_dim]; q as rope_store left it. Causal, over the sequence's pool blocks.
  virtual void attention(int layer, const float* qkv, float* out) = 0;
  // rope_store and attention, which a backend may do in one go; the content of qkv afterwards is undefined.
  // `stored` is called once, on the thread that leads, when k and v of `layer` are in the pool (or before:
  // StepBatch::awaits_layers).
  virtual void rope_attention(const RopeAttention& call, float* qkv, float* out,
                              absl::FunctionRef<void()> stored) {
    rope_store(call.layer, call.q_norm, call.k_norm, qkv);
    if (leads()) stored();
    attention(call.layer, qkv, out);
  }
  // residual[rows][linear.rows] += linear(x[rows][linear.cols])
  virtual void linear_add(const Linear& linear, const float* x, float* residual) = 0;
  // h = gate_up(rms_norm(x)), gate_up.rows = 2F: out[rows][F] = silu(h[:F]) * h[F:]
  virtual void gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) = 0;
  // residual[rows] += down(gate_up(rms_norm(residual))): the bits of gate_up and linear_add, which a backend
  // may do in one go. scratch[rows][F]; its content afterwards is undefined.
  virtual void feed_forward(const NormWeights& norm, const Linear& first, const Linear& down, float* residual,
                            float* scratch) {
    gate_up(norm, first, residual, scratch);
    linear_add(down, scratch, residual);
  }
  // For a rank that holds a part of a layer: out[rows][linear.rows] = linear(x[rows][linear.cols]), the bits
  // that linear_add would add.
  virtual void linear_part(const Linear& linear, const float* x, float* out) = 0;
  // These two and alone() are made for activations in host memory here.
  virtual void add_rows(const RowSum& sum) {
    alone([&] { add_rows_on_host(sum); });
  }
  virtual void join_rows(const RowParts& parts) {
    alone([&] { join_rows_on_host(parts); });
  }
  // Between two operations: `work` once, by the thread for which leads() is true, while the others wait. For
  // what the ranks say to each other.
  virtual void alone(absl::FunctionRef<void()> work) { work(); }
  // The rest of the step concerns the logit rows only: moves them to the front of each tensor, in order.
  // Afterwards row i of x, residual and out is logit row i, and nothing but linear_add, feed_forward and head
  // may follow. After the last layer's attention nobody reads the other rows any more.
  virtual void keep_logit_rows(std::span<const RowTensor> tensors) = 0;
  // Rows that the backend draws from are not written.
  virtual void head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) = 0;
  virtual absl::Status finish_step() = 0;
  // Whether the backend draws tokens where the logits are, so that they need not come to the host; of the
  // last finished step: what it drew, by logit row. Nothing when the step had no draws.
  virtual bool draws() const { return false; }
  virtual std::span<const DrawnToken> drawn() const { return {}; }
  // By logit row, where one was asked for (DrawRow::report) and a token was drawn; nothing when none was.
  virtual std::span<const DrawReport> reports() const { return {}; }

  // For what the host does with the logits (sampling): work(i, thread) for every i in [0, count), on up to
  // host_threads() threads at once, which compute nothing else between two operations. Returns when all is
  // done.
  virtual int host_threads() const { return 1; }
  virtual void run_on_host(int count, absl::FunctionRef<void(int i, int thread)> work) {
    for (int i = 0; i < count; ++i) work(i, 0);
  }

 protected:
  static void add_rows_on_host(const RowSum& sum);
  static void join_rows_on_host(const RowParts& parts);
};

// How bf16 weights and a bf16 KV pool are multiplied: widened, by float32 multiply-adds, or rounded
// activations by bf16 dots, twice as fast where there is an instruction. A numerics class each, with the same
// bits on every instruction set. The "reference" device knows floats only, "cuda" bf16 dots (of its own, the
// same for every batch) and what is fastest for the step at hand: then a row's bits depend on its batch.
enum class Numerics : uint8_t { kFloat, kBrainDots, kFastest };

struct BackendOptions {
  std::string device = "cpu";  // cpu, reference, cuda (kernels/cuda/device_name.h)
  int threads = 1;
  std::vector<int> cpus;  // pin thread i to cpus[i]; empty = not pinned
  Numerics numerics = Numerics::kFloat;
  // Tests only: "scalar", "avx2", "avx2-vnni", "avx512" (no VNNI), "avx512-vnni" (no bf16 dots); empty = the
  // best there is.
  std::string isa_limit;
};

// Defined in select_cpu.cc; cuda comes from a shared object of its own (cuda_library.h).
absl::StatusOr<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

// R of the numeric contract for a row-parallel layer with `cols` inputs: KV heads, at most 8, lowered until
// cols/R is a multiple of 64. SmolLM2: o_proj 3 x 192, down_proj 3 x 512.
int k_shards_for(int kv_heads, int64_t cols);

}  // namespace baton::kernels
