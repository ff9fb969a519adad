#pragma once

#include <array>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/backend.h"
#include "kernels/cuda/cuda_device.h"
#include "kernels/cuda/cuda_linear.h"
#include "kernels/cuda/launches.h"
#include "kernels/cuda/library_linear.h"
#include "kernels/cuda/matrix_kernels.h"
#include "kernels/cuda/step_graphs.h"
#include "kernels/cuda/step_layout.h"
#include "kernels/device_options.h"

namespace baton::kernels::cuda {

// The backend of an NVIDIA GPU. Operations are enqueued on one stream and return; finish_step() waits once,
// brings the logits and the first error, which names the kernel. A step's tables go over in one copy before
// it. A second step may be launched behind the first, with rows whose tokens that one draws
// (BATON_CUDA_AHEAD=0: one at a time). Decode steps are replayed as graphs (BATON_CUDA_GRAPHS=0: never).
// BATON_CUDA_PDL=1 lets a kernel start while the one before it ends (launch_stream.h). BATON_CUDA_SYNC=1
// waits after every kernel, to see which one failed. BATON_CUDA_DEADLINE: seconds (60) after which a step
// that has not ended is an error; the process ends with the backend then.
//
// Memory: weights, KV pool, activations and scratch are the device's. Rows that attention() and gate_up()
// write hold bf16 in the first half of each row of floats, which is what linear_add() reads; the residual
// stream and q, k, v are float32. Of the pool of attach_kv() only the size is used: the one that is computed
// with is the device's (cuda_device.h), and the other is where its KV comes through on its way (lane
// `staged`).
//
// Tokens are drawn on the device (draw_kernels.cuh), and what log-probabilities are made of is found there;
// logits come to the host for rows that want them.
//
// Numerics: kBrainDots = the kernels of this folder, the same bits in every batch; with quantization fp8 (a
// class of its own, Hopper only) layers of several matrices or several K shards have e4m3 weights and
// activations, the head has not; with `algorithms` (invariant) and kFastest cuBLASLt multiplies where there
// is no bias, by the table or by its own choice (library_linear.h). Thread: the engine's. Errors: as Backend;
// memory that is used up names what it was for.
class CudaBackend final : public DeviceBackend {
 public:
  static absl::StatusOr<std::unique_ptr<Backend>> create(const BackendOptions& options,
                                                         const DeviceOptions& device);
  ~CudaBackend() override;

  std::string description() const override;
  std::string advice() const override;
  std::string numerics_id(KvType kv) const override;
  std::string kv_layout_name() const override { return "cuda-kv-heads"; }
  bool in_host_memory() const override { return false; }
  size_t own_bytes() const override;
  Device& device() override { return *outside_; }
  // Partial sums of these kernels are not one rank's: its chain over K ascends, it is no tree of shards.
  bool splits_inputs() const override { return fastest_; }

  absl::StatusOr<std::unique_ptr<Linear>> make_linear(const LinearSpec& spec) override;
  size_t packed_bytes(const LinearSpec& spec) const override { return shape_of(spec).bytes(); }
  absl::StatusOr<std::unique_ptr<Embedding>> make_embedding(const WeightView& table) override;
  absl::Status set_attention(const AttentionSpec& attention, const RopeSpec& rope) override;
  absl::Status attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) override;
  float* allocate(size_t floats) override;

  void begin_step(const StepBatch& batch) override;
  void embed(const Embedding& table, float* out) override;
  void norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) override;
  void rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) override;
  void attention(int layer, const float* qkv, float* out) override;
  void linear_add(const Linear& linear, const float* x, float* residual) override;
  void linear_part(const Linear& linear, const float* x, float* out) override;
  void gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) override;
  void add_rows(const RowSum& sum) override;
  void join_rows(const RowParts& parts) override;
  void alone(absl::FunctionRef<void()> work) override;
  void keep_logit_rows(std::span<const RowTensor> tensors) override;
  void head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) override;
  void launch_step() override;
  absl::Status finish_step() override;
  bool feeds_back() const override { return ahead_; }
  void feed(std::span<const int32_t> logit_rows) override { fed_ = logit_rows; }
  bool draws() const override { return true; }
  std::span<const DrawnToken> drawn() const override {
    return {finished_->drawn.as<DrawnToken>(), finished_->draws};
  }
  std::span<const DrawReport> reports() const override {
    return {finished_->reports.as<DrawReport>(), finished_->reported};
  }

 private:
  struct DeviceNorm {
    std::vector<float> host;
    DeviceBuffer device;
  };

  // What the host keeps of a step until it is finished: memory that the device copies from and to, and what
  // it will find there.
  struct Flight {
    DeviceBuffer tables, logits, drawn, reports;
    uint64_t step = 0;
    size_t rows = 0, sequences = 0, draws = 0, reported = 0;
    std::vector<int64_t> shown;  // logit rows that come to the host ...
    LogitRows to;                // ... and go there
    int64_t vocabulary = 0;
    absl::Status error;
  };

  CudaBackend(const BackendOptions& options, const DeviceOptions& device);
  PackedShape shape_of(const LinearSpec& spec) const {
    const bool layer = spec.parts.size() > 1 || spec.k_shards > 1;
    return packed_shape(spec, fp8_ && layer ? PackedType::kFp8 : PackedType::kBrain);
  }
  absl::Status open(const DeviceName& name, const std::string& algorithms);
  LaunchStream launches() const { return {stream_, overlap_}; }
  // Keeps the first error of the step.
  void note(const absl::Status& status);
  // After a launch: its error, with the kernel's name.
  void launched(const char* kernel);
  absl::Status grow_tables();
  absl::Status grow_scratch();
  absl::Status reserve(DeviceBuffer& buffer, DeviceBuffer::Kind kind, size_t bytes, const char* what);
  absl::Status reserve_pinned(DeviceBuffer& buffer, size_t bytes, const char* what);
  // The weights on the device; null after an error.
  const float* norm_weights(const NormWeights& norm);
  int64_t qkv_width() const {
    return int64_t{attention_.heads + 2 * attention_.kv_heads} * attention_.head_dim;
  }
  LayerKv layer_kv(int layer);
  const int32_t* count() const { return tables_.counts + (kept_ ? kLogitRows : kRows); }
  // The step's rows as `linear` reads them: normed (those in `index` when there is one), or stored by another
  // operation.
  struct Rows {
    const float* x;
    const int32_t* index;
    const int32_t* count;
  };
  LinearArgs normed_rows(const NormWeights& norm, const Linear& linear, const Rows& rows);
  LinearArgs stored_rows(const Linear& linear, const float* x);
  Fp8Rows fp8_rows(const Linear& linear) const;
  absl::Status attend_by_wgmma(const AttentionArgs& args);
  void multiply(const Linear& linear, LinearArgs args);
  Flight& latest() { return flights_[(oldest_ + running_) % flights_.size()]; }
  absl::Status grow_drawn();
  void fetch_logits(Flight& flight);
  static void hand_out_logits(const Flight& flight);
  void multiply_by_library(const CudaLinear& linear, const LinearArgs& args);

  const bool fastest_, fp8_;
  bool wait_each_ = false;
  bool use_graphs_ = true;
  bool overlap_ = false;  // BATON_CUDA_PDL=1
  bool ahead_ = true;
  DeviceProperties device_;
  cudaStream_t stream_ = nullptr;
  std::optional<CudaDevice> outside_;
  MatrixKernels matrices_;
  std::unique_ptr<LibraryLinear> library_;  // numerics invariant and fastest
  std::vector<DeviceBuffer> memory_;        // allocate()
  std::map<const std::byte*, std::weak_ptr<const DeviceBuffer>> shared_weights_;
  std::map<const float*, DeviceNorm> norms_;
  AttentionSpec attention_;
  RopeSpec rope_;
  KvGeometry geometry_;
  DeviceBuffer rotations_, partials_;
  AttentionGrid attention_grid_;
  int32_t slots_ = 0;
  int widest_ = 64;  // columns of the widest row that a norm, a quantisation or an interleaved layer fills

  StepBatch batch_;
  std::span<const int32_t> fed_;
  WorkList work_;
  StepCapacity capacity_;
  DeviceBuffer device_tables_;
  StepTables tables_;
  DeviceBuffer normed_, row_scales_, products_, device_logits_, device_drawn_, device_reports_;
  std::array<Flight, 2>
      flights_;  // a ring: `running_` launched ones from oldest_ on, then the one in the making
  size_t oldest_ = 0, running_ = 0;
  const Flight* finished_ = nullptr;  // the last one
  bool open_ = false;                 // a step is in the making
  StepGraphs graphs_;
  int32_t rows_ = 0;  // that grids are made for: the step's, or its bucket
  bool kept_ = false;
  bool tells_layers_ = false;  // the step is no graph: await_stored() knows its layers
  bool joins_outputs_ =
      false;  // what ranks gather next was written by linear_part(): floats, else bf16 halves
  uint64_t step_ = 0;
  LogitRows logits_;        // of the caller, when the step has any
  int64_t vocabulary_ = 0;  // of the head
  absl::Status error_;
};

}  // namespace baton::kernels::cuda
