#include "kernels/cuda/cuda_backend.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/cat.h"
#include "base/check.h"
#include "base/units.h"
#include "kernels/backend_checks.h"
#include "kernels/cpu/contract.h"
#include "kernels/cuda/hopper_launches.h"
#include "kernels/dequantize.h"

namespace baton::kernels::cuda {
namespace {

using Kind = DeviceBuffer::Kind;

enum Operation : uint64_t {
  kEmbed = 1,
  kNormLinear,
  kRopeStore,
  kAttention,
  kLinearAdd,
  kLinearPart,
  kGateUp,
  kKeep,
  kHead,
  kHeadAndDraw
};

// Partial results of decode attention: chunks of 256 keys beyond which a sequence's chunks are walked by one
// block.
constexpr size_t kPartialBytes = size_t{256} << 20;
// Graphs of all buckets, the runtime's modules, a step's tables, sums that blocks share, a library's
// workspace.
constexpr size_t kReservedBytes = size_t{768} << 20;

bool set_to(const char* name, std::string_view value) {
  const char* text = std::getenv(name);
  return text != nullptr && value == text;
}

// How long a step's kernels may take, in seconds.
Duration patience() {
  const char* text = std::getenv("BATON_CUDA_DEADLINE");
  const double seconds = text == nullptr ? 0 : std::strtod(text, nullptr);
  return from_seconds(seconds > 0 ? seconds : 60.0);
}

absl::Status in(const std::string& what, const absl::Status& status) {
  return status.ok() ? status : absl::Status(status.code(), cat(what, ": ", std::string(status.message())));
}

const CudaLinear& own(const Linear& linear) { return static_cast<const CudaLinear&>(linear); }

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> CudaBackend::create(const BackendOptions& options,
                                                             const DeviceOptions& device) {
  ASSIGN_OR_RETURN(const DeviceName name, DeviceName::parse(options.device));
  if (options.numerics == Numerics::kFloat)
    return absl::InvalidArgumentError(
        "device cuda: numerics f32 is not for it; want bf16dot, invariant or fastest");
  const bool fp8 = device.quantization == Quantization::kFp8, table = !device.algorithms.empty();
  if ((fp8 && table) || (options.numerics == Numerics::kFastest && !device.plain()))
    return absl::InvalidArgumentError(
        "device cuda: quantization fp8 wants numerics bf16dot; invariant and fastest multiply in bf16");
  std::unique_ptr<CudaBackend> backend(new CudaBackend(options, device));
  RETURN_IF_ERROR(backend->open(name, device.algorithms));
  return backend;
}

CudaBackend::CudaBackend(const BackendOptions& options, const DeviceOptions& device)
    : fastest_(options.numerics == Numerics::kFastest), fp8_(device.quantization == Quantization::kFp8) {}

absl::Status CudaBackend::open(const DeviceName& name, const std::string& algorithms) {
  ASSIGN_OR_RETURN(device_, open_device(name));
  RETURN_IF_ERROR(to_status(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "making a stream"));
  outside_.emplace(device_, stream_, patience());
  RETURN_IF_ERROR(matrices_.open(device_));
  if (fp8_ && !matrices_.wgmma())
    return absl::InvalidArgumentError(cat("device cuda: quantization fp8 wants wgmma, which ", device_.name,
                                          " does not have (or BATON_CUDA_WGMMA=0 forbids): quantization none "
                                          "multiplies in bf16, fp8 checkpoints too"));
  if (fastest_) {
    ASSIGN_OR_RETURN(library_, LibraryLinear::open_fastest());
  } else if (!algorithms.empty()) {
    ASSIGN_OR_RETURN(library_, LibraryLinear::open_invariant(algorithms, device_));
  }
  wait_each_ = set_to("BATON_CUDA_SYNC", "1");
  overlap_ = device_.capability >= 90 && !wait_each_ && set_to("BATON_CUDA_PDL", "1");
  use_graphs_ = !wait_each_ && !set_to("BATON_CUDA_GRAPHS", "0");
  ahead_ = !wait_each_ && !set_to("BATON_CUDA_AHEAD", "0");
  return absl::OkStatus();
}

CudaBackend::~CudaBackend() {
  if (stream_ == nullptr) return;
  // Whatever frees memory or streams would wait for the kernel that never ends. The step's error has been
  // told.
  if (outside_.has_value() && outside_->hangs()) std::_Exit(1);
  cudaStreamSynchronize(stream_);
  graphs_.drop();
  outside_.reset();
  cudaStreamDestroy(stream_);
}

std::string CudaBackend::description() const {
  return cat("cuda:", device_.index, " ", device_.name, ", ", device_.processors, " SMs, ",
             format_bytes(device_.memory_total));
}

std::string CudaBackend::advice() const {
  std::string out;
  const auto add = [&](bool used, std::string_view what) {
    if (used) out += cat(out.empty() ? "" : ", ", what);
  };
  add(overlap_, "without BATON_CUDA_PDL=1 kernels do not overlap");
  add(fp8_, "with quantization: none matrices are bf16");
  add(use_graphs_, "with BATON_CUDA_GRAPHS=0 there are no graphs");
  add(matrices_.wgmma(),
      "with BATON_CUDA_WGMMA=0 matrices and attention use mma.sync in the place of wgmma and TMA");
  return out;
}

size_t CudaBackend::own_bytes() const { return kPartialBytes + kReservedBytes; }

std::string CudaBackend::numerics_id(KvType) const {
  const std::string bits = library_ == nullptr ? "" : library_->bits();
  return cat("cuda-",
             fastest_        ? "fastest"
             : !bits.empty() ? cat("invariant-", bits)
             : fp8_          ? "fp8"
                             : "bf16",
             "-", matrices_.name(), "-v4-sm", device_.capability, "/kv-bf16");
}

absl::StatusOr<std::unique_ptr<Linear>> CudaBackend::make_linear(const LinearSpec& spec) {
  RETURN_IF_ERROR(check_linear(spec));
  const PackedShape shape = shape_of(spec);
  if (shape.cols % 4 != 0)  // rows of x start at multiples of 16 bytes
    return absl::InvalidArgumentError(cat("device cuda: ", shape.cols, " columns: want a multiple of 4"));
  graphs_.drop();
  RETURN_IF_ERROR(matrices_.add(shape));
  if (library_ != nullptr) RETURN_IF_ERROR(library_->add(spec, stream_));
  widest_ = std::max({widest_, shape.ld, shape.interleaved ? shape.strips * 16 : 0});
  const bool may_share = spec.parts.size() == 1 && !shape.fp8;
  SharedWeights weights = may_share ? shared_weights_[spec.parts[0].data].lock() : nullptr;
  if (weights == nullptr) {
    ASSIGN_OR_RETURN(weights, pack_weights(spec, shape));
  }
  if (may_share) shared_weights_[spec.parts[0].data] = weights;
  DeviceBuffer bias;
  if (!spec.bias.empty()) {
    const size_t bytes = spec.bias.size() * sizeof(float);
    ASSIGN_OR_RETURN(bias, DeviceBuffer::make(Kind::kDevice, bytes, "a bias"));
    RETURN_IF_ERROR(copy_to_device(bias.data(), spec.bias.data(), bytes, "copying a bias"));
  }
  return std::make_unique<CudaLinear>(shape, std::move(weights), std::move(bias));
}

absl::StatusOr<std::unique_ptr<Embedding>> CudaBackend::make_embedding(const WeightView& table) {
  RETURN_IF_ERROR(check_embedding(table));
  const LinearSpec spec = {.parts = {table}, .bias = {}, .k_shards = 1};
  const PackedShape shape = packed_shape(spec);
  ASSIGN_OR_RETURN(SharedWeights weights, pack_weights(spec, shape));
  shared_weights_[table.data] = weights;  // a tied head finds them
  return std::make_unique<CudaEmbedding>(shape, std::move(weights));
}

absl::Status CudaBackend::set_attention(const AttentionSpec& attention, const RopeSpec& rope) {
  RETURN_IF_ERROR(check_attention(attention, rope));
  if (attention.head_dim % 8 != 0)
    return absl::InvalidArgumentError(
        cat("device cuda: head_dim ", attention.head_dim, ": want a multiple of 8"));
  graphs_.drop();  // they point to the angles
  attention_ = attention;
  rope_ = rope;
  // The angles of every position, as the CPU has them: cos, sin of each pair.
  std::vector<float> table(static_cast<size_t>(rope.max_positions) * rope.inv_freq.size() * 2);
  float* to = table.data();
  for (int64_t p = 0; p < rope.max_positions; ++p)
    for (const double frequency : rope.inv_freq) {
      const auto r = contract::rotation(static_cast<int32_t>(p), frequency, rope.magnitude);
      *to++ = r.cos, *to++ = r.sin;
    }
  const size_t bytes = table.size() * sizeof(float);
  ASSIGN_OR_RETURN(rotations_, DeviceBuffer::make(Kind::kDevice, bytes, "angles of positions"));
  RETURN_IF_ERROR(copy_to_device(rotations_.data(), table.data(), bytes, "copying angles"));
  const auto prepare = matrices_.wgmma() ? prepare_hopper_attention : prepare_attention;
  return to_status(prepare(attention.head_dim, device_.processors, attention_grid_),
                   "preparing the attention kernels");
}

absl::Status CudaBackend::attach_kv(std::span<std::byte> pool, const KvGeometry& geometry) {
  // Of the pool only the place matters; the one that is computed with is the device's.
  RETURN_IF_ERROR(check_kv({pool.data(), geometry.pool_bytes()}, geometry, attention_));
  if (geometry.type != KvType::kBF16) return absl::InvalidArgumentError("device cuda: kv.dtype: want bf16");
  if (kChunkKeys % geometry.block_tokens != 0 || geometry.block_tokens % 16 != 0)
    return absl::InvalidArgumentError(
        cat("device cuda: kv.blockTokens ", geometry.block_tokens, ": want 16, 32, 64, 128 or 256"));
  graphs_.drop();  // and to the pool
  ASSIGN_OR_RETURN(const DeviceMemory before, outside_->memory());
  const absl::Status memory = outside_->take_pool(geometry.pool_bytes());
  if (!memory.ok())
    return absl::ResourceExhaustedError(
        cat("device cuda: kv.memory asks for ", format_bytes(geometry.pool_bytes()), "; behind the weights ",
            format_bytes(before.free), " of ", format_bytes(before.total), " are free: lower kv.memory"));
  geometry_ = geometry;
  if (!has_tile_attention(geometry.head_dim)) return absl::OkStatus();
  const size_t slot = sizeof(float) * 16 * (geometry.head_dim + 2);
  slots_ = static_cast<int32_t>(kPartialBytes / slot);
  return reserve(partials_, Kind::kDevice, slots_ * slot, "partial results of attention");
}

// A graph's bucket may have more rows than the largest step: the copy engine brings them too, so they have to
// be somewhere.
float* CudaBackend::allocate(size_t floats) {
  const size_t idle = static_cast<size_t>(kMostIdleRows) * widest_;
  absl::StatusOr<DeviceBuffer> buffer =
      DeviceBuffer::make(Kind::kDevice, (floats + idle) * sizeof(float), "activations");
  BATON_CHECK(buffer.ok(), "device cuda: no memory for activations: lower batch.tokens or kv.memory");
  memory_.push_back(*std::move(buffer));
  return memory_.back().as<float>();
}

void CudaBackend::note(const absl::Status& status) {
  if (error_.ok() && !status.ok())
    error_ = absl::Status(status.code(), cat("step ", step_, ": ", std::string(status.message())));
}

void CudaBackend::launched(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) note(to_status(error, cat("kernel ", kernel)));
  if (wait_each_ && error_.ok()) note(in(cat("kernel ", kernel), outside_->await_kernels()));
}

absl::Status CudaBackend::reserve(DeviceBuffer& buffer, Kind kind, size_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return absl::OkStatus();
  // What has been enqueued may compute with it, and graphs point to it.
  if (buffer.data() != nullptr) RETURN_IF_ERROR(outside_->await_kernels());
  graphs_.drop();
  buffer = DeviceBuffer();
  ASSIGN_OR_RETURN(buffer, DeviceBuffer::make(kind, bytes, what));
  return absl::OkStatus();
}

// Read by the host after a step, not by graphs.
absl::Status CudaBackend::reserve_pinned(DeviceBuffer& buffer, size_t bytes, const char* what) {
  if (buffer.bytes() >= bytes) return absl::OkStatus();
  buffer = DeviceBuffer();
  ASSIGN_OR_RETURN(buffer, DeviceBuffer::make(Kind::kPinned, bytes, what));
  return absl::OkStatus();
}

absl::Status CudaBackend::grow_tables() {
  if (capacity_.grow_to(batch_, work_)) graphs_.drop();
  const StepLayout layout(capacity_);
  RETURN_IF_ERROR(reserve_pinned(latest().tables, layout.bytes(), "a step's tables"));
  RETURN_IF_ERROR(reserve(device_tables_, Kind::kDevice, layout.bytes(), "a step's tables"));
  tables_ = layout.tables(device_tables_.data());
  return grow_drawn();
}

// What the step before drew stays: rows of this one are fed with it.
absl::Status CudaBackend::grow_drawn() {
  RETURN_IF_ERROR(reserve(device_reports_, Kind::kDevice, capacity_.rows * sizeof(DrawReport),
                          "reports of drawn tokens"));
  const size_t bytes = capacity_.rows * sizeof(DrawnToken);
  if (device_drawn_.bytes() >= bytes) return absl::OkStatus();
  RETURN_IF_ERROR(reserve(device_drawn_, Kind::kDevice, bytes, "drawn tokens"));
  if (running_ == 0 || flights_[oldest_].draws == 0) return absl::OkStatus();
  const Flight& before = flights_[oldest_];
  return copy_to_device(device_drawn_.data(), before.drawn.data(), before.draws * sizeof(DrawnToken),
                        "keeping drawn tokens");
}

absl::Status CudaBackend::grow_scratch() {
  const size_t row = static_cast<size_t>(rows_) * widest_;
  RETURN_IF_ERROR(reserve(normed_, Kind::kDevice, 2 * row, "normed rows"));
  RETURN_IF_ERROR(reserve(row_scales_, Kind::kDevice, sizeof(float) * rows_, "scales of rows"));
  return library_ != nullptr ? reserve(products_, Kind::kDevice, 4 * row, "gate and up") : absl::OkStatus();
}

void CudaBackend::begin_step(const StepBatch& batch) {
  check_batch(batch, geometry_);
  BATON_CHECK(running_ < flights_.size() && !open_, "too many steps under way");
  batch_ = batch;
  open_ = true;
  outside_->begin_step();
  ++step_;
  kept_ = false;
  logits_ = {};
  // Whoever made the backend may have been another thread, and each has a current device of its own.
  error_ = to_status(cudaSetDevice(device_.index), "choosing the device");
  if (!error_.ok()) return;
  const int share = attention_.heads / attention_.kv_heads;
  work_.build(batch, {attention_.kv_heads, share, attention_.window, slots_});
  int32_t bucket = use_graphs_ && is_decode_step(batch) ? bucket_for(batch.rows()) : 0;
  // The library computes every row it is told of: only a full bucket is safe with it.
  if (library_ != nullptr && bucket != batch.rows()) bucket = 0;
  rows_ = bucket > 0 ? bucket : batch.rows();
  tells_layers_ = bucket == 0 && batch.awaits_layers;
  note(grow_tables());
  note(grow_scratch());
  if (!error_.ok()) return;
  const StepLayout layout(capacity_);
  const size_t bytes = layout.fill(batch, work_, fed_, latest().tables.data());
  note(to_status(
      cudaMemcpyAsync(device_tables_.data(), latest().tables.data(), bytes, cudaMemcpyHostToDevice, stream_),
      "copying the step's tables"));
  if (error_.ok()) note(graphs_.begin_step(bucket, stream_).status());
}

LayerKv CudaBackend::layer_kv(int layer) {
  return {.pool = reinterpret_cast<uint16_t*>(outside_->kv_pool().data() + layer * geometry_.layer_bytes()),
          .kv_heads = geometry_.kv_heads,
          .head_dim = geometry_.head_dim,
          .block_tokens = geometry_.block_tokens};
}

const float* CudaBackend::norm_weights(const NormWeights& norm) {
  DeviceNorm& known = norms_[norm.weight.data()];
  if (std::ranges::equal(known.host, norm.weight)) return known.device.as<float>();
  known.host.assign(norm.weight.begin(), norm.weight.end());
  note(reserve(known.device, Kind::kDevice, norm.weight.size_bytes(), "norm weights"));
  if (!error_.ok()) return nullptr;
  note(copy_to_device(known.device.data(), known.host.data(), norm.weight.size_bytes(),
                      "copying norm weights"));
  return known.device.as<float>();
}

Fp8Rows CudaBackend::fp8_rows(const Linear& linear) const {
  return {normed_.as<unsigned char>(), own(linear).shape.ld, row_scales_.as<float>()};
}

LinearArgs CudaBackend::normed_rows(const NormWeights& norm, const Linear& linear, const Rows& rows) {
  const PackedShape& shape = own(linear).shape;
  const float* weight = norm_weights(norm);
  const NormArgs args = {.x = rows.x,
                         .weight = weight,
                         .eps = norm.eps,
                         .width = static_cast<int>(norm.weight.size()),
                         .index = rows.index,
                         .count = rows.count,
                         .out = normed_.as<uint16_t>(),
                         .ld = shape.ld};
  LinearArgs out = {.x = normed_.as<uint16_t>(), .ldx = shape.ld, .count = rows.count};
  if (shape.fp8) out.ldx /= 2, out.x_scales = row_scales_.as<float>();
  if (!error_.ok()) return out;
  shape.fp8 ? launch_norm_quantise(args, fp8_rows(linear), rows_, launches())
            : launch_norm(args, rows_, launches());
  launched("norm");
  return out;
}

LinearArgs CudaBackend::stored_rows(const Linear& linear, const float* x) {
  const auto* stored = reinterpret_cast<const uint16_t*>(x);
  const PackedShape& shape = own(linear).shape;
  if (!shape.fp8) return {.x = stored, .ldx = 2 * linear.cols(), .count = count()};
  if (error_.ok()) {
    launch_quantise({stored, 2 * linear.cols(), shape.cols, count(), fp8_rows(linear)}, rows_, launches());
    launched("quantise");
  }
  return {.x = normed_.as<uint16_t>(),
          .ldx = shape.ld / 2,
          .count = count(),
          .x_scales = row_scales_.as<float>()};
}

void CudaBackend::multiply(const Linear& linear, LinearArgs args) {
  const CudaLinear& own_linear = own(linear);
  const LinearArgs layer = own_linear.arguments();
  args.weights = layer.weights;
  args.rows = layer.rows, args.strips = layer.strips, args.cols = layer.cols, args.ld = layer.ld;
  args.interleaved = layer.interleaved;
  args.bias = layer.bias;
  args.weight_scales = layer.weight_scales;
  if (!error_.ok()) return;
  const bool library =
      library_ != nullptr && args.bias == nullptr && (args.mode == LinearOut::kSilu || !args.interleaved);
  if (library) return multiply_by_library(own_linear, args);
  note(matrices_.multiply(args, rows_, launches()));
  launched("linear");
}

void CudaBackend::multiply_by_library(const CudaLinear& linear, const LinearArgs& args) {
  const bool silu = args.mode == LinearOut::kSilu;
  const int64_t packed = int64_t{linear.shape.strips} * 16;
  note(library_->multiply(linear,
                          {.x = args.x,
                           .ldx = args.ldx,
                           .out = silu ? products_.as<float>() : static_cast<float*>(args.out),
                           .ldo = silu ? packed : args.ldo,
                           .rows = rows_,
                           .add = args.mode == LinearOut::kAdd},
                          stream_));
  if (!silu || !error_.ok()) return;
  launch_silu({.h = products_.as<float>(),
               .width = linear.shape.rows / 2,
               .ldh = packed,
               .count = args.count,
               .out = static_cast<uint16_t*>(args.out),
               .ldo = args.ldo},
              rows_, launches());
  launched("silu");
}

void CudaBackend::embed(const Embedding& table, float* out) {
  if (!graphs_.announce(kEmbed, &table, out) || !error_.ok()) return;
  const auto& e = static_cast<const CudaEmbedding&>(table);
  launch_embed(tables_,
               {e.table->as<uint16_t>(), e.shape.cols, e.shape.ld, out, device_drawn_.as<DrawnToken>()},
               rows_, launches());
  launched("embed");
}

void CudaBackend::norm_linear(const NormWeights& norm, const Linear& linear, const float* x, float* out) {
  if (!graphs_.announce(kNormLinear, &linear, out)) return;
  LinearArgs args = normed_rows(norm, linear, {x, nullptr, count()});
  args.mode = LinearOut::kStore, args.out = out, args.ldo = linear.rows();
  multiply(linear, args);
}

void CudaBackend::rope_store(int layer, const NormWeights* q_norm, const NormWeights* k_norm, float* qkv) {
  if (!graphs_.announce(kRopeStore, reinterpret_cast<const void*>(static_cast<intptr_t>(layer)), qkv)) return;
  const float* q_weight = q_norm == nullptr ? nullptr : norm_weights(*q_norm);
  const float* k_weight = k_norm == nullptr ? nullptr : norm_weights(*k_norm);
  if (!error_.ok()) return;
  launch_rope_store(tables_,
                    {.qkv = qkv,
                     .rotations = rotations_.as<float>(),
                     .q_norm = q_weight,
                     .k_norm = k_weight,
                     .eps = q_norm != nullptr ? q_norm->eps : 0,
                     .heads = attention_.heads,
                     .pairs = static_cast<int>(rope_.inv_freq.size()),
                     .interleaved = rope_.interleaved,
                     .kv = layer_kv(layer)},
                    rows_, launches());
  launched("rope_store");
  if (tells_layers_ && error_.ok()) note(outside_->note_stored());
}

void CudaBackend::attention(int layer, const float* qkv, float* out) {
  joins_outputs_ = false;
  if (!graphs_.announce(kAttention, qkv, out) || !error_.ok()) return;
  const AttentionArgs args = {.qkv = qkv,
                              .out = reinterpret_cast<uint16_t*>(out),
                              .heads = attention_.heads,
                              .share = attention_.heads / attention_.kv_heads,
                              .window = attention_.window,
                              .scale = attention_.scale,
                              .kv = layer_kv(layer),
                              .partials = partials_.as<float>()};
  if (!has_tile_attention(attention_.head_dim))
    launch_plain_attention(tables_, args, rows_, launches());
  else if (matrices_.wgmma())
    note(attend_by_wgmma(args));
  else
    launch_tile_attention(tables_, args, attention_grid_, launches());
  launched("attention");
}

absl::Status CudaBackend::attend_by_wgmma(const AttentionArgs& args) {
  const int64_t vectors = geometry_.blocks * 2 * geometry_.kv_heads * geometry_.block_tokens;
  const int box = std::min(geometry_.block_tokens, kTileKeys), dim = geometry_.head_dim;
  ASSIGN_OR_RETURN(const TensorMap pool, make_tensor_map({args.kv.pool, vectors, dim, dim, box}));
  launch_hopper_attention({pool, tables_, args, attention_grid_}, launches());
  launch_merge(tables_, args, attention_grid_, launches());
  return absl::OkStatus();
}

void CudaBackend::linear_add(const Linear& linear, const float* x, float* residual) {
  if (!graphs_.announce(kLinearAdd, &linear, residual)) return;
  LinearArgs args = stored_rows(linear, x);
  args.mode = LinearOut::kAdd, args.out = residual, args.ldo = linear.rows();
  multiply(linear, args);
}

void CudaBackend::linear_part(const Linear& linear, const float* x, float* out) {
  joins_outputs_ = true;
  if (!graphs_.announce(kLinearPart, &linear, out)) return;
  LinearArgs args = stored_rows(linear, x);
  args.mode = LinearOut::kStore, args.out = out, args.ldo = linear.rows();
  multiply(linear, args);
}

void CudaBackend::gate_up(const NormWeights& norm, const Linear& gate_up, const float* x, float* out) {
  joins_outputs_ = false;
  if (!graphs_.announce(kGateUp, &gate_up, out)) return;
  BATON_CHECK(own(gate_up).shape.interleaved, "gate and up are two equal parts");
  LinearArgs args = normed_rows(norm, gate_up, {x, nullptr, count()});
  args.mode = LinearOut::kSilu, args.out = out, args.ldo = gate_up.rows();
  multiply(gate_up, args);
}

void CudaBackend::add_rows(const RowSum& sum) {
  const float* bias = sum.bias.empty() ? nullptr : norm_weights({.weight = sum.bias});
  if (!error_.ok() || sum.rows == 0) return;
  launch_add_rows({sum.y, bias, sum.residual, static_cast<int>(sum.width)}, static_cast<int>(sum.rows),
                  launches());
  launched("add_rows");
}

void CudaBackend::join_rows(const RowParts& parts) {
  if (!error_.ok() || parts.rows == 0) return;
  launch_join_rows({.gathered = parts.gathered,
                    .out = parts.out,
                    .parts = static_cast<int>(parts.parts),
                    .rows = parts.rows,
                    .width = static_cast<int>(parts.width),
                    .bf16 = !joins_outputs_},
                   launches());
  launched("join_rows");
}

// What ranks say to each other goes to the same stream, by calls that a replayed graph would not make: a
// group has no graphs. The first step of any bucket is eager, so none was captured before this is known.
void CudaBackend::alone(absl::FunctionRef<void()> work) {
  use_graphs_ = false;
  work();
}

void CudaBackend::keep_logit_rows(std::span<const RowTensor> tensors) {
  for (const RowTensor& tensor : tensors) {
    if (!graphs_.announce(kKeep, tensor.values, nullptr) || !error_.ok()) continue;
    launch_keep_rows(tables_, tensor.values, static_cast<int>(tensor.width), launches());
    launched("keep_rows");
  }
  kept_ = true;
  rows_ = std::max<int32_t>(1, static_cast<int32_t>(batch_.logit_rows.size()));
}

void CudaBackend::head(const NormWeights& norm, const Linear& linear, const float* x, const LogitRows& out) {
  logits_ = out;
  vocabulary_ = linear.rows();
  if (!graphs_.announce(batch_.draws.empty() ? kHead : kHeadAndDraw, &linear, x)) return;
  if (!kept_ && batch_.logit_rows.size() < batch_.tokens.size())
    rows_ = static_cast<int32_t>(batch_.logit_rows.size());
  note(reserve(device_logits_, Kind::kDevice, rows_ * vocabulary_ * sizeof(float), "logits"));
  LinearArgs args =
      normed_rows(norm, linear, {x, kept_ ? nullptr : tables_.logit_rows, tables_.counts + kLogitRows});
  args.mode = LinearOut::kStore, args.out = device_logits_.data(), args.ldo = vocabulary_;
  multiply(linear, args);
  if (batch_.draws.empty() || !error_.ok()) return;
  launch_draw(tables_,
              {device_logits_.as<float>(), static_cast<int>(vocabulary_), device_drawn_.as<DrawnToken>(),
               device_reports_.as<DrawReport>()},
              rows_, launches());
  launched("draw");
}

// What the host asked for: tokens, and the logits of rows that were not drawn from.
void CudaBackend::fetch_logits(Flight& flight) {
  const auto copy = [&](std::byte* to, const std::byte* from, size_t bytes, const char* what) {
    if (error_.ok()) note(to_status(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream_), what));
  };
  const size_t row = vocabulary_ * sizeof(float), rows = batch_.logit_rows.size();
  for (size_t i = 0; i < rows; ++i)
    if (batch_.draws.empty() || batch_.draws[i].wanted == 0) flight.shown.push_back(static_cast<int64_t>(i));
  flight.draws = batch_.draws.size();
  if (flight.draws > 0) {
    const size_t bytes = rows * sizeof(DrawnToken);
    note(reserve_pinned(flight.drawn, bytes, "drawn tokens"));
    copy(flight.drawn.data(), device_drawn_.data(), bytes, "copying drawn tokens");
  }
  const bool reports =
      std::ranges::any_of(batch_.draws, [](const DrawRow& d) { return d.wanted != 0 && d.report >= 0; });
  flight.reported = reports ? rows : 0;
  if (reports) {
    note(reserve_pinned(flight.reports, rows * sizeof(DrawReport), "reports of drawn tokens"));
    copy(flight.reports.data(), device_reports_.data(), rows * sizeof(DrawReport), "copying reports");
  }
  note(reserve_pinned(flight.logits, flight.shown.size() * row, "logits"));
  std::byte* to = flight.logits.data();
  for (const int64_t i : flight.shown) {
    copy(to, device_logits_.data() + i * row, row, "copying logits");
    to += row;
  }
}

void CudaBackend::hand_out_logits(const Flight& flight) {
  const auto* from = flight.logits.as<float>();
  for (const int64_t i : flight.shown) {
    const LogitRows row = flight.to.from(i, flight.vocabulary);
    std::memcpy(row.values, from, flight.vocabulary * sizeof(float));
    row.look_over(1, flight.vocabulary);
    from += flight.vocabulary;
  }
}

void CudaBackend::launch_step() {
  if (!open_) return;
  Flight& flight = latest();
  flight.step = step_;
  flight.rows = batch_.tokens.size(), flight.sequences = batch_.sequences.size();
  flight.draws = flight.reported = 0;
  flight.shown.clear();
  flight.to = logits_;
  flight.vocabulary = vocabulary_;
  const absl::Status ended =
      graphs_.end_step(stream_);  // also after an error, so that a capture does not stay open
  note(ended);
  if (logits_.values != nullptr && error_.ok()) fetch_logits(flight);
  if (error_.ok()) note(outside_->end_step());
  flight.error = error_;
  batch_ = {};
  fed_ = {};
  open_ = false;
  ++running_;
}

absl::Status CudaBackend::finish_step() {
  launch_step();
  BATON_CHECK(running_ > 0);
  Flight& flight = flights_[oldest_];
  const absl::Status waited = outside_->await_step();
  oldest_ = (oldest_ + 1) % flights_.size();
  --running_;
  finished_ = &flight;
  if (!flight.error.ok()) return flight.error;
  if (!waited.ok())
    return in(cat("step ", flight.step, ": one of the step's kernels (BATON_CUDA_SYNC=1 names it), ",
                  flight.rows, " rows of ", flight.sequences, " sequences"),
              waited);
  hand_out_logits(flight);
  return absl::OkStatus();
}

}  // namespace baton::kernels::cuda
