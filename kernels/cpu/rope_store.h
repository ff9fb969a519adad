#pragma once

#include <vector>

#include "kernels/backend.h"
#include "kernels/cpu/kernels.h"
#include "kernels/cpu/kv_pool.h"

namespace baton::kernels::cpu {

// Norm and rotation of queries and keys, and the way of keys and values into the pool: a row at a time, or a
// row's KV head at a time by the thread that attends to it next. Both give the same bits. Owns the angles: of
// the first positions for ever, once they were reached, and of the step's others. Thread: the backend's
// caller sets and begins steps; the rest any, on different rows.
class RopeStore {
 public:
  explicit RopeStore(const Kernels& kernels) : kernels_(kernels) {}

  void set(const AttentionSpec& attention, const RopeSpec& rope);
  void begin_step(const StepBatch& batch);

  struct Call {
    int layer = 0;
    const KvPool* kv = nullptr;
    const NormWeights* q_norm = nullptr;  // or none
    const NormWeights* k_norm = nullptr;
    float* qkv = nullptr;  // [rows][(heads + 2 * kv_heads) * head_dim]
  };
  // Asks for the lines that store_row() of that row will write: a key has one for every two dimensions.
  void expect_row(const Call& call, const SequenceRows& sequence, int index) const;
  // Row `index` of the sequence; its queries and keys are rotated in place.
  void store_row(const Call& call, const SequenceRows& sequence, int index) const;
  // Queries of one KV head of that row, rotated into q[heads / kv_heads * head_dim].
  void rotate_queries(const Call& call, int64_t row, int kv_head, float* q) const;
  // Asks for what rotate_queries() and store_head() will read of that row.
  void expect_queries(const Call& call, int64_t row, int kv_head) const;
  // Key and value of one KV head of that row into the pool; scratch[head_dim].
  void store_head(const Call& call, const SequenceRows& sequence, int index, int kv_head,
                  float* scratch) const;

 private:
  int64_t width() const { return int64_t{spec_.heads + 2 * spec_.kv_heads} * spec_.head_dim; }
  // cos [pairs], sin [pairs]
  void compute_angles(int32_t position, float* cos) const;
  const float* kept_angles(int32_t position);
  void rotate(const NormWeights* norm, int64_t row, float* head) const;
  void store(const Call& call, const SequenceRows& sequence, int index, int kv_head, const float* key) const;

  const Kernels& kernels_;
  AttentionSpec spec_;
  RopeSpec rope_;
  std::vector<std::vector<float>> kept_;  // pieces of consecutive positions, as compute_angles() gives them
  std::vector<float> far_;                // the same of a step's positions behind those
  std::vector<const float*> angles_;      // [rows] into either
};

}  // namespace baton::kernels::cpu
